"""Selection: from scores and a budget to the units kept, with exact counts and stable ties.

One operation serves all methods: the k best units of one ranking. Allocations other than the global one
fix how many of the k each layer (group of units) keeps, and rank inside layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..methods.lamp import lamp
from ..methods.pruner import Allocation, Pruner, State


class ScoreError(ValueError):
    """A score that cannot rank: wrong shape, or not finite."""


def keep_count(n: int, sparsity: float) -> int:
    """Units kept of `n`: (1 - sparsity) n, rounded half up; raises UsageError when that is none."""
    keep = math.floor((1 - sparsity) * n + 0.5 + 1e-9)  # 1 - 0.9 is a little less than 0.1
    if keep < 1:
        raise UsageError(f"sparsity {sparsity} would remove every one of {n} units; lower it below {1 - 0.5 / n:.6g}")
    return keep


def round_target(sparsity: float | None, i: int, rounds: int) -> float | None:
    """Sparsity after round i of `rounds`: the same share of the rest leaves in each (exponential schedule)."""
    return None if sparsity is None else 1 - (1 - sparsity) ** ((i + 1) / rounds)


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
        ScoreError: scores of a wrong shape or not finite.
        UsageError: a budget that the layers cannot satisfy.
    """
    units = state.units
    scores = checked_scores(scores, units)
    present = torch.ones_like(scores, dtype=torch.bool) if among is None else among
    ranking = scores.masked_fill(~present, -math.inf)
    if allocation == "2:4":
        return two_of_four(ranking, units, keep)
    if allocation == "global":
        return _globally_best(ranking, units, keep, floor)
    counts = _ALLOCATIONS[allocation](state, keep, floor, present)
    return torch.cat([_best(layer, k) for layer, k in zip(units.split(ranking), counts, strict=True)])


def decided(scores: Tensor, state: State, pruner: Pruner, floor: int = 0, among: Tensor | None = None) -> Tensor:
    """The units that the method itself keeps (and the `floor` best of every layer); boolean, (units.n,).

    Those that are not `among` the present ones have left for good.

    A method may remove every single weight: what remains predicts a constant, and is recorded as collapsed. Raises
    UsageError for a method that has no decision of its own.
    """
    scores = checked_scores(scores, state.units)
    present = torch.ones_like(scores, dtype=torch.bool) if among is None else among
    ranking = scores.masked_fill(~present, -math.inf)
    return (_own_decision(scores, state, pruner) | _floor(ranking, state.units, floor)) & present


def _own_decision(scores: Tensor, state: State, pruner: Pruner) -> Tensor:
    if pruner.decide is not None:
        kept = pruner.decide(state).cpu()
        if kept.shape != scores.shape or kept.dtype != torch.bool:
            raise ScoreError(f"a decision must be boolean of shape ({len(scores)},), got {kept.dtype} {kept.shape}")
        return kept
    if pruner.keep_above is None:
        raise UsageError("the method has no threshold of its own; give a sparsity")
    return scores > pruner.keep_above


def checked_scores(scores: Tensor, units: Units) -> Tensor:
    """Scores as float64; raises ScoreError unless they are finite and of shape (units.n,)."""
    if tuple(scores.shape) != (units.n,):
        raise ScoreError(f"a score must have shape ({units.n},), one worth per unit, got {tuple(scores.shape)}")
    scores = scores.detach().double().cpu()
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise ScoreError(f"{bad} of {units.n} scores are not finite; stay in log space or guard the division")
    return scores


def _globally_best(ranking: Tensor, units: Units, keep: int, floor: int) -> Tensor:
    if floor * len(units.layer_sizes) > keep:
        raise UsageError(
            f"keeping {keep} of {units.n} units leaves less than {floor} for each of {len(units.layer_sizes)} layers; "
            "ask for a lower sparsity"
        )
    return _best(ranking.masked_fill(_floor(ranking, units, floor), math.inf), keep)


