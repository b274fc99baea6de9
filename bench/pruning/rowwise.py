"""The same share of every output's inputs, as layers differ in what their scores mean (Wanda, Sun et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...datasets.errors import UsageError
from ...methods.pruner import State
from .allocation import apportion, layerwise
from .ranking import best
from .two_of_four import input_rows


def rowwise(ranking: Tensor, state: State, keep: int, floor: int, present: Tensor) -> Tensor:
    """The `keep` units to keep, boolean (units.n,): layers have the same density, and in each all outputs do.

    Raises UsageError for units that are no single weights.
    """
    units = state.units
    if units.removable:
        raise UsageError("the rowwise allocation is defined on weight tensors; use `units: weights` or another one")
    counts = layerwise(state, keep, floor, present)
    layers = zip(units.layer_names, units.split(ranking), units.split(present), counts, strict=True)
    return torch.cat([_of_layer(state, name, layer, there, k) for name, layer, there, k in layers])


def _of_layer(state: State, name: str, ranking: Tensor, present: Tensor, keep: int) -> Tensor:
    rows = input_rows(state.network, name)
    capacity = [int(n) for n in present[rows].sum(1)]
    counts = apportion([1.0] * len(rows), capacity, keep)
    kept = torch.zeros_like(ranking, dtype=torch.bool)
    for row, count in zip(rows, counts, strict=True):
        kept[row] = best(ranking[row], count)
    return kept
