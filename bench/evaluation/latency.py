"""Honest latency: dense, masked and compact networks timed in turn on the same inputs, as ratios with an interval.

One forward pass in evaluation mode is timed at a time, the contenders in turn, each round beginning with another, so
that the drift of a busy machine falls on all alike. The ratio of a round is dense over the other: above 1 is faster.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ...architectures.running.modes import evaluating
from ...datasets.trees import Inputs, device_of, examples, rows
from .verdict import verdict

BATCHES = (1, 16, 64)
ROUNDS = 25
SECONDS = 0.5  # for each batch size, after the warm-up; at least five rounds
FEWEST = 5


@dataclass(frozen=True)
class Speedup:
    """Median over rounds of dense seconds / own seconds, with a 95 % interval of the median."""

    batch: int
    seconds: float
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, or `no faster` where the interval holds 1."""
        return verdict(self.low, self.high)

    def record(self) -> dict[str, Any]:
        """As JSON, with the verdict."""
        return asdict(self) | {"verdict": self.verdict}


def speedups(
    dense: nn.Module, others: Mapping[str, nn.Module], x: Inputs, batches: Sequence[int] = BATCHES,
    seconds: float = SECONDS,
) -> dict[str, list[Speedup]]:  # fmt: skip
    """How much faster each of `others` is than `dense`, for every batch size; inputs are repeated from `x`.

    The threads are those that torch uses now.
    """
    contenders = {"dense": dense, **others}
    found: dict[str, list[Speedup]] = {name: [] for name in others}
    for size in batches:
        inputs = rows(x, torch.arange(size, device=device_of(x)) % examples(x))
        taken = times(contenders, inputs, seconds)
        for name in others:
            found[name].append(speedup_of(size, taken["dense"], taken[name]))
    return found


Name = TypeVar("Name", bound=Hashable)


def times(contenders: Mapping[Name, nn.Module], x: Inputs, seconds: float) -> dict[Name, list[float]]:
    """Seconds of one forward pass at a time, the contenders in turn, for about so many `seconds` in all."""
    order, first = list(contenders), next(iter(contenders))
    times: dict[Name, list[float]] = {name: [] for name in contenders}
    for name in order:  # allocations and choices of algorithms happen here
        _seconds(contenders[name], x)
    end = time.perf_counter() + seconds
    while len(times[first]) < FEWEST or (len(times[first]) < ROUNDS and time.perf_counter() < end):
        order.append(order.pop(0))
        for name in order:
            times[name].append(_seconds(contenders[name], x))
    return times


def _seconds(network: nn.Module, x: Inputs) -> float:
    with evaluating(network), torch.no_grad():
        _wait(x)
        start = time.perf_counter()
        network(x)
        _wait(x)
        return time.perf_counter() - start


def _wait(x: Inputs) -> None:
    if device_of(x).type == "cuda":
        torch.cuda.synchronize(device_of(x))


def speedup_of(batch: int, dense: list[float], own: list[float]) -> Speedup:
    """The ratio of times taken in the same rounds."""
    ratios = sorted(d / o for d, o in zip(dense, own, strict=True))
    low, high = _median_interval(len(ratios))
    return Speedup(batch, statistics.median(own), statistics.median(ratios), ratios[low], ratios[high])


def _median_interval(n: int, confidence: float = 0.95) -> tuple[int, int]:
    """Ranks of the order statistics that hold the median with this confidence (binomial), the widest if none do."""
    tail, rank = 0.0, 0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - confidence:
            break
        rank = k + 1
    return max(rank - 1, 0), n - 1 - max(rank - 1, 0)
