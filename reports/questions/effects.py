"""Effects: a number for each block and seed that is zero where there is nothing to see, and what all of them say.

An effect is a difference of two methods on the same network, data and seed, or anything else of that kind. Blocks are
data set × architecture; they weigh the same and are held fixed, seeds within them carry the test
(`leaderboard.paired`), and all effects of a question are one family for Holm's procedure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ..leaderboard.groups import stepped_down
from ..leaderboard.paired import Block, differences
from ..leaderboard.standings import ALPHA

Verdict = Literal["above", "below", "alike", "undecided", "not run"]
Effects = Mapping[str, pd.Series]
"""By name: values by block and seed."""

FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Estimate:
    """One effect over all blocks that have at least two seeds of it.

    Attributes:
        value, low, high: mean over blocks of means over seeds, and its 95 % t interval.
        p: adjusted by Holm's procedure over the effects of the question.
        blocks: mean over seeds in each block.
        seeds: the fewest of a block.
        verdict: see `decided`.
    """

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = 1.0
    blocks: tuple[tuple[str, float], ...] = ()
    seeds: int = 0
    verdict: Verdict = "not run"


def estimated(effects: Effects, margin: float) -> dict[str, Estimate]:
    """All effects of a question; `margin` is what a difference must have to matter, in their unit."""
    blocks = {name: _blocks(values) for name, values in effects.items()}
    tests = {name: differences(found) for name, found in blocks.items() if found}
    adjusted = stepped_down(np.array([test.p[0, 1] for test in tests.values()]))
    p_values = dict(zip(tests, map(float, adjusted), strict=True))
    found = {}
    for name, test in tests.items():
        value, (low, high) = float(test.values[0, 1]), test.interval(0, 1)
        means = tuple((block.name, float(block.means[:, 0].mean())) for block in blocks[name])
        seeds = min(len(block.scores) for block in blocks[name])
        verdict = decided(value, low, high, p_values[name], margin)
        found[name] = Estimate(name, value, low, high, p_values[name], means, seeds, verdict)
    return {name: found.get(name, Estimate(name)) for name in effects}


def decided(value: float, low: float, high: float, p: float, margin: float) -> Verdict:
    """What an estimate says.

    Alike: the whole interval lies within the margin, so that a difference, if there is one, does not matter. Above and
    below: surely not zero (adjusted p), and at least the margin. Else undecided.
    """
    if -margin <= low and high <= margin:
        return "alike"
    if p <= ALPHA and abs(value) >= margin:
        return "above" if value > 0 else "below"
    return "undecided"


def _blocks(values: pd.Series) -> list[Block]:
    """The effect beside zero, as blocks of two entrants with one example each."""
    found = []
    for name, own in values.dropna().sort_index().groupby(level="block"):
        if len(own) >= FEWEST_SEEDS:
            scores = tuple(np.array([[value], [0.0]]) for value in own)
            found.append(Block(str(name), ("effect", "zero"), scores))
    return found
