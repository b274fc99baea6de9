"""Mean-field variational inference under an isotropic Gaussian prior ("Bayes by backprop").

Blundell, Cornebise, Kavukcuoglu, Wierstra, "Weight uncertainty in neural networks", ICML 2015, arXiv 1505.05424, with
the divergence in closed form and the local reparameterisation of Kingma, Salimans, Welling (2015). The prior may be
one Gaussian for all weights, or one for each tensor at its empirical Bayes optimum, which KL has in closed form.

Formula: s_k = ½ Λ_k m_k² = ½ (m_k / σ_k)²
Paper: blundell2015weight, kingma2015variational
Deviations: the divergence is in closed form instead of drawn, the prior is not a mixture, and under learned scales
    (Student's t, one precision for each tensor) the divergence is tempered (`kl`), as it runs away from few data;
    `preset: authors`, and `kl: 1` with `warm_up: 0`, are the whole bound.
Oracle: test_mean_field.py::test_mean_field_of_linear_regression_is_exact
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..architectures.units.prunable import trainable
from ..architectures.units.vector import Units
from ..datasets.errors import UsageError, unknown
from ..datasets.examples import Examples
from .closed_forms.flat import named
from .closed_forms.posteriors import Conjugate
from .opd import opd
from .pruner import TUNING_GRID, Pruner, register
from .scores.moments import Moment, ranking
from .variational.inference import RISE, TEMPERED, Variational, WarmUp, equal_log_sigma
from .variational.student import StudentT
from .variational.weight_noise import Draws

MeanFieldPrior = Literal["scalar", "layerwise"]

# Bounds of learned log precisions: where a layer has died they would rise without end.
LOG_PRECISIONS = (-20.0, 20.0)


@dataclass
class MeanField(Variational[Conjugate]):
    """q(w) = Π N(θ, σ²) under the prior N(0, 1/δ); what is no weight has the prior too, and is its mode.

    Attributes:
        precision: δ, or "tuned": chosen on the validation split from the grid of MAP.
        start: log σ before training.
        prior: "scalar": δ for all. "layerwise": that of each tensor of weights or biases maximises the bound after
            each epoch, δ = P / Σ (θ² + σ²) over its P present entries; points keep the given one.

    Raises UsageError for a precision that is not positive and finite, and for an unknown prior.
    """

    precision: float | Literal["tuned"] = 1.0
    start: float = -5.0
    prior: MeanFieldPrior = "scalar"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision != "tuned" and not 0 < self.precision < float("inf"):
            raise UsageError(f"prior precision must be positive and finite, or 'tuned', got {self.precision!r}")
        if self.prior not in get_args(MeanFieldPrior):
            raise unknown("prior", self.prior, get_args(MeanFieldPrior))

    def candidates(self) -> Sequence[MeanField]:
        """One inference for each precision of the grid when it is to be tuned."""
        return [replace(self, precision=p) for p in TUNING_GRID] if self.precision == "tuned" else (self,)

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `Variational`; and notes what has no σ."""
        super().attach(network, units, train)
        self.points = sorted(trainable(network).keys() - set(self.names))
        self.deltas = self.log_sigma.detach().new_full((len(self.names),), self._delta).double()

    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """The same for all; shape (P,)."""
        return equal_log_sigma(self.named_weights(network), self.start)

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ ½ (δ (θ² + σ²) - 1 - log δ) - log σ, and ½ δ |θ|² of the points; a scalar, in nats."""
        delta, log_sigma = self._expanded(), self.log_sigma.double()
        means = self.flat_mean(network).double()
        spread = 0.5 * (delta * (means.square() + (2 * log_sigma).exp()) - 1 - delta.log()) - log_sigma
        squares = [network.get_parameter(name).double().square().sum() for name in self.points]
        return self._of_present(spread).sum() + 0.5 * self._delta * sum(squares, spread.new_zeros(()))

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds scale · β · δ · θ to the gradients of the means, scale · β · (δ σ² - 1) to those of log σ."""
        weighted = scale * self.beta
        factors = [weighted * delta for delta in (*self.deltas.tolist(), *[self._delta] * len(self.points))]
        parameters = [network.get_parameter(name) for name in (*self.names, *self.points)]
        present = 1.0 if self.present is None else self.present
        spreads = list(self._parts(self.variance))

        @torch.no_grad()
        def add() -> None:
            grad = self.log_sigma.grad
            if grad is None:  # nothing has been computed with noise
                return
            for parameter, factor in zip(parameters, factors, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=factor)
            # The variance is that of the forward pass of this very step.
            for part, variance, factor in zip(self._parts(grad), spreads, factors, strict=False):
                part.add_(variance, alpha=factor)
            grad.sub_(weighted * present)

        return add if weighted else lambda: None

    @torch.no_grad()
    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """The warm-up goes on, and a layerwise prior to its optimum."""
        super().update(network, train, epoch)
        if self.prior == "layerwise":
            variances = self._parts(self._of_present((2 * self.log_sigma).exp()))
            counts = self._parts(self._of_present(torch.ones_like(self.log_sigma)))
            parts = zip(self.names, variances, counts, strict=True)
            self.deltas = torch.stack([_optimum(network.get_parameter(n), v, c) for n, v, c in parts])

    def _parts(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split([shape.numel() for shape in self.shapes.values()])

    def _expanded(self) -> Tensor:
        """δ of every weight, float64, (P,)."""
        sizes = torch.tensor([shape.numel() for shape in self.shapes.values()], device=self.deltas.device)
        return self.deltas.repeat_interleave(sizes)

    def posterior(self, network: nn.Module, train: Examples) -> Conjugate:
        """The Gaussians at hand; float64."""
        q = self.gaussian(network)
        return Conjugate(q.mean, q.precision, named(self._expanded(), self.shapes))

    def tensors(self) -> dict[str, Tensor]:
        """What `Variational` has, and δ of every tensor."""
        return super().tensors() | {"deltas": self.deltas}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        super().load_tensors(tensors)
        self.deltas = tensors["deltas"].to(self.deltas)

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """What `Variational` tells, and δ of every tensor."""
        return super().learned(network) | {"precision": dict(zip(self.names, self.deltas.tolist(), strict=True))}

    @property
    def _delta(self) -> float:
        if isinstance(self.precision, str):
            raise UsageError("a tuned precision must first be chosen among candidates() on the validation split")
        return self.precision


@dataclass
class LayerwiseMeanField(MeanField):
    """`MeanField` under the precisions that it learns, with a tempered divergence.

    Standardised targets are worth half a nat each to whoever explains all of them, at the unit noise of the likelihood.
    A network that does so is several times as many nats away from any prior of few widths: under the whole bound
    layers die, as smaller weights narrow their prior, which costs nothing once all are noise.
    """

    revision: ClassVar[int] = 2  # tempered

    kl: float = 0.03
    warm_up: WarmUp = RISE
    prior: MeanFieldPrior = "layerwise"


def _optimum(mean: Tensor, variance: Tensor, present: Tensor) -> Tensor:
    """P / Σ (θ² + σ²), float64, bounded."""
    second = mean.double().square().sum() + variance.double().sum()
    low, high = (math.exp(bound) for bound in LOG_PRECISIONS)
    return (present.double().sum().clamp_min(1) / second.clamp_min(torch.finfo(second.dtype).tiny)).clamp(low, high)


Prior = Literal["scalar", "layerwise", "student"]

# The inference of Marković et al. (2024): all of the divergence, one draw for a batch, uniform initial means.
AUTHORS: partial[Any] = partial(StudentT, initial="uniform", draws="minibatch")


def mean_field(
    prior: Prior, precision: float | Literal["tuned"], start: float | None, kl: float | None, warm_up: WarmUp | None,
    draws: Draws,
) -> partial[Any]:  # fmt: skip
    """The inference behind `bmr` and `mean-field`, ready to be made.

    Unless they are given, a Gaussian prior of a given precision has its whole divergence from the start, and that of
    layers with learned scales or precisions is tempered (`variational.inference.TEMPERED`, `LayerwiseMeanField`).
    """
    given = {"kl": kl, "warm_up": warm_up, "start": start}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None} | {"draws": draws}
    if prior == "student":
        return partial(StudentT, **{**TEMPERED, **options})
    gaussian = LayerwiseMeanField if prior == "layerwise" else MeanField
    return partial(gaussian, precision=precision, prior=prior, **options)


@register("mean-field")
def mean_field_pruner(
    prior: Prior = "student", precision: float | Literal["tuned"] = 1.0, start: float | None = None,
    kl: float | None = None, warm_up: tuple[int, int] | float | None = None, draws: Draws = "local",
    preset: Literal["authors"] | None = None, by: Moment = "both",
) -> Pruner[Conjugate]:  # fmt: skip
    """Signal to noise of mean-field inference without reduction: the control for `bmr` (Blundell et al. 2015).

    `preset: authors` is the inference of Marković et al. (2024); `by` a moment alone ranks by the
    weight |w|, or by the 1/σ² of what is trained (of ŵ under Student's t, whose weights are γ ŵ).
    """
    inference = AUTHORS if preset == "authors" else mean_field(prior, precision, start, kl, warm_up, draws)
    return Pruner(inference, ranking(by, opd))
