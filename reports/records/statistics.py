"""Statistics of few seeds and few data sets, and what they cannot claim.

Intervals are percentile bootstraps over seeds with an explicit generator. Aggregates follow rliable
(Agarwal et al., 2021, arXiv 2108.13264): interquartile mean, seeds resampled within each block, probability
of improvement. Ranks over blocks follow Demšar (2006, JMLR 7): Friedman's test, Nemenyi's critical
difference. A block is one (data set, architecture); seeds are averaged inside it, never counted as blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
DRAWS = 2000
SEED = 0  # of the generator that every interval begins anew
FEW_SEEDS = 3
FEW_BLOCKS = 6
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with a bootstrap interval; `low` and `high` are NaN where one seed gives no interval."""

    value: float
    low: float
    high: float
    n: int


def generator(seed: int = SEED) -> np.random.Generator:
    """The generator of the reports: the same records always give the same intervals."""
    return np.random.default_rng(seed)


def mean_band(
    values: ArrayLike, rng: np.random.Generator, level: float = LEVEL, draws: int = DRAWS
) -> tuple[Array, Array, Array]:
    """Mean over seeds, with a bootstrap band; whole seeds are resampled, all their points together.

    `values` is (seeds, points), NaN where a seed has no value. Returns mean, low and high, each (points,);
    low and high are NaN at points with fewer than two seeds.
    """
    values = np.asarray(values, dtype=float)
    picks = rng.integers(0, len(values), (draws, len(values)))
    low, high = _quantiles(_nanmean(values[picks], axis=1), level)
    single = np.isfinite(values).sum(axis=0) < 2
    return _nanmean(values, axis=0), np.where(single, np.nan, low), np.where(single, np.nan, high)


def mean_interval(values: ArrayLike, rng: np.random.Generator, level: float = LEVEL, draws: int = DRAWS) -> Interval:
    """Mean of the finite values, one per seed, with a bootstrap interval."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean, low, high = mean_band(finite[:, None], rng, level, draws)
    return Interval(float(mean[0]), float(low[0]), float(high[0]), len(finite))


def _nanmean(values: Array, axis: int) -> Array:
    there = np.isfinite(values)
    count = there.sum(axis=axis)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def _quantiles(samples: Array, level: float) -> tuple[Array, Array]:
    """Lower and upper quantile over axis 0 of (draws, points), NaN draws left out."""
    empty = ~np.isfinite(samples).any(axis=0)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(np.where(empty, 0.0, samples), tails, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


# ---------------------------------------------------------------- aggregates over blocks

Strata = Sequence[Array]
"""One array per block, seeds on the last axis."""


def iqm(values: ArrayLike) -> Array:
    """Interquartile mean over the last axis: the mean without the lowest and the highest quarter."""
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def pooled_iqm(strata: Strata) -> Array:
    """Interquartile mean over all seeds of all blocks."""
    return iqm(np.concatenate(strata, axis=-1))


def block_mean(strata: Strata) -> Array:
    """Mean over blocks of the mean over seeds: every block weighs the same."""
    return np.mean([block.mean(axis=-1) for block in strata], axis=0)


def stratified(
    statistic: Callable[[Strata], Array],
    strata: Strata,
    rng: np.random.Generator,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Interval:
    """A statistic of blocks, with a bootstrap interval that resamples seeds within each block."""
    n = min((len(block) for block in strata), default=0)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    samples = statistic([block[rng.integers(0, len(block), (draws, len(block)))] for block in strata])
    return _interval(float(statistic(strata)), samples, n, level)


def _interval(value: float, samples: Array, n: int, level: float) -> Interval:
    """No interval from one seed per block: nothing was resampled."""
    low, high = _quantiles(samples[:, None], level) if n > 1 else (np.array([np.nan]), np.array([np.nan]))
    return Interval(value, float(low[0]), float(high[0]), n)


def improvement(a: Strata, b: Strata) -> Array:
    """P(A > B): how often a seed of A beats a seed of B (ties count half), averaged over blocks.

    Larger values are better; blocks of `a` and `b` correspond.
    """
    return np.mean([_wins(one, other) for one, other in zip(a, b, strict=True)], axis=0)


def _wins(a: Array, b: Array) -> Array:
    difference = np.sign(a[..., :, None] - b[..., None, :])
    return (difference.mean(axis=(-1, -2)) + 1) / 2


def improvement_interval(
    a: Strata, b: Strata, rng: np.random.Generator, level: float = LEVEL, draws: int = DRAWS
) -> Interval:
    """P(A > B) with a bootstrap interval: seeds of A and of B are resampled independently in each block."""
    n = min((len(block) for block in (*a, *b)), default=0)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    again = [[block[rng.integers(0, len(block), (draws, len(block)))] for block in side] for side in (a, b)]
    return _interval(float(improvement(a, b)), improvement(*again), n, level)


# ---------------------------------------------------------------- ranks over blocks


@dataclass(frozen=True)
class Comparison:
    """Average ranks of k methods over blocks (1 is best), and whether they can be told apart.

    `statistic` and `p_value` are those of `test`: Friedman's chi-squared, or with two methods the number of blocks
    that the first one wins, in an exact sign test. They are NaN with fewer than two methods or blocks, or if all
    methods tie in every block. Methods whose average ranks differ by less than `critical_difference` (NaN for
    fewer than three methods) cannot be told apart; that others differ is known only if `significant`.
    `warnings` are sentences.
    """

    ranks: Array
    statistic: float
    p_value: float
    critical_difference: float
    blocks: int
    warnings: tuple[str, ...]
    significant: bool

    @property
    def test(self) -> str:
        """The test that all methods are alike, as it stands in a sentence."""
        return "Friedman's test" if len(self.ranks) > 2 else "exact two-sided sign test"


def average_ranks(scores: ArrayLike) -> Array:
    """Average rank of each method, ties shared; `scores` is (..., blocks, methods), larger is better."""
    return stats.rankdata(-np.asarray(scores, dtype=float), axis=-1).mean(axis=-2)


def nemenyi_q(methods: int, alpha: float = 0.05) -> float:
    """Studentized range quantile with infinite degrees of freedom over sqrt 2 (Demšar 2006, table 5a)."""
    return float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks; NaN for fewer than two methods or blocks."""
    if methods < 2 or blocks < 2:
        return math.nan
    return nemenyi_q(methods, alpha) * math.sqrt(methods * (methods + 1) / (6 * blocks))


