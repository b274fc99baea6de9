"""Stratified, seeded choices: whole numbers per class in proportion to the classes' sizes."""

from __future__ import annotations

import numpy as np

Index = np.ndarray  # int64 (n,), positions of examples
Stream = np.random.Generator


def split(strata: np.ndarray, rng: Stream) -> tuple[Index, Index, Index]:
    """Cut all examples into 60 % training, 20 % validation and 20 % test."""
    everything, fifth = np.arange(len(strata)), round(len(strata) / 5)
    test, rest = take(everything, strata, fifth, rng)
    validation, train = take(rest, strata, fifth, rng)
    return train, validation, test


def hold_out(train: Index, strata: np.ndarray, rng: Stream) -> tuple[Index, Index]:
    """Cut `train` into training and validation examples: 10 %, at least one of each class."""
    validation, train = take(train, strata, round(len(train) / 10), rng)
    return train, validation


def take(pool: Index, strata: np.ndarray, n: int, rng: Stream, leave: int = 1) -> tuple[Index, Index]:
    """Choose `n` examples of `pool` in proportion to their classes; returns them and the others, shuffled.

    `strata` holds the class, from 0, of every example there is, not of the pool's alone. At least one
    of each class is chosen, and at least `leave` are left over, of classes with enough examples for
    that; where this forbids exactly `n`, the nearest possible number is chosen.
    """
    drawn = shuffled(pool, rng)
    counts = np.bincount(strata[drawn])
    upper = np.maximum(counts - leave, 0)
    quota = quotas(counts, n, np.minimum(upper, 1), upper)
    by_class = drawn[strata[drawn].argsort(kind="stable")]
    rank = np.arange(len(drawn)) - np.repeat(counts.cumsum() - counts, counts)
    chosen = rank < np.repeat(quota, counts)
    return shuffled(by_class[chosen], rng), shuffled(by_class[~chosen], rng)


def shuffled(pool: Index, rng: Stream) -> Index:
    """The positions in a random order; from uniform numbers, whose stream numpy keeps across versions."""
    return pool[rng.random(len(pool)).argsort(kind="stable")]


def quotas(counts: np.ndarray, n: int, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Share out `n` in proportion to `counts` between `lower` and `upper`: largest remainders first.

    In whole numbers throughout, so that no platform rounds differently.
    """
    n, total = int(np.clip(n, lower.sum(), upper.sum())), max(counts.sum(), 1)
    quota = np.clip(counts * n // total, lower, upper)
    while quota.sum() != n:
        short = counts * n - quota * total
        if quota.sum() < n:
            quota[np.where(quota < upper, short, short.min() - 1).argmax()] += 1
        else:
            quota[np.where(quota > lower, short, short.max() + 1).argmin()] -= 1
    return quota
