"""Posteriors over parameters: closed forms over named tensors, no networks inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .conditioning import Conditional, unmoved
from .curvature_matrix import Curvature, Diagonal
from .flat import flat, named

# Smallest share of a prior variance that may remain; below it 1 - γ is rounding.
LEAST_SHARE = 1e-14


@dataclass(frozen=True)
class Gaussian:
    """Independent Gaussians over parameters: `mean` and `precision` by parameter name, float64."""

    mean: Mapping[str, Tensor]
    precision: Mapping[str, Tensor]

    @cached_property
    def variance(self) -> dict[str, Tensor]:
        """1 / precision, by parameter name."""
        return {name: precision.reciprocal() for name, precision in self.precision.items()}

    @cached_property
    def marginal_precision(self) -> Mapping[str, Tensor]:
        """1 / variance of each weight by itself: the precision, unless weights are correlated."""
        return self.precision

    @cached_property
    def covariance(self) -> Tensor | None:
        """Of all parameters, in the order of `mean`, float64 (P, P), where it is known; None where it is not."""
        return None

    def condition(self, mean: Tensor, kept: Tensor) -> Conditional:
        """The posterior at `mean`, (P,), given that what is not `kept`, boolean (P,), is 0; see `conditioning`."""
        return unmoved(mean, kept, flat(self.precision))


@dataclass(frozen=True)
class Conjugate(Gaussian):
    """A Gaussian posterior under independent Gaussian priors of mean 0 and precision `prior`, by parameter name."""

    prior: Mapping[str, Tensor]


@dataclass(frozen=True)
class Scaled(Conjugate):
    """The Gaussian posterior of ŵ, where a weight is w = γ ŵ with an independent positive γ: E[log γ], E[γ], E[γ²]."""

    log_scale: Mapping[str, Tensor]
    scale: Mapping[str, Tensor]
    square: Mapping[str, Tensor]

    def weights(self) -> Gaussian:
        """Mean and precision of the weights w, which are not Gaussian."""
        mean = {name: self.scale[name] * mu for name, mu in self.mean.items()}
        second = {name: self.square[name] * (mu.square() + self.variance[name]) for name, mu in self.mean.items()}
        return Gaussian(mean, {name: (s - mean[name].square()).reciprocal() for name, s in second.items()})


@dataclass(frozen=True)
class Laplace(Conjugate):
    """A Gaussian whose precision is the diagonal of cH + D: the likelihood's `curvature` and the `prior` precision.

    `curvature` is the diagonal of cH. With Kronecker factors, `precision` is that of the posterior that is
    diagonal in their eigenbasis, not the sum of the two. `whole` is cH itself, off the diagonal too, where
    c = 1 / (s² T): the `noise` s of real targets, 1 for classes, and the `temperature` T. There is no noise where H is
    not the curvature of a likelihood of the targets, and no evidence then.
    """

    curvature: Mapping[str, Tensor]
    whole: Curvature
    noise: Tensor | None = None
    temperature: float = 1.0

    @cached_property
    def marginal_precision(self) -> Mapping[str, Tensor]:
        """1 / [(cH + D)⁻¹]_ii; the variance of weight i is that share (1 - γ_i) / δ_i which is left of the prior's."""
        if isinstance(self.whole, Diagonal):
            return self.precision
        prior = flat(self.prior)
        left = (1 - self.whole.determined(prior)).clamp_min_(LEAST_SHARE)
        return named(prior.div_(left), self.mean)

    @cached_property
    def covariance(self) -> Tensor | None:
        """(cH + D)⁻¹ of a whole curvature."""
        return self.whole.covariance(flat(self.prior))

    def condition(self, mean: Tensor, kept: Tensor) -> Conditional:
        """Survivors move by what correlates them with what leaves; raises ArithmeticError for singular precisions."""
        return self.whole.condition(flat(self.prior), mean, kept)

    def delta_f(self, present: Tensor, kept: Tensor, found: Conditional) -> Tensor | None:
        """ΔF of a spike at 0 for what leaves the `present` ones: nats; None where it is not known exactly.

        ½ (log|Λ| - log|Λ_RR| - Σ_S log δ) - c: the Savage-Dickey ratio, over the determinants that the evidence knows.
        """
        if not self.whole.exact_masks:
            return None
        prior = flat(self.prior)
        before, after = self.whole.masked(present).log_det_ratio(prior), found.log_det_ratio
        after = self.whole.masked(kept).log_det_ratio(prior) if after is None else after
        return 0.5 * (before - after) - found.cost

    def least_delta_f(self, leaving: Tensor, cost: Tensor) -> Tensor:
        """A bound from below, by the variances of what is `leaving` in place of its covariance (Hadamard)."""
        prior = flat(self.prior)
        left = prior / flat(self.marginal_precision)
        return -0.5 * left[leaving].log().sum() - cost

    @classmethod
    def at(
        cls, mode: Mapping[str, Tensor], curvature: Curvature, prior_precision: Tensor, noise: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Laplace:  # fmt: skip
        """The approximation at a mode, with the tempered curvature cH and δ of every parameter, shape (P,)."""
        diagonal = curvature.precision(torch.zeros_like(prior_precision))
        vectors = (curvature.precision(prior_precision), prior_precision, diagonal)
        precision, prior, diagonal = (named(vector, mode) for vector in vectors)
        mean = {name: value.detach().double() for name, value in mode.items()}
        return cls(mean, precision, prior, diagonal, curvature, noise, temperature)
