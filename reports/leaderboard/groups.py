"""Which entrants are told apart: Holm's step-down procedure, places with bounds, and letters."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from .paired import Array

Flags = NDArray[np.bool_]


def holm(p: Array) -> Array:
    """Adjusted p values (Holm 1979) of the pairs above the diagonal of a symmetric matrix; 1 on the diagonal."""
    rows, columns = np.triu_indices(len(p), 1)
    adjusted = np.ones_like(p)
    adjusted[rows, columns] = adjusted[columns, rows] = stepped_down(p[rows, columns])
    return adjusted


def stepped_down(raw: Array) -> Array:
    """Holm's adjusted p values of a family of tests, (n,)."""
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * (len(raw) - np.arange(len(raw)))), 1.0)
    return adjusted


def bounds(values: Array, apart: Flags) -> tuple[list[int], list[int]]:
    """Best and worst place each entrant can have: 1 plus those surely better, all minus those surely worse.

    With probability 1 - alpha these hold for all entrants at once, where `apart` has that family-wise error
    (Mogstad et al. 2024). `values` are differences, row minus column.
    """
    worse_than = (apart & (values < 0)).sum(axis=1)
    better_than = (apart & (values > 0)).sum(axis=1)
    return [int(1 + n) for n in worse_than], [int(len(values) - n) for n in better_than]


def letters(apart: Flags) -> list[str]:
    """A compact letter display (Piepho 2004): two entrants share a letter if and only if they are not told apart.

    Entrants come in the order of their places, so that a is the group of the first.
    """
    size = len(apart)
    groups = [frozenset(range(size))]
    for i, j in zip(*np.triu_indices(size, 1), strict=True):
        if apart[i, j]:
            split = [g - {k} for g in groups if {i, j} <= g for k in (int(i), int(j))]
            groups = _absorbed([g for g in groups if not {i, j} <= g] + split)
    ordered = sorted(groups, key=lambda g: sorted(g))
    return ["".join(_letter(k) for k, g in enumerate(ordered) if i in g) for i in range(size)]


def marks(group: str) -> set[str]:
    """The letters of an entrant: `ab2` are a and b2."""
    return set(re.findall(r"[a-z]\d*", group))


def _absorbed(groups: list[frozenset[int]]) -> list[frozenset[int]]:
    """Without groups that lie in another one."""
    distinct = list(dict.fromkeys(groups))
    return [g for g in distinct if not any(g < other for other in distinct)]


def _letter(index: int) -> str:
    """a, b, ..., z, a2, b2, ..."""
    turn, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")
