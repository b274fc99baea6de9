"""How many seeds, and how many blocks, would tell two entrants apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .paired import Block
from .student import two_sided_p

MOST = 1_000_000
POWER = 0.8416212335729143  # quantile of the normal distribution: in four of five repetitions
LEVEL = 0.05


@dataclass(frozen=True)
class Needed:
    """What would tell two entrants apart, if their differences are what they seem to be: None beyond a million.

    Attributes:
        seeds: in each of these blocks, for a finding about these blocks.
        blocks: like these, for a finding about blocks in general; None with a single block.
    """

    seeds: int | None
    blocks: int | None


def needed(blocks: Sequence[Block], a: str, b: str, level: float = LEVEL) -> Needed:
    """Seeds and blocks for one planned comparison at `level`, with a power of 80 %."""
    gaps = [_gaps(block, a, b) for block in blocks]
    means = np.array([gap.mean() for gap in gaps])
    difference, count = abs(float(means.mean())), len(blocks)
    within = [float(gap.var(ddof=1)) for gap in gaps if len(gap) > 1]
    seeds = blocks_needed = None
    if within:
        spread = sum(within) / len(within)
        seeds = _smallest(lambda n: (difference, math.sqrt(spread / (n * count)), count * (n - 1)), level)
    if count > 1:
        between = float(means.var(ddof=1))
        blocks_needed = _smallest(lambda n: (difference, math.sqrt(between / n), n - 1), level)
    return Needed(seeds, blocks_needed)


def _gaps(block: Block, a: str, b: str) -> np.ndarray:
    means = block.means
    return means[:, block.entrants.index(a)] - means[:, block.entrants.index(b)]


def _smallest(test: Callable[[int], tuple[float, float, float]], level: float) -> int | None:
    """The smallest n >= 2 whose expected t, less what power asks for, is significant."""

    def enough(n: int) -> bool:
        difference, error, df = test(n)
        if error == 0:
            return difference > 0
        t = difference / error - POWER
        return t > 0 and two_sided_p(t, df) <= level

    high = 2
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = max(2, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
