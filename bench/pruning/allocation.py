"""How many units each layer keeps of a budget."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...methods.lamp import lamp
from ...methods.pruner import State
from .ranking import globally_best


def layerwise(state: State, keep: int, floor: int, present: Tensor) -> list[int]:
    """The same density in every layer."""
    return apportion([float(n) for n in state.units.layer_sizes], _capacity(state.units, present), keep, floor)


def erk(state: State, keep: int, floor: int, present: Tensor) -> list[int]:
    """Erdős-Rényi-Kernel densities ∝ Σ shape / Π shape (Evci et al. 2020, arXiv 1911.11134), capped at 1.

    Raises UsageError for units that are no single weights.
    """
    shapes = [state.units.shapes.get(name) for name in state.units.layer_names]
    if any(shape is None for shape in shapes):
        raise UsageError("the ERK allocation is defined on weight tensors; use `units: weights` or another allocation")
    weights = [float(sum(shape)) for shape in shapes if shape is not None]  # density × size = Σ shape
    return apportion(weights, _capacity(state.units, present), keep, floor)


def lamp_counts(state: State, keep: int, floor: int, present: Tensor) -> list[int]:
    """As many units in each layer as a global ranking by LAMP keeps there."""
    ranking = lamp(state).cpu().masked_fill(~present, -math.inf)
    kept = globally_best(ranking, state.units, keep, floor)
    return [int(layer.sum()) for layer in state.units.split(kept)]


def apportion(weights: list[float], capacity: list[int], keep: int, floor: int = 0) -> list[int]:
    """Whole counts that sum to `keep`, proportional to `weights`, at most `capacity`, at least `floor`.

    Layers whose share exceeds their capacity become dense and the rest is shared anew; what rounding
    leaves goes to the largest remainders.

    Raises UsageError where the capacities or the floors do not allow it.
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


ALLOCATIONS: dict[str, Callable[[State, int, int, Tensor], list[int]]] = {
    "layerwise": layerwise,
    "erk": erk,
    "lamp": lamp_counts,
}
