"""How much of an LSTM variational dropout leaves: weights, words, neurons, gates; counted twice.

The published code does not subtract the weights behind the pruned factor of a gate, although they leave;
`compression` does, `compression_published` does not. Biases count in neither, nor do factors, which fold into weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..pruner import State
from ..variational.weight_dropout import THRESHOLD
from .structures import Structure
from .worth import Worth, worths

GATES = ("input", "forget", "cell", "output")


def account(state: State[Any], threshold: float = THRESHOLD) -> dict[str, Any]:
    """What the threshold on log α leaves of the network, whatever sparsity is asked for; see `remaining`."""
    found = worths(state.posterior)
    kept = (_above(part, -threshold) for part in (found.weights, found.published, found.units))
    return remaining(Worth(*kept), state.posterior.structures)


def _above(values: Mapping[str, Tensor], bound: float) -> dict[str, Tensor]:
    return {name: value > bound for name, value in values.items()}


def remaining(kept: Worth, structures: tuple[Structure, ...]) -> dict[str, Any]:
    """Counts of what stays, as JSON.

    Returns `compression` and `compression_published` (None for a network of which nothing is left), `weights` (kept,
    total), and by the name of the structure `alive` (kept, total); `gates`, for every layer, counts those that are
    not constant by their kind.
    """
    return {
        "compression": compression(kept.weights),
        "compression_published": compression(kept.published),
        "weights": [sum(int(mask.sum()) for mask in kept.weights.values()), _size(kept.weights)],
        "alive": {s.name: [int(kept.units[s.name].sum()), s.size] for s in structures},
        "gates": {s.name: _by_gate(kept.units[s.name]) for s in structures if s.kind == "gate"},
    }


def compression(kept: Mapping[str, Tensor]) -> float | None:
    """Entries over those kept; None where none is."""
    alive = sum(int(mask.sum()) for mask in kept.values())
    return _size(kept) / alive if alive else None


def _size(kept: Mapping[str, Tensor]) -> int:
    return sum(math.prod(mask.shape) for mask in kept.values())


def _by_gate(kept: Tensor) -> dict[str, int]:
    return dict(zip(GATES, (int(part.sum()) for part in kept.chunk(len(GATES))), strict=True))
