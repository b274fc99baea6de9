"""What the Laplace evidence and the posterior precision ask of a curvature H, and its diagonal case.

Immer et al., "Scalable marginal likelihood estimation for model selection in deep learning", ICML 2021. With
P parameters in one fixed flat order and independent priors of precisions δ, D = diag(δ), the evidence needs
log det(H + D) - log det D and its derivative in δ, and the posterior needs the diagonal of H + D. That the posterior
also says where survivors go when others leave, `condition`, is in `conditioning`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from . import conditioning
from .conditioning import Conditional


class Curvature(ABC):
    """H, the curvature of the (tempered) summed negative log likelihood, as far as an approximation holds it.

    Precisions come and go as float64 vectors of shape (P,).

    Attributes:
        exact_masks: whether `masked` is the curvature without those parameters, and not an approximation to it.
    """

    exact_masks: ClassVar[bool] = True

    @abstractmethod
    def scaled(self, c: float | Tensor) -> Self:
        """cH, c ≥ 0."""

    @abstractmethod
    def masked(self, kept: Tensor) -> Self:
        """The curvature without the parameters where `kept`, boolean (P,), is false, as far as it can be told."""

    @abstractmethod
    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """log det(H + D) - log det D ≥ 0 for δ > 0, a scalar in nats; never below the exact value."""

    @abstractmethod
    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """γ_i = 1 - δ_i [(H + D)⁻¹]_ii ≤ 1, how far the data determine each parameter (MacKay), shape (P,).

        It is minus the derivative of `log_det_ratio` in log δ_i, so that for the evidence log q
        ∂ log q / ∂ log δ_i = ½ (γ_i - δ_i θ_i²) holds whatever the approximation. `out` takes the result.
        """

    @abstractmethod
    def precision(self, prior_precision: Tensor) -> Tensor:
        """diag(H + D), shape (P,); δ = 0 is allowed and leaves diag(H)."""

    @abstractmethod
    def condition(self, prior_precision: Tensor, mean: Tensor, kept: Tensor) -> Conditional:
        """The mean of N(mean, (H + D)⁻¹) given that what is not `kept`, boolean (P,), is 0; see `conditioning`.

        Raises ArithmeticError where H + D is singular on what stays.
        """

    @abstractmethod
    def solve(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """(H + D)⁻¹ v, shape (P,)."""

    def determined_in_sum(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """Numbers whose sum over each tensor is that of `determined`, for one precision in each; (P,)."""
        return self.determined(prior_precision, out)

    def covariance(self, prior_precision: Tensor) -> Tensor | None:
        """(H + D)⁻¹, shape (P, P), of a curvature that holds all pairs of parameters; None of any other."""
        return None


@dataclass(frozen=True)
class Diagonal(Curvature):
    """Independent parameters: `h`, the diagonal of H, float64 (P,), non-negative."""

    h: Tensor

    def scaled(self, c: float | Tensor) -> Self:
        """c h."""
        return type(self)(c * self.h)

    def masked(self, kept: Tensor) -> Self:
        """What has left has no curvature."""
        return type(self)(self.h * kept)

    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """Σ log(1 + h / δ), exact."""
        return (self.h / prior_precision).log1p().sum()

    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """h / (h + δ)."""
        total = torch.add(self.h, prior_precision, out=out)
        return torch.div(self.h, total, out=total)

    def precision(self, prior_precision: Tensor) -> Tensor:
        """h + δ."""
        return self.h + prior_precision

    def condition(self, prior_precision: Tensor, mean: Tensor, kept: Tensor) -> Conditional:
        """Nothing moves."""
        return conditioning.unmoved(mean, kept, self.h + prior_precision)

    def solve(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """v / (h + δ)."""
        return vector / (self.h + prior_precision)


@dataclass(frozen=True)
class Dense(Curvature):
    """The whole matrix H, float64 (P, P)."""

    h: Tensor

    def scaled(self, c: float | Tensor) -> Self:
        """c H."""
        return type(self)(c * self.h)

    def masked(self, kept: Tensor) -> Self:
        """Rows and columns of what has left are 0."""
        return type(self)(self.h * kept * kept.unsqueeze(1))

    def log_det_ratio(self, prior_precision: Tensor) -> Tensor:
        """log det(H + D) - Σ log δ, exact."""
        return 2 * self._factor(prior_precision).diagonal().log().sum() - prior_precision.log().sum()

    def determined(self, prior_precision: Tensor, out: Tensor | None = None) -> Tensor:
        """1 - δ_i [(H + D)⁻¹]_ii."""
        inverse = self.covariance(prior_precision).diagonal()
        return torch.sub(torch.ones_like(inverse), prior_precision * inverse, out=out)

    def precision(self, prior_precision: Tensor) -> Tensor:
        """diag(H) + δ."""
        return self.h.diagonal() + prior_precision

    def condition(self, prior_precision: Tensor, mean: Tensor, kept: Tensor) -> Conditional:
        """By a Cholesky factor of what stays."""
        return conditioning.dense(mean, kept, self.h + prior_precision.diag())

    def solve(self, prior_precision: Tensor, vector: Tensor) -> Tensor:
        """(H + D)⁻¹ v."""
        return torch.cholesky_solve(vector.unsqueeze(1), self._factor(prior_precision)).squeeze(1)

    def covariance(self, prior_precision: Tensor) -> Tensor:
        """(H + D)⁻¹."""
        return torch.cholesky_inverse(self._factor(prior_precision))

    def _factor(self, prior_precision: Tensor) -> Tensor:
        return torch.linalg.cholesky(self.h + prior_precision.diag())
