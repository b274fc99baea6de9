"""Where positions go at concatenations and flattenings, read from the shapes that autograd has saved.

torch-pruning looks for the width of a concatenation or a flattening in the next layer, and finds a wrong one
if inputs of the network take part, or if one follows the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .sites import Site


@dataclass(frozen=True, eq=False)
class Arrival:
    """Positions `before` of a site that reach an operation as its positions `after`.

    Attributes:
        source: The site.
        function: The gradient function of the layer or operation that they come from.
        before: Positions of the site.
        after: As many positions of what they reach.
        moved: Whether these are others, or the same.
    """

    source: Site
    function: Any
    before: np.ndarray
    after: np.ndarray
    moved: bool

    @property
    def width(self) -> int:
        """Positions up to the last one reached."""
        return int(self.after.max(initial=-1)) + 1


def moved(function: Any, arrivals: list[Arrival]) -> list[Arrival]:
    """The arrivals at the operation of this gradient function, where its shapes tell that they are."""
    name = type(function).__name__
    if name.startswith("CatBackward"):
        return _side_by_side(function, arrivals)
    if name.startswith(("ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward")) and len(arrivals) == 1:
        return [_flattened(tuple(function._saved_self_sym_sizes), _shape(function), arrivals[0])]
    return arrivals


def _side_by_side(function: Any, arrivals: list[Arrival]) -> list[Arrival]:
    """Behind each other in a concatenation of channels; one part may be unknown, such as the network's inputs."""
    parts = [part for part, _ in function.next_functions]
    known = {arrival.function: arrival.source.width for arrival in arrivals}
    total = _shape(function)[_signed(function._saved_dim)]
    widths = [known.get(part) or total - sum(known.values()) for part in parts]
    if sum(widths) != total or len(known) != len(arrivals):
        return arrivals
    starts = dict(zip(parts, np.cumsum(widths) - widths, strict=True))
    return [replace(one, after=one.before + starts[one.function], moved=True) for one in arrivals]


def _flattened(before: tuple[int, ...], after: tuple[int, ...], arrival: Arrival) -> Arrival:
    """All positions of an axis of shape `before` (n, ...) in a row of shape `after` (n, product of the rest)."""
    width = arrival.source.width
    # Channels are the first axis of images and the last one of tokens.
    axis = before.index(width, 1) if width in before[1:] else 1
    if len(before) < 3 or len(after) != 2 or after[1] != math.prod(before[1:]) or width > before[axis]:
        return arrival
    grid = np.moveaxis(np.arange(after[1]).reshape(before[1:]), axis - 1, 0).reshape(before[axis], -1)
    columns = grid[arrival.before]
    return replace(arrival, before=np.repeat(arrival.before, columns.shape[1]), after=columns.ravel(), moved=True)


def _shape(function: Any) -> tuple[int, ...]:
    return tuple(function._input_metadata[0].shape)


def _signed(axis: int) -> int:
    """An axis counted from the end, which autograd saves as an unsigned number."""
    return axis - 2**64 if axis >= 2**63 else axis
