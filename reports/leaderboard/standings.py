"""The leaderboard: places with bounds and groups, recomputed for whoever is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .groups import bounds, holm, letters, marks, stepped_down
from .paired import Block, Differences, differences
from .planning import Needed, needed
from .stability import Stability, places, stability

ALPHA = 0.05


@dataclass(frozen=True)
class Standing:
    """One entrant among others.

    Attributes:
        entrant: its name.
        place: 1 is best; by mean score.
        best, worst: the places it may truly have, for all entrants at once with 95 %.
        group: letters; who shares one is not told apart.
        score: mean over blocks of the mean over seeds.
        mean_rank: average over blocks of the rank within the block.
        moved: by how many places it moves between split halves.
        lead: mean difference to the first place, negative, with its 95 % t interval, not adjusted.
    """

    entrant: str
    place: float
    best: int
    worst: int
    group: str
    score: float
    mean_rank: float
    moved: float
    lead: tuple[float, float, float]


@dataclass(frozen=True)
class Leaderboard:
    """Entrants by place, what the tests and split halves say, and the blocks it was made of."""

    standings: tuple[Standing, ...]
    tests: Differences
    halves: Stability
    blocks: tuple[Block, ...]
    alpha: float = ALPHA

    @property
    def entrants(self) -> tuple[str, ...]:
        """Their names, best first."""
        return tuple(s.entrant for s in self.standings)

    def standing(self, entrant: str) -> Standing:
        """That of one entrant."""
        return next(s for s in self.standings if s.entrant == entrant)

    def among(self, names: Sequence[str]) -> Leaderboard:
        """The leaderboard of some entrants, computed anew: fewer tests, other places, other groups."""
        return leaderboard([block.of([n for n in block.entrants if n in names]) for block in self.blocks], self.alpha)

    def separates(self, a: str, b: str) -> bool:
        """Whether two entrants are told apart."""
        one, other = (marks(self.standing(name).group) for name in (a, b))
        return not one & other

    def versus(self, entrant: str) -> tuple[list[str], list[str]]:
        """Who is surely better, and who surely worse, than one entrant that was named beforehand.

        A family of its own, Holm over the other methods: fewer tests than for all pairs, so more is told apart.
        """
        names = self.blocks[0].entrants
        k = names.index(entrant)
        others = [i for i in range(len(names)) if i != k]
        apart = stepped_down(self.tests.p[k, others]) <= self.alpha
        gaps = self.tests.values[k, others]
        better = [names[i] for i, far, gap in zip(others, apart, gaps, strict=True) if far and gap < 0]
        return better, [names[i] for i, far, gap in zip(others, apart, gaps, strict=True) if far and gap > 0]

    def needed(self, a: str, b: str) -> Needed:
        """Seeds and blocks that would tell two entrants apart."""
        return needed(self.blocks, a, b)


def leaderboard(blocks: Sequence[Block], alpha: float = ALPHA) -> Leaderboard:
    """Rank the entrants, which must be the same in every block, by their mean score."""
    tests = differences(blocks)
    means = np.array([block.means.mean(axis=0) for block in blocks])
    scores, ranks = means.mean(axis=0), np.mean([places(row) for row in means], axis=0)
    order = np.lexsort((np.arange(len(scores)), -scores))
    apart = holm(tests.p) <= alpha
    best, worst = bounds(tests.values, apart)
    grouped = dict(zip(order, letters(apart[np.ix_(order, order)]), strict=True))
    place, halves = places(scores), stability(blocks)
    first = order[0]
    return Leaderboard(
        tuple(
            Standing(
                blocks[0].entrants[k], float(place[k]), best[k], worst[k], grouped[k], float(scores[k]),
                float(ranks[k]), float(halves.moved[k]), (float(tests.values[k, first]), *tests.interval(k, first)),
            )
            for k in map(int, order)
        ),
        tests, halves, tuple(blocks), alpha,
    )  # fmt: skip
