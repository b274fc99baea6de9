"""Which numbers in modules fall with the units of a family, and by how much."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..units.slices import Count
from .families import Family
from .follow import Flow
from .numbers import Key, Need, Number, counted


def counts_of(flow: Flow, family: Family) -> tuple[Count, ...]:
    """The numbers that count units of the family.

    An attribute given to an operation as it is falls by what the operation has less. Where it was computed from, it
    falls in proportion, unless the fall of others accounts for that already.
    """
    falls: dict[Key, np.ndarray] = {}
    needs = [(need.number, fall) for need in flow.needs if (fall := _fall(flow, need, family)).any()]
    for number, fall in needs:
        if len(number.sources) == 1 and _follows(number, {next(iter(number.sources)): fall}, fall):
            falls.setdefault(next(iter(number.sources)), fall)
    for number, fall in needs:
        if not _follows(number, {key: falls[key] for key in number.sources if key in falls}, fall):
            falls |= _proportional(number, fall, falls)
    found = [Count(*key, torch.from_numpy(fall)) for key, fall in falls.items()]
    return (*found, *_groups(flow, family))


def _fall(flow: Flow, need: Need, family: Family) -> np.ndarray:
    """How many of the counted positions each unit of the family owns, shape (n,)."""
    track = flow.positions.compressed(need.track)
    return _owned(counted(need, track), family)


def _owned(nodes: np.ndarray, family: Family) -> np.ndarray:
    units, count = np.unique(nodes, return_counts=True)
    owned = dict(zip(units.tolist(), count.tolist(), strict=True))
    return np.array([owned.get(root, 0) for root in family.roots.tolist()], np.int64)


def _follows(number: Number, falls: dict[Key, np.ndarray], wanted: np.ndarray) -> bool:
    """Whether the number falls as wanted when these attributes do, for one unit and for several."""
    values = number.values
    for units in (1, 2):
        now = {key: values[key] - int(fall[:units].sum()) for key, fall in falls.items()}
        try:
            if number.compute(now) != int(number) - int(wanted[:units].sum()):
                return False
        except ZeroDivisionError:
            return False
    return True


def _proportional(number: Number, wanted: np.ndarray, falls: dict[Key, np.ndarray]) -> dict[Key, np.ndarray]:
    """The first attribute whose fall in proportion explains that of the number, beside others known to fall."""
    known = {key: falls[key] for key in number.sources if key in falls}
    for key in sorted(number.sources - falls.keys()):
        value = number.values[key]
        fall = wanted * value // max(int(number), 1)
        if _follows(number, known | {key: fall}, wanted):
            return {key: fall}
    return {}


def _groups(flow: Flow, family: Family) -> Iterator[Count]:
    """The groups of grouped convolutions that the family is part of: they leave as a whole, or none of them does."""
    layers = {site.name.rpartition(".")[0] for site, _ in family.parts}
    for layer, grid in ((layer, grid) for layer, grid in flow.grouped.items() if layer in layers):
        track = flow.positions.compressed(grid)
        leave = _owned(track[:, 0], family) if len(track) > 1 else np.zeros(family.size, np.int64)
        yield Count(layer, "groups", -1, torch.from_numpy(leave))
