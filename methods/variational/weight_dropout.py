"""Sparse variational dropout: every weight learns its own dropout rate, and leaves where the rate is high.

Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017 (arXiv 1701.05369);
Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NIPS 2015 (arXiv
1506.02557). A weight's posterior is N(θ, σ²) with α = σ²/θ², its prior p(log |w|) is constant, and KL depends on
α alone. The prior is improper: KL is defined up to a constant, chosen so that KL → 0 as α → ∞, and the bound is no
evidence to compare models by.

Trained are θ and log σ², not θ and α: noise is then additive, and gradients of θ far less noisy. What leaves loses
mean and variance. Biases are points without a prior, and nothing else is penalised: weight decay would break the
invariance of α under a scale.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ...architectures.units.vector import Units
from ...datasets.errors import UsageError, unknown
from ...datasets.examples import Examples
from ..closed_forms.dawson import exact, slope
from ..closed_forms.posteriors import Gaussian
from .inference import Variational, WarmUp, gradient

logger = logging.getLogger("bayesprune")
Form = Literal["exact", "molchanov"]
Start = Literal["network", "small"]
# Euler's constant; KL → ½ (γ + log 2) - ½ log α as α → 0.
EULER = 0.57721566490153286
LIMIT = 0.5 * (EULER + math.log(2))
# Above this log α the divergence has no gradient (Molchanov et al., published code). A deliberate deviation from that
# code: no lower bound. What passes it while the divergence warms up would feel none ever after, and stay for good.
CLAMP = 8.0
# Dropout rate α / (1 + α) = 0.95.
THRESHOLD = 3.0
# Standard deviation of weights that start small, and what they, or others, start with (see `VariationalDropout`).
SMALL = 0.01

# The warm-up that saves a network of random weights from the whole divergence, and the weight of this.
WHOLE: tuple[tuple[int, int], float] = ((5, 20), 1.0)

INITIAL: dict[Start, float] = {"network": -6.0, "small": -10.0}
# Weights at a time that stay in a processor's cache.
BLOCK = 1 << 14
# Of θ², where θ is 0.
TINY = 1e-16


def kl(log_alpha: Tensor, form: Form | Literal["kingma"] = "exact") -> Tensor:
    """KL(N(θ, α θ²) ‖ log-uniform) of each weight, in nats, in the shape and type of `log_alpha`; differentiable.

    Args:
        log_alpha: log σ² - log θ², any real number; of a weight with θ = 0 it is inf, and KL is 0.
        form: "exact", to rounding. "molchanov": the fit of Molchanov et al., within 0.0094 where |log α| ≤ 10.
            "kingma": the cubic of Kingma et al., for α ≤ 1, within 0.041 (0.0203 up to a constant); not to train
            under, since what leaves has a larger α.

    Raises UsageError for an unknown form, and for "kingma" where log α > 0.
    """
    if form not in FORMS:
        raise unknown("form of the divergence", form, FORMS)
    return FORMS[form](log_alpha)


def molchanov(log_alpha: Tensor) -> Tensor:
    """k₁ - k₁ sigmoid(k₂ + k₃ log α) + ½ log(1 + 1/α)."""
    return 0.63576 * torch.sigmoid(-1.87320 - 1.48695 * log_alpha) + 0.5 * softplus(-log_alpha)


def kingma(log_alpha: Tensor) -> Tensor:
    """C - ½ log α - 1.16145124 α + 1.50204118 α² - 0.58629921 α³, with the exact C of α → 0.

    Elementwise, in nats. Raises UsageError where log α > 0.
    """
    if log_alpha.numel() and log_alpha.detach().max() > 0:
        raise UsageError("the form 'kingma' holds for log_alpha <= 0 only: clamp log_alpha, or use the form 'exact'")
    alpha = log_alpha.exp()
    return LIMIT - 0.5 * log_alpha - alpha * (1.16145124 - alpha * (1.50204118 - 0.58629921 * alpha))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"exact": exact, "molchanov": molchanov, "kingma": kingma}


def log_alpha(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log σ² - log θ², elementwise."""
    return 2 * log_sigma - (mean.square() + TINY).log()


@dataclass
class VariationalDropout(Variational[Gaussian]):
    """Variational dropout with a rate for each weight.

    Attributes:
        form: of the divergence.
        weights: training starts from the "network" as it is initialised, with one log α for all weights; or, as in
            the published code, from "small" ones, N(0, 0.01²), with one log σ² for all, many of them nearly out.
        start: that log α (-6 unless given), or that log σ² (-10).
    """

    warm_up: WarmUp = WHOLE[0]
    biases: bool = False
    form: Form = "exact"
    weights: Start = "network"
    start: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise unknown("form of the divergence", self.form, get_args(Form))

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `Variational`; small weights are drawn from torch's global generator. Warns of a missing warm-up."""
        if self.warm_up in (0, (0, 0)) and self.kl >= 1:
            logger.warning(
                "variational dropout without a warm-up: the whole divergence from the first step on usually removes "
                "every weight of a network that starts at random; give warm_up: 0.5"
            )
        if self.weights == "small":
            for weight in self.named_weights(network).values():
                nn.init.normal_(weight, std=SMALL)
        super().attach(network, units, train)

    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """½ log σ² from the same log α, or log σ², of every weight; shape (P,)."""
        means = [weight.detach().flatten() for weight in self.named_weights(network).values()]
        log_squares = torch.cat([(m.square() + TINY).log() for m in means])
        start = self.start if self.start is not None else INITIAL[self.weights]
        return 0.5 * (log_squares if self.weights == "network" else torch.zeros_like(log_squares)) + 0.5 * start

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ KL(log α), clamped to where it has a gradient; a scalar, in nats."""
        return self._of_present(kl(self._log_alpha(network).clamp(max=CLAMP), self.form)).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """In closed form for the exact divergence, from the variance of the forward pass of the very step."""
        weighted = 2 * scale * self.beta
        if self.form != "exact" or not weighted:
            return super().penalizer(network, scale)
        parameters = [network.get_parameter(name) for name in self.names]
        sizes = [parameter.numel() for parameter in parameters]

        @torch.no_grad()
        def add() -> None:
            spreads = zip(*(v.split(sizes) for v in (self.variance, gradient(self.log_sigma))), strict=True)
            for parameter, (variance, of_sigma) in zip(parameters, spreads, strict=True):
                vectors = (parameter.detach().view(-1), variance, gradient(parameter).view(-1), of_sigma)
                for mean, spread, of_mean, of_spread in zip(*(v.split(BLOCK) for v in vectors), strict=True):
                    square = mean.square()
                    pull = slope(square, spread, CLAMP)
                    of_spread.sub_(pull, alpha=weighted)
                    of_mean.add_(pull.mul_(mean).div_(square.add_(TINY)), alpha=weighted)

        return add

    def _log_alpha(self, network: nn.Module) -> Tensor:
        return log_alpha(self.flat_mean(network), self.log_sigma)

    def posterior(self, network: nn.Module, train: Examples) -> Gaussian:
        """The Gaussians at hand; float64."""
        return self.gaussian(network)

    @torch.no_grad()
    def learned(self, network: nn.Module) -> dict[str, Any]:
        """β and KL at the end, the median log α of each layer, and the share of weights above the threshold."""
        rates = self._log_alpha(network).split([shape.numel() for shape in self.shapes.values()])
        medians = {name: rate.median().item() for name, rate in zip(self.names, rates, strict=True)}
        above = torch.cat(rates) >= THRESHOLD
        return {**super().learned(network), "log_alpha": medians, "above": above.double().mean().item()}
