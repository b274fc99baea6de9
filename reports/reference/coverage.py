"""What the reference results hold of what is planned, matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .results import Reference
from .tiers import TIERS

HEAD = ("tier", "matrix", "cells", "whole seeds", "computed until")


@dataclass(frozen=True)
class Coverage:
    """How far a matrix has been computed.

    Attributes:
        there, planned: cells, today's revisions of them.
        whole, seeds: seeds under which every cell is there, and those that are planned.
        until: the day of the last of them; empty if there is none.
    """

    tier: str
    matrix: str
    there: int
    planned: int
    whole: int
    seeds: int
    until: str

    def texts(self) -> tuple[str, ...]:
        """As a line of a table with `HEAD`."""
        cells, seeds = f"{self.there:,} of {self.planned:,}", f"{self.whole} of {self.seeds}"
        return (self.tier, self.matrix, cells, seeds, self.until or "–")


def coverage(reference: Reference, tiers: Iterable[str] = tuple(TIERS)) -> Iterator[Coverage]:
    """Of every matrix of some tiers, in the order in which they are computed."""
    from ...bench.spec.matrix import load_matrix

    for tier in tiers:
        for matrix in TIERS[tier]:
            held = reference.of(matrix)
            cells = load_matrix(matrix).cells()
            missing = {cell.seed for cell in held.lacks(cells)}
            found = [held.by_key[cell.key] for cell in cells if cell.key in held.by_key]
            until = max((row["started"][:10] for row in found if "started" in row), default="")
            seeds = {cell.seed for cell in cells}
            yield Coverage(tier, matrix, len(found), len(cells), len(seeds - missing), len(seeds), until)
