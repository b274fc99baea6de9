"""Selection: from scores and a budget to the units kept, with exact counts and stable ties.

One operation serves all methods: the k best units of one ranking. Allocations other than the global one
fix how many of the k each layer (group of units) keeps, and rank inside layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...methods.pruner import Allocation, Pruner, State
from .allocation import ALLOCATIONS
from .ranking import ScoreError, best, best_of_each_layer, check_ranks, checked_scores, globally_best, keep_count


def select(
    scores: Tensor,
    state: State,
    keep: int,
    allocation: Allocation = "global",
    among: Tensor | None = None,
    floor: int = 0,
) -> Tensor:
    """The `keep` units to keep, as booleans of shape (units.n,).

    Args:
        scores: worths of shape (units.n,), larger is kept; equal ones are kept in the order of the units.
        state: gives units (and, to the LAMP allocation, weights).
        keep: how many units stay, exactly.
        allocation: how the budget is shared among layers.
        among: units still present; the others stay removed.
        floor: units that every layer keeps at least.

    Raises:
        ScoreError: scores of a wrong shape or type, not finite, or all the same.
        UsageError: a budget that the layers cannot satisfy.
    """
    units = state.units
    scores = checked_scores(scores, units)
    present = torch.ones_like(scores, dtype=torch.bool) if among is None else among
    check_ranks(scores[present], keep)
    ranking = scores.masked_fill(~present, -math.inf)
    if allocation == "2:4":
        return two_of_four(ranking, units, keep)
    if allocation == "global":
        return globally_best(ranking, units, keep, floor)
    counts = ALLOCATIONS[allocation](state, keep, floor, present)
    return torch.cat([best(layer, k) for layer, k in zip(units.split(ranking), counts, strict=True)])


def decided(scores: Tensor, state: State, pruner: Pruner, floor: int = 0, among: Tensor | None = None) -> Tensor:
    """The units that the method itself keeps (and the `floor` best of every layer); boolean, (units.n,).

    Those that are not `among` the present ones have left for good.

    A method may remove every single weight: what remains predicts a constant, and is recorded as collapsed. Raises
    UsageError for a method that has no decision of its own.
    """
    scores = checked_scores(scores, state.units)
    present = torch.ones_like(scores, dtype=torch.bool) if among is None else among
    ranking = scores.masked_fill(~present, -math.inf)
    return (_own_decision(scores, state, pruner) | best_of_each_layer(ranking, state.units, floor)) & present


def _own_decision(scores: Tensor, state: State, pruner: Pruner) -> Tensor:
    if pruner.decide is not None:
        kept = pruner.decide(state).cpu()
        if kept.shape != scores.shape or kept.dtype != torch.bool:
            raise ScoreError(f"a decision must be boolean of shape ({len(scores)},), got {kept.dtype} {kept.shape}")
        return kept
    if pruner.keep_above is None:
        raise UsageError("the method has no threshold of its own; give a sparsity")
    return scores > pruner.keep_above


def shuffled_within_layers(kept: Tensor, units: Units, generator: torch.Generator) -> Tensor:
    """The same number of units in each layer, chosen at random."""
    return torch.cat([layer[torch.randperm(len(layer), generator=generator)] for layer in units.split(kept)])


def two_of_four(ranking: Tensor, units: Units, keep: int) -> Tensor:
    """The best two of every four consecutive inputs of an output: what sparse tensor cores can skip.

    Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378. Rows whose length is not a
    multiple of four end in a shorter block, which keeps half; of the middle ones of odd blocks the best stay,
    as many as the exact count asks for. Raises UsageError unless half of single weights is to be kept.
    """
    shapes = [units.shapes.get(name) for name in units.layer_names]
    if units.removable or keep != keep_count(units.n, 0.5) or bool(ranking.isneginf().any()):
        raise UsageError(f"the 2:4 pattern keeps half of the single weights, in one round, not {keep} of {units.n}")
    parts = [_blocks_of_four(r, s) for r, s in zip(units.split(ranking), shapes, strict=True)]
    kept, middle = (torch.cat(column) for column in zip(*parts, strict=True))
    return kept | (best(ranking.masked_fill(~middle, -math.inf), keep - int(kept.sum())) & middle)


def _blocks_of_four(layer: Tensor, shape: torch.Size | None) -> tuple[Tensor, Tensor]:
    """The better half of every block of four, rounded down, and the middle ones of odd blocks; shape (n,) each."""
    assert shape is not None
    rows = layer.view(shape[0], -1)
    width = rows.shape[1]
    blocks = nn.functional.pad(rows, (0, -width % 4), value=-math.inf).view(-1, 4)
    places = blocks.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    half = blocks.isfinite().sum(1, keepdim=True) / 2
    masks = (places < half.floor(), (places >= half.floor()) & (places < half))
    first, second = (mask.view(shape[0], -1)[:, :width].flatten() for mask in masks)
    return first, second


# ------------------------------------------------------------------ how many units each layer keeps
