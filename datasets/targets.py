"""What targets are, by their values: labels, zeros and ones, probabilities of classes, or real numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import UsageError
from .split import IGNORED, Likelihood

TOLERANCE = 1e-3  # of a sum of probabilities, which may be of half precision


def zeros_and_ones(y: np.ndarray) -> bool:
    """Whether y holds nothing but zeros and ones, of whatever type."""
    return y.dtype.kind in "buif" and bool(y.size) and bool(((y == 0) | (y == 1)).all())


def one_hot(y: np.ndarray) -> bool:
    """Whether y is (N, K), K > 1, and each row has a single one among zeros."""
    return y.ndim == 2 and y.shape[1] > 1 and zeros_and_ones(y) and bool((y.sum(axis=1) == 1).all())


def distributions(y: np.ndarray) -> bool:
    """Whether y is real, (N, K), K > 1, and each row holds the probabilities of K classes."""
    return y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1 and bool(y.size) and not _improper(y, True).any()


@dataclass(frozen=True)
class Traits:
    """What targets are by their values, of some examples or, joined with `&`, of all.

    Attributes:
        kind: of numbers, as numpy says it: "b", "i", "u" or "f".
        shape: of one example, in the first batch.
        zeros_and_ones, one_hot, distributions: whether all are, see above.
        low, high: the least and the largest number, of labels those that are not ignored.
    """

    kind: str
    shape: tuple[int, ...]
    zeros_and_ones: bool
    one_hot: bool
    distributions: bool
    low: float
    high: float

    @classmethod
    def of(cls, y: np.ndarray) -> Traits:
        """Those of y (N, ...)."""
        told = y[y != IGNORED] if y.dtype.kind in "iu" else y
        low, high = (told.min().item(), told.max().item()) if told.size else (np.inf, -np.inf)
        return cls(y.dtype.kind, y.shape[1:], zeros_and_ones(y), one_hot(y), distributions(y), low, high)

    def __and__(self, other: Traits) -> Traits:
        return Traits(
            self.kind, self.shape, self.zeros_and_ones and other.zeros_and_ones, self.one_hot and other.one_hot,
            self.distributions and other.distributions, min(self.low, other.low), max(self.high, other.high),
        )  # fmt: skip


def check_probabilities(y: np.ndarray, likelihood: Likelihood) -> None:
    """Refuse real y (N, K) that are no probabilities: of the classes if categorical, else of every label by itself.

    Raises UsageError that names the first example.
    """
    improper = _improper(y, sum_to_one=likelihood == "categorical")
    if improper.any():
        what = {"categorical": "probabilities of the classes, which sum to one", "bernoulli": "numbers from 0 to 1"}
        raise UsageError(
            f"y with a {likelihood} likelihood must be {what[likelihood]}; example {int(improper.argmax())} has "
            f"{np.array2string(y[improper.argmax()], precision=3, threshold=6)}"
        )


def _improper(y: np.ndarray, sum_to_one: bool) -> np.ndarray:
    """Which rows hold a number outside [0, 1], or do not sum to one; boolean (N,)."""
    improper = np.logical_not(np.reshape((y >= 0) & (y <= 1), (len(y), -1)).all(axis=1))
    if sum_to_one:
        improper |= np.abs(y.sum(axis=1, dtype=np.float64) - 1) > TOLERANCE
    return improper
