"""Split halves: would the other half of the seeds and of the test examples have given the same places?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .paired import Array, Block

SPLITS = 200


@dataclass(frozen=True)
class Stability:
    """What two halves that share neither a network nor a test example say.

    Attributes:
        moved: for each entrant, by how many places it moves between the halves, on average over the splits.
        agreement: Kendall's tau-b of the two orders, on average over the splits.
        splits: how many.
    """

    moved: Array
    agreement: float
    splits: int


def stability(blocks: Sequence[Block]) -> Stability:
    """Places from one half of the seeds on every other example against the rest on the others; no draws.

    With one seed in a block both halves are of its network.
    """
    moved, agreement = [], []
    for one, other in halves(min(len(block.scores) for block in blocks)):
        first, second = _scores(blocks, one, 0), _scores(blocks, other, 1)
        moved.append(np.abs(places(first) - places(second)))
        agreement.append(tau(first, second))
    return Stability(np.mean(moved, axis=0), float(np.mean(agreement)), len(moved))


def places(scores: Array) -> Array:
    """Place of each entrant, 1 is best; equal scores share the mean of their places."""
    above = (scores[None, :] > scores[:, None]).sum(axis=1)
    equal = (scores[None, :] == scores[:, None]).sum(axis=1)
    return above + (equal + 1) / 2


def tau(a: Array, b: Array) -> float:
    """Kendall's tau-b; 1 where either side has no order at all, as nothing then disagrees."""
    rows, columns = np.triu_indices(len(a), 1)
    x, y = np.sign(a[rows] - a[columns]), np.sign(b[rows] - b[columns])
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else 1.0


def _scores(blocks: Sequence[Block], seeds: Sequence[int], parity: int) -> Array:
    """Mean over blocks of the mean over these seeds, on the even or the odd examples."""
    return np.mean([np.mean([b.scores[s][:, parity::2].mean(axis=1) for s in seeds], axis=0) for b in blocks], axis=0)


def halves(seeds: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of disjoint halves, evenly picked where there are more than SPLITS."""
    if seeds < 2:
        return iter([((0,), (0,))])
    size = seeds // 2
    every = [
        (one, other)
        for one in itertools.combinations(range(seeds), size)
        for other in itertools.combinations([s for s in range(seeds) if s not in one], size)
        if one < other
    ]
    step = max(1, -(-len(every) // SPLITS))
    return iter(every[::step])
