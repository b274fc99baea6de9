"""Paired tests of every two entrants: examples within seeds, seeds within blocks, blocks of equal weight.

An entrant scores every test example of every seed of a block. Two entrants are compared on the same examples, so what
is hard for both cancels. A network differs from the next seed's by more than its test examples say: the seeds carry the
test, the examples its floor. Where all seeds share one test set, seeds and examples are crossed, and the variance of
a mean has a part of each (Owen 2007, arXiv 0712.1111). Blocks are what they are, no sample: the finding holds for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .student import t_quantile, two_sided_p

Array = NDArray[np.float64]
ROUNDING = 1e-12  # of two variances whose difference is meant to be zero
DIGITS = 12  # of means: equal accuracies must tie, whatever the order of summation


def means_of(scores: Array) -> Array:
    """Mean score of each entrant over examples, (entrants,)."""
    return np.round(scores.mean(axis=1), DIGITS)


@dataclass(frozen=True)
class Block:
    """What entrants scored in one block.

    Attributes:
        name: of the block.
        entrants: their names.
        scores: one (entrants, examples) array for each seed; larger is better.
        is_crossed: whether all seeds have the same test examples, in the same order.
    """

    name: str
    entrants: tuple[str, ...]
    scores: tuple[Array, ...]
    is_crossed: bool = False

    @property
    def means(self) -> Array:
        """Mean score of each entrant under each seed, (seeds, entrants)."""
        return np.array([means_of(scores) for scores in self.scores])

    def of(self, names: Sequence[str]) -> Block:
        """The same with these entrants alone."""
        rows = [self.entrants.index(name) for name in names]
        return Block(self.name, tuple(names), tuple(scores[rows] for scores in self.scores), self.is_crossed)


@dataclass(frozen=True)
class Differences:
    """Every two entrants compared, each array (entrants, entrants): row minus column, averaged over blocks.

    Attributes:
        values: mean differences of scores.
        errors: their standard errors; from the examples alone where no block has two seeds.
        df: degrees of freedom; 0 where no block has two seeds, and nothing can be said about methods.
        p: two-sided p values, 1 where nothing can be said.
    """

    values: Array
    errors: Array
    df: Array
    p: Array

    def interval(self, a: int, b: int, level: float = 0.95) -> tuple[float, float]:
        """The t interval of one difference; NaN where no block has two seeds."""
        if not self.df[a, b] > 0:
            return math.nan, math.nan
        half = t_quantile(float(self.df[a, b]), level) * float(self.errors[a, b])
        return float(self.values[a, b]) - half, float(self.values[a, b]) + half


def differences(blocks: Sequence[Block]) -> Differences:
    """Compare every two entrants over blocks that all have the same entrants; Welch and Satterthwaite's degrees."""
    parts = [_variances(block) for block in blocks]
    means = np.mean([block.means.mean(axis=0) for block in blocks], axis=0)
    values = means[:, None] - means[None, :]
    variance = np.sum([v for v, _ in parts], axis=0) / len(blocks) ** 2
    known = np.all([df > 0 for _, df in parts], axis=0)
    terms = np.sum([v**2 / np.maximum(df, 1e-9) for v, df in parts], axis=0) / len(blocks) ** 4
    df = np.where(known, np.where(terms > 0, variance**2 / np.where(terms > 0, terms, 1), 1), 0)
    errors = np.sqrt(variance)
    return Differences(values, errors, df, _p_values(values, errors, df))


def _variances(block: Block) -> tuple[Array, Array]:
    """Variance of each mean difference within one block, and its degrees of freedom, both (entrants, entrants)."""
    seeds = len(block.scores)
    by_examples = np.mean([_spread(_covariance(s)) / s.shape[1] for s in block.scores], axis=0) / seeds
    if seeds < 2:
        return by_examples, np.zeros_like(by_examples)
    by_seeds = _spread(_covariance(block.means.T)) / seeds
    variance = _crossed(block, by_seeds) if block.is_crossed else np.maximum(by_seeds, by_examples)
    return variance, np.full_like(by_seeds, seeds - 1)  # the seeds are few, and their part is the least known


def _crossed(block: Block, by_seeds: Array) -> Array:
    """Seeds and examples each have a part; what both count, their interaction, is taken off once."""
    cube = np.stack(block.scores)
    seeds, _, examples = cube.shape
    by_examples = _spread(_covariance(cube.mean(axis=0))) / examples
    rest = cube - cube.mean(axis=0) - cube.mean(axis=2)[:, :, None] + cube.mean(axis=(0, 2))[None, :, None]
    flat = rest.transpose(1, 0, 2).reshape(len(block.entrants), -1)
    both = _spread(flat @ flat.T) / ((seeds - 1) * (examples - 1)) / (seeds * examples)
    return np.maximum(by_seeds + by_examples - both, np.maximum(by_seeds, by_examples))


def _covariance(rows: Array) -> Array:
    """Covariance of the rows, each of n >= 2 values; zero for a single value."""
    n = rows.shape[1]
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred @ centred.T / max(n - 1, 1)


def _spread(covariance: Array) -> Array:
    """Variance of the difference of every two; what is rounding is zero."""
    own = np.diag(covariance)
    total = own[:, None] + own[None, :]
    found = total - 2 * covariance
    return np.where(found > ROUNDING * total, found, 0.0)


def _p_values(values: Array, errors: Array, df: Array) -> Array:
    p = np.ones_like(values)
    for a, b in zip(*np.triu_indices(len(values), 1), strict=True):
        if df[a, b] > 0 and values[a, b] != 0:
            t = abs(values[a, b]) / errors[a, b] if errors[a, b] > 0 else math.inf
            p[a, b] = p[b, a] = two_sided_p(float(t), float(df[a, b]))
    return p