def compare(scores: ArrayLike, alpha: float = 0.05) -> Comparison:
    """Rank methods over blocks: `scores` is (blocks, methods), seeds already averaged, larger is better."""
    scores = np.asarray(scores, dtype=float)
    blocks, methods = scores.shape
    statistic = p_value = math.nan
    if methods >= 2 and blocks >= 2 and (scores != scores[:, :1]).any():
        statistic, p_value = sign_test(*scores.T) if methods == 2 else map(float, stats.friedmanchisquare(*scores.T))
    return Comparison(
        average_ranks(scores),
        statistic,
        p_value,
        critical_difference(methods, blocks, alpha) if methods > 2 else math.nan,
        blocks,
        few_blocks(blocks),
        p_value <= alpha,
    )


def sign_test(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Exact two-sided sign test of paired values, ties left out: (how often a is larger, p value)."""
    signs = np.sign(np.asarray(a, dtype=float) - np.asarray(b, dtype=float))
    wins, untied = int((signs > 0).sum()), int((signs != 0).sum())
    return float(wins), float(stats.binomtest(wins, untied).pvalue) if untied else 1.0


def mean_rank_intervals(
    cubes: Sequence[Array], rng: np.random.Generator, level: float = LEVEL, draws: int = DRAWS
) -> list[Interval]:
    """Average rank of each method with a bootstrap interval over seeds, the blocks held fixed.

    `cubes` has one (seeds, methods) array per block; a seed is resampled for all methods at once, because
    methods share its initial network and data order.
    """
    n = min(len(cube) for cube in cubes)
    value = average_ranks(np.stack([cube.mean(axis=0) for cube in cubes]))
    picks = [np.sort(rng.integers(0, len(cube), (draws, len(cube)))) for cube in cubes]  # equal picks, equal means
    again = [cube[own].mean(axis=1) for cube, own in zip(cubes, picks, strict=True)]
    samples = average_ranks(np.stack(again, axis=1))
    return [_interval(float(value[k]), samples[:, k], n, level) for k in range(len(value))]


def few_seeds(seeds: int) -> tuple[str, ...]:
    """A warning as data, if there are too few seeds to say much."""
    if seeds >= FEW_SEEDS:
        return ()
    what = "no interval can be given" if seeds < 2 else "the spread over seeds is hardly known"
    some = f"Only {seeds} seed{'s' * (seeds != 1)}"
    return (f"{some} behind some results ({FEW_SEEDS} or more are needed): {what}.",)


COVERAGE = {2: 50, 3: 75, 4: 80, 5: 85, 6: 86, 7: 87, 8: 88, 9: 89}
"""What a 95 % percentile bootstrap of the mean of n normal values really covers, in per cent (by simulation)."""


def thin_intervals(seeds: int) -> tuple[str, ...]:
    """What the 95 % of an interval from so few seeds are worth, as a sentence; nothing from ten seeds on."""
    if seeds not in COVERAGE:
        return ()
    return (
        f"Intervals are bootstraps of {seeds} seeds: of so few, a nominal 95 % interval holds the true mean "
        f"only about {COVERAGE[seeds]} % of the time.",
    )


def few_blocks(blocks: int) -> tuple[str, ...]:
    """A warning as data, if there are too few (data set, architecture) blocks for a test of ranks."""
    if blocks >= FEW_BLOCKS:
        return ()
    return (
        f"Only {blocks} block{'s' * (blocks != 1)} of data set × architecture ({FEW_BLOCKS} or more are needed): "
        "the tests of ranks have hardly any power, and ranks must not be generalised.",
    )


def indistinguishable(
    means: ArrayLike, deviations: ArrayLike, counts: ArrayLike, best: int, alpha: float = 0.05
) -> NDArray[np.bool_]:
    """Which of several means cannot be told from the best one: Welch's t test at `alpha`, per pair.

    Shapes (methods,). Where either side has fewer than two seeds nothing can be said, and the answer is no.
    """
    means, deviations, counts = (np.asarray(x, dtype=float) for x in (means, deviations, counts))
    known = (counts >= 2) & (counts[best] >= 2) & np.isfinite(means)
    spread = np.sqrt(deviations**2 / np.maximum(counts, 1) + deviations[best] ** 2 / max(counts[best], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.ttest_ind_from_stats(
            means, deviations, counts, means[best], deviations[best], counts[best], equal_var=False
        ).pvalue
    same = np.where(spread > 0, p > alpha, means == means[best])
    return known & same
