"""A method's own choice among the weights of each layer, row or block, of which the allocation says how many stay."""

from __future__ import annotations

import torch
from torch import Tensor

from ...methods.pruner import Allocation, Pruner, State
from .ranking import ScoreError
from .two_of_four import input_rows

# Consecutive inputs of a cell; all of an output's where there is no number, of a layer where it is not named.
WIDTHS: dict[Allocation, int | None] = {"rowwise": None, "2:4": 4}


def reselected(kept: Tensor, state: State, pruner: Pruner, among: Tensor | None) -> Tensor:
    """What the method keeps instead of `kept`, boolean (units.n,): as many of every cell, in its own order.

    Whole units, and methods that rank once, keep what was selected. Raises ScoreError where counts differ.
    """
    if pruner.reselect is None or state.units.removable:
        return kept
    cells = _cells(state, pruner.allocation)
    present = torch.ones_like(kept) if among is None else among
    chosen = pruner.reselect(state, kept, cells.masked_fill(~present, -1)).cpu()
    if chosen.shape != kept.shape or chosen.dtype != torch.bool:
        raise ScoreError(f"a choice must be boolean of shape ({len(kept)},), got {chosen.dtype} {tuple(chosen.shape)}")
    if bool((chosen & ~present).any()) or not torch.equal(cells[chosen].bincount(), cells[kept].bincount()):
        raise ScoreError("reselect must keep as many of every cell as were selected, and revive nothing")
    return chosen


def _cells(state: State, allocation: Allocation) -> Tensor:
    """The layer of each weight, the row, or the block of inputs within which their number holds; int64, (units.n,).

    Of a global allocation it holds in the network alone.
    """
    if allocation == "global":
        return torch.zeros(state.units.n, dtype=torch.int64)
    parts, done = [], 0
    for name, size in zip(state.units.layer_names, state.units.layer_sizes, strict=True):
        part = torch.zeros(size, dtype=torch.int64)
        if allocation in WIDTHS:
            rows = input_rows(state.network, name)
            width = WIDTHS[allocation] or rows.shape[1]
            blocks = torch.arange(rows.shape[1]) // width
            part[rows] = torch.arange(len(rows)).unsqueeze(1) * (int(blocks[-1]) + 1) + blocks
        parts.append(part + done)
        done += int(part.max()) + 1
    return torch.cat(parts)
