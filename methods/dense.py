"""The whole curvature of a small network: the matrix H of all pairs of its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ..architectures.units.prunable import trainable
from ..datasets.data import Split
from ..datasets.errors import UsageError
from .curvature import send_back
from .gradients.interception import ParameterUses
from .gradients.uses import Use
from .output_vectors import CurvatureKind
from .posterior_curvature import Curvature

# Parameters whose matrix is 800 MB.
MOST = 10_000


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

    def covariance(self, prior_precision: Tensor) -> Tensor:
        """(H + D)⁻¹."""
        return torch.cholesky_inverse(self._factor(prior_precision))

    def _factor(self, prior_precision: Tensor) -> Tensor:
        return torch.linalg.cholesky(self.h + prior_precision.diag())


def dense(
    network: nn.Module, split: Split, kind: CurvatureKind = "ggn", generator: torch.Generator | None = None
) -> Dense:
    """The whole curvature of the summed negative log likelihood of a small network; see `curvature.diagonal`.

    Raises UsageError for more than 10,000 parameters, and for a parameter used in a way that cannot be followed.
    """
    parameters = trainable(network)
    if (count := sum(p.numel() for p in parameters.values())) > MOST:
        raise UsageError(f"the whole curvature of {count:,} parameters is too large, at most {MOST:,}: use 'kronecker'")
    sums = _OuterProducts(parameters)
    send_back(sums, network, split.x, split.y, split.likelihood, kind, generator)
    if sums.fallback:
        raise UsageError(f"the gradients of {min(sums.fallback)!r} cannot be told apart: use variance: kronecker")
    return Dense(sums.total)


class _OuterProducts(ParameterUses):
    """Adds up Σ_n g_n g_n' over all backward passes."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        super().__init__(parameters)
        first = next(iter(parameters.values()))
        size = sum(p.numel() for p in parameters.values())
        self.total = torch.zeros(size, size, dtype=torch.float64, device=first.device)
        self._rows: dict[str, Tensor] = {}

    def collect(self, name: str, uses: list[Use]) -> None:
        """Keep the examples' gradients of one parameter until those of all are there."""
        self._rows[name] = torch.stack([use.per_example().flatten(1) for use in uses]).sum(0).double()

    def _collect_the_rest(self) -> None:
        super()._collect_the_rest()
        if not self._rows:
            return
        examples = len(next(iter(self._rows.values())))
        blank = {name: self.total.new_zeros(examples, p.numel()) for name, p in self.parameters.items()}
        together = torch.cat(list((blank | self._rows).values()), 1)
        self.total.addmm_(together.T, together)
        self._rows.clear()
