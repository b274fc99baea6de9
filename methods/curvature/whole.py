"""The whole curvature of a small network: the matrix H of all pairs of its parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Dense
from ..gradients.interception import ParameterUses
from ..gradients.uses import Use
from .diagonals import send_back
from .output_vectors import CurvatureKind

# Parameters whose matrix is 800 MB.
MOST = 10_000


def dense(
    network: nn.Module, split: Examples, kind: CurvatureKind = "ggn", generator: torch.Generator | None = None
) -> Dense:
    """The whole curvature of the summed negative log likelihood of a small network; see `curvature.diagonal`.

    Raises UsageError for more than 10,000 parameters, and for a parameter used in a way that cannot be followed.
    """
    parameters = trainable(network)
    if (count := sum(p.numel() for p in parameters.values())) > MOST:
        raise UsageError(f"the whole curvature of {count:,} parameters is too large, at most {MOST:,}: use 'kronecker'")
    sums = _OuterProducts(parameters)
    send_back(sums, network, split, kind, generator)
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