def _floor(ranking: Tensor, units: Units, floor: int) -> Tensor:
    return torch.cat([_best(layer, min(floor, len(layer))) for layer in units.split(ranking)])


def _best(ranking: Tensor, k: int) -> Tensor:
    """The k largest, the first of equal ones; a threshold is found in linear time, without sorting."""
    if k <= 0 or k >= len(ranking):
        return torch.full_like(ranking, k > 0, dtype=torch.bool)
    threshold = ranking.kthvalue(len(ranking) - k + 1).values
    kept = ranking > threshold
    ties = (ranking == threshold).nonzero().flatten()
    kept[ties[: k - int(kept.sum())]] = True
    return kept


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
    return kept | (_best(ranking.masked_fill(~middle, -math.inf), keep - int(kept.sum())) & middle)


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


def layerwise(state: State, keep: int, floor: int, present: Tensor) -> list[int]:
    """The same density in every layer."""
    return apportion([float(n) for n in state.units.layer_sizes], _capacity(state.units, present), keep, floor)


def erk(state: State, keep: int, floor: int, present: Tensor) -> list[int]:
    """Erdős-Rényi-Kernel densities ∝ Σ shape / Π shape (Evci et al. 2020, arXiv 1911.11134), capped at 1."""
    shapes = [state.units.shapes.get(name) for name in state.units.layer_names]
    if any(shape is None for shape in shapes):
        raise UsageError("the ERK allocation is defined on weight tensors; use `units: weights` or another allocation")
    weights = [float(sum(shape)) for shape in shapes if shape is not None]  # density × size = Σ shape
    return apportion(weights, _capacity(state.units, present), keep, floor)


def lamp_counts(state: State, keep: int, floor: int, present: Tensor) -> list[int]:
    """As many units in each layer as a global ranking by LAMP keeps there."""
    ranking = lamp(state).cpu().masked_fill(~present, -math.inf)
    kept = _globally_best(ranking, state.units, keep, floor)
    return [int(layer.sum()) for layer in state.units.split(kept)]


def apportion(weights: list[float], capacity: list[int], keep: int, floor: int = 0) -> list[int]:
    """Whole counts that sum to `keep`, proportional to `weights`, at most `capacity`, at least `floor`.

    Layers whose share exceeds their capacity become dense and the rest is shared anew; what rounding
    leaves goes to the largest remainders.
    """
    if not sum(min(floor, c) for c in capacity) <= keep <= sum(capacity):
        raise UsageError(f"cannot keep {keep} units of {sum(capacity)} with at least {floor} in every layer")
    shares = _capped_shares(weights, capacity, keep)
    counts = [max(min(floor, c), math.floor(s + 1e-9)) for s, c in zip(shares, capacity, strict=True)]
    while (missing := keep - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i, c in enumerate(counts) if (c < capacity[i] if step > 0 else c > min(floor, capacity[i]))]
        movable.sort(key=lambda i: step * (counts[i] - shares[i]))
        for i in movable[: abs(missing)]:
            counts[i] += step
    return counts


def _capped_shares(weights: list[float], capacity: list[int], keep: int) -> list[float]:
    dense: set[int] = set()
    while True:
        rest = keep - sum(capacity[i] for i in dense)
        free = sum(w for i, w in enumerate(weights) if i not in dense)
        shares = [float(capacity[i]) if i in dense else rest * w / free for i, w in enumerate(weights)]
        over = {i for i, share in enumerate(shares) if share > capacity[i]}
        if not over:
            return shares
        dense |= over


def _capacity(units: Units, present: Tensor) -> list[int]:
    return [int(layer.sum()) for layer in units.split(present)]


_ALLOCATIONS: dict[str, Callable[[State, int, int, Tensor], list[int]]] = {
    "layerwise": layerwise,
    "erk": erk,
    "lamp": lamp_counts,
}
