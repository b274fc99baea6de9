"""Sums of squared per-example gradients from one backward pass, without forming per-example gradients of all.

With one position per example, the sum over examples of squares of g_n a_n' is (g∘g)'(a∘a): about the
arithmetic of an ordinary backward pass. With several, examples are formed and squared a few at a time, in a
buffer that stays in the cache. A parameter used several times adds up its uses before squaring.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..gradients.interception import ParameterUses
from ..gradients.uses import Convolution, Factors, Lookup, Use

# Numbers in the buffer of per-example gradients that are squared at a time: about what a cache holds.
BUFFER = 1 << 19
# Backward passes that are added up in single precision before double precision takes over.
PASSES = 16


class SquaredGradients(ParameterUses):
    """Backward passes add Σ_n (∂L_n/∂θ)²; `sums` gives the result.

    A few batches are added up in the parameters' own type, and those sums in float64.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__(parameters)
        self._sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
        self._recent = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        self._passes = 0

    def collect(self, name: str, uses: list[Use]) -> None:
        """Add the squares of one parameter."""
        _add_squares(self._recent[name], uses)

    def backward(self, outputs: Tensor, vectors: Tensor) -> None:
        """One backward pass per vector."""
        super().backward(outputs, vectors)
        self._passes += vectors.shape[1]
        if self._passes >= PASSES:
            self._settle()

    def sums(self) -> dict[str, Tensor]:
        """Sums over all backward passes so far, float64, in the shape of each parameter."""
        self._settle()
        return self._sums

    def _settle(self) -> None:
        for name, recent in self._recent.items():
            self._sums[name] += recent
            recent.zero_()
        self._passes = 0


def _add_squares(total: Tensor, uses: list[Use]) -> None:
    """Add Σ_n (Σ over uses of example n's gradient)², in the shape of the parameter."""
    pairs = [use for use in uses if isinstance(use, Factors)]
    if len(pairs) == len(uses):
        _add_squared_products(total.flatten(1), _joined(pairs))
    elif len(uses) == 1 and isinstance(uses[0], Lookup):
        _add_squared_rows(total, uses[0])
    elif len(uses) == 1 and isinstance(uses[0], Convolution) and not uses[0].grouped:
        for part in uses[0].split(max(1, BUFFER // uses[0].patch_numbers)):
            _add_squared_products(total.flatten(1), part.factors())
    else:
        _add_formed_squares(total, uses)


def _add_squared_rows(total: Tensor, use: Lookup) -> None:
    """Add Σ_n of the squares of example n's rows, forming only the rows that it looked up, once each."""
    examples = torch.arange(len(use), device=use.index.device).unsqueeze(1)
    rows, place = (examples * use.rows + use.index).unique(return_inverse=True)
    summed = use.g.new_zeros(len(rows), use.g.shape[2]).index_add_(0, place.flatten(), use.g.flatten(0, 1))
    total.index_add_(0, rows % use.rows, summed.square_())


def _add_formed_squares(total: Tensor, uses: list[Use]) -> None:
    size = max(1, BUFFER // total.numel())
    for parts in zip(*(use.split(size) for use in uses), strict=True):
        gradients = torch.stack([part.per_example().flatten(1) for part in parts]).sum(0)
        total += gradients.square_().sum(0).view_as(total)


def _joined(pairs: list[Factors]) -> Factors:
    if len(pairs) == 1:
        return pairs[0]
    return Factors(torch.cat([pair.g for pair in pairs], 1), torch.cat([pair.a for pair in pairs], 1))


def _add_squared_products(total: Tensor, use: Factors) -> None:
    """Add Σ_n (Σ_t g_nt a_nt')², shape (out, in), in blocks of output rows and of examples."""
    g, a = use.g, use.a
    if g.shape[1] == 1:
        total.addmm_(g[:, 0].square().T, a[:, 0].square())
        return
    rows = max(1, min(len(total), BUFFER // a.shape[2]))
    size = max(1, BUFFER // (rows * a.shape[2]))
    for part_g, part_a in zip(g.transpose(1, 2).split(size), a.split(size), strict=True):
        for block, block_g in zip(total.split(rows), part_g.split(rows, 1), strict=True):
            block += torch.bmm(block_g, part_a).square_().sum(0)
