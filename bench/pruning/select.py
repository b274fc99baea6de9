"""Selection: from scores and a budget to the units kept, with exact counts and stable ties.

One operation serves all methods: the k best units of one ranking. Allocations other than the global one
fix how many of the k each layer (group of units) keeps, and rank inside layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...methods.pruner import Allocation, Pruner, State
from .allocation import ALLOCATIONS
from .ranking import ScoreError, best, best_of_each_layer, check_ranks, checked_scores, globally_best
from .rowwise import rowwise
from .two_of_four import two_of_four

# Allocations that are defined on weight tensors.
OF_WEIGHTS = ("erk", "rowwise", "2:4")


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
        return two_of_four(ranking, state, keep)
    if allocation == "rowwise":
        return rowwise(ranking, state, keep, floor, present)
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
    """The same number of units in each layer, chosen at random; boolean, shape (units.n,)."""
    return torch.cat([layer[torch.randperm(len(layer), generator=generator)] for layer in units.split(kept)])
