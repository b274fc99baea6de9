"""The Laplace evidence: log marginal likelihood of the prior precisions and the observation noise.

MacKay 1992; Immer et al., "Scalable marginal likelihood estimation", ICML 2021; Dhahri et al., NeurIPS 2024
(arXiv 2402.15978). N examples, mode θ, H the curvature of the summed negative log likelihood, D = diag(δ) the
prior precision, temperature T, observation noise s (1 for classes), c = 1 / (s² T):

    log q(D) = log likelihood - ½ [ log det(cH + D) - log det D + θ' D θ ]

The terms in 2π cancel. For classes, and for what holds or not, the log likelihood is -c Σ CE; for real targets it is
-c ½ Σ squared error - N K log(s √(2π)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...architectures.running.modes import evaluating
from ...architectures.units.prunable import trainable
from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Curvature, Diagonal
from ..closed_forms.flat import flat
from ..closed_forms.likelihood import output_model, summed_loss
from ..closed_forms.posteriors import Laplace
from ..curvature.estimate import CurvatureStructure, curvature_of
from ..curvature.output_vectors import CurvatureKind


def log_evidence(
    log_likelihood: Tensor | float,
    curvature: Curvature | Tensor | Mapping[str, Tensor],
    mean: Tensor | Mapping[str, Tensor],
    prior_precision: Tensor | Mapping[str, Tensor] | float,
) -> Tensor:
    """log q(D) in nats, a scalar.

    Args:
        log_likelihood: of the training set at the mode, tempered.
        curvature: cH: its diagonal, as one tensor or by parameter name, or any Curvature.
        mean: θ, in the same form.
        prior_precision: δ > 0, in the same form, or what broadcasts to it.
    """
    theta, delta = _vector(mean), _vector(prior_precision)
    delta = delta.expand_as(theta)
    h = curvature if isinstance(curvature, Curvature) else Diagonal(_vector(curvature))
    return log_likelihood - 0.5 * (h.log_det_ratio(delta) + (delta * theta.square()).sum())


def _vector(value: Tensor | Mapping[str, Tensor] | float) -> Tensor:
    return flat(value) if isinstance(value, Mapping) else torch.as_tensor(value).double().flatten()


def log_likelihood(loss: Tensor, count: int, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Tempered log likelihood of the training set from its summed loss.

    Args:
        loss: Σ CE, or ½ Σ squared error.
        count: N K, how many numbers were observed; read for real targets only.
        noise: their standard deviation s; None for classes. Its normaliser is not tempered.
        temperature: T.

    A scalar, in nats.
    """
    if noise is None:
        return -loss / temperature
    return -loss / (noise.square() * temperature) - count * (noise.log() + 0.5 * math.log(2 * math.pi))


def evidence_of(network: nn.Module, split: Examples, posterior: Laplace, kept: Tensor | None = None) -> Tensor:
    """log q(D) of a network under the prior and the noise of its posterior, in nats; a scalar.

    What is not `kept`, boolean (P,), is no part of the model.
    """
    assert posterior.noise is not None, "the posterior is of no likelihood of the targets"
    with evaluating(network):
        loss = summed_loss(network, split)
    noise = posterior.noise if output_model(split.likelihood).fits_noise else None
    fit = log_likelihood(loss, split.numbers, noise, posterior.temperature)
    curvature = posterior.whole if kept is None else posterior.whole.masked(kept)
    return log_evidence(fit, curvature, posterior.mean, posterior.prior)


@dataclass(frozen=True)
class Evidence:
    """log q at one network, as a function of prior precisions δ, float64 (P,), and of the log noise.

    Attributes:
        curvature: H, untempered, at unit noise.
        squares: θ², (P,), float64.
        loss: Σ CE, or ½ Σ squared error.
        size: N.
        count: N K, for real targets; None for classes, whose noise is 1.
        temperature: T.
    """

    curvature: Curvature
    squares: Tensor
    loss: Tensor
    size: int
    count: int | None
    temperature: float

    def tempered(self, log_noise: Tensor) -> Curvature:
        """cH."""
        return self.curvature.scaled(self._c(log_noise))

    def value(self, delta: Tensor, log_noise: Tensor) -> Tensor:
        """log q in nats; a scalar."""
        noise = None if self.count is None else log_noise.exp()
        fit = log_likelihood(self.loss, self.count or 0, noise, self.temperature)
        ratio = self.tempered(log_noise).log_det_ratio(delta)
        return fit - 0.5 * (ratio + (delta * self.squares).sum())

    def twice_gradient(self, delta: Tensor, gamma: Tensor) -> Tensor:
        """∂ 2 log q / ∂ log δ_i = γ_i - δ_i θ_i², (P,), written over γ; tied precisions add theirs up."""
        return gamma.addcmul_(delta, self.squares, value=-1)

    def noise_gradient(self, effective: Tensor, log_noise: Tensor) -> Tensor:
        """∂ log q / ∂ log s = 2 c ½ Σ error² - N K + Σ γ; a scalar."""
        return 2 * self._c(log_noise) * self.loss - (self.count or 0) + effective

    def fixed_point_noise(self, effective: Tensor) -> Tensor:
        """The noise s at which its gradient vanishes: s² = Σ error² / (T (N K - Σ γ)); a scalar, log s."""
        unexplained = ((self.count or 0) - effective).clamp_min(1)  # numbers that no parameter has used up
        return (2 * self.loss / (self.temperature * unexplained)).sqrt()

    def determined(self, delta: Tensor, log_noise: Tensor) -> Tensor:
        """γ_i = 1 - δ_i [(cH + D)⁻¹]_ii: how far the data, not the prior, determine parameter i; (P,)."""
        return self.tempered(log_noise).determined(delta)

    def _c(self, log_noise: Tensor) -> Tensor:
        return (-2 * log_noise).exp() / self.temperature


@torch.no_grad()
def evidence_at(
    network: nn.Module,
    split: Examples,
    structure: CurvatureStructure,
    kind: CurvatureKind,
    generator: torch.Generator,
    temperature: float = 1.0,
    masks: Mapping[str, Tensor] | None = None,
    examples: int | None = None,
) -> Evidence:
    """The evidence of the present `network`: one pass for the curvature, one for the loss, in evaluation mode.

    Both are taken of as many `examples`, drawn at random, and stand for all.
    """
    parameters = trainable(network)
    part, share = drawn(split, examples)
    curvature = curvature_of(network, part, structure, kind, generator)
    curvature = curvature if share == 1 else curvature.scaled(share)
    with evaluating(network):
        loss = share * summed_loss(network, part)
    return Evidence(
        curvature=curvature.masked(kept_entries(parameters, masks)) if masks else curvature,
        squares=flat(parameters).square_(),
        loss=loss,
        size=split.terms,
        count=split.numbers if output_model(split.likelihood).fits_noise else None,
        temperature=temperature,
    )


def drawn(split: Examples, examples: int | None) -> tuple[Examples, float]:
    """At most so many examples of the split, at random, and for how many each of them stands.

    Drawn from torch's own generator, which is seeded wherever a method scores: each round sees others.
    """
    if examples is None or examples >= len(split):
        return split, 1.0
    part = split[torch.randperm(len(split))[:examples].to(split.device)]
    return part, split.terms / part.terms


def kept_entries(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """Booleans (P,): what a mask has removed is no part of the model."""
    parts = [
        masks[name].to(p.device) if name in masks else torch.ones_like(p, dtype=torch.bool)
        for name, p in parameters.items()
    ]
    return torch.cat([part.flatten() for part in parts])
