"""Shared by the speed benchmarks: two contenders side by side, and a summary of every measured ratio.

Run with `pytest bench/speed` (or `make speed`); the default suite does not collect this folder. Whatever a
benchmark claims is a ratio of two things measured in turn in one run, so that the speed of the machine, and
most of what else runs on it, cancels.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: one thread, so that CPU seconds are comparable

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

LINES = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class Contender:
    """Something to time: `run` is timed on what `prepare`, which is not timed, has made for it."""

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Ratio:
    """Median over pairs of (seconds of ours / seconds of theirs), with quartiles."""

    ours: list[float]
    theirs: list[float]

    @property
    def pairs(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def median(self) -> float:
        return statistics.median(self.pairs)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.pairs) < 2:
            return self.pairs[0], self.pairs[0]
        low, _, high = statistics.quantiles(self.pairs, n=4, method="inclusive")
        return low, high

    def __str__(self) -> str:
        low, high = self.quartiles
        times = f"{_duration(self.ours)} against {_duration(self.theirs)}"
        return f"{self.median:.3f} (quartiles {low:.3f} to {high:.3f} of {len(self.pairs)} pairs; {times})"


@pytest.fixture(scope="session")
def contender() -> type[Contender]:
    """The class, for test modules, which cannot import this file."""
    return Contender


@pytest.fixture
def note(request, benchmark) -> Callable[..., None]:
    """Writes numbers into the benchmark's extra_info and a line into the summary at the end."""

    def write(text: str, **numbers: float) -> None:
        benchmark.extra_info.update(numbers)
        request.config.stash.setdefault(LINES, []).append(text)

    return write


@pytest.fixture
def compare(benchmark, note) -> Callable[..., Ratio]:
    """Runs two contenders in turn, `rounds` times after one warm-up of both, and notes their ratio.

    The benchmark's own table shows wall seconds of ours; the ratio is one of CPU seconds.
    """

    def measure(title: str, ours: Contender, theirs: Contender, rounds: int) -> Ratio:
        mine: list[float] = []
        other: list[float] = []

        def setup() -> tuple[tuple[Any], dict]:
            other.append(cpu_seconds(theirs.run, theirs.prepare()))
            return (ours.prepare(),), {}

        benchmark.pedantic(
            lambda subject: mine.append(cpu_seconds(ours.run, subject)), setup=setup, rounds=rounds, warmup_rounds=1
        )
        ratio = Ratio(mine[-rounds:], other[-rounds:])
        low, high = ratio.quartiles
        note(f"{title}: {ratio}", ratio=ratio.median, ratio_low=low, ratio_high=high)
        return ratio

    return measure


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Print what was noted, whether or not the tests passed."""
    if lines := config.stash.get(LINES, []):
        terminalreporter.section("ratios")
        for line in lines:
            terminalreporter.write_line(line)


def cpu_seconds(run: Callable[[Any], object], subject: Any) -> float:
    """CPU seconds of one run: time in which another process held the core does not count."""
    start = time.process_time()
    run(subject)
    return time.process_time() - start


def _duration(seconds: list[float]) -> str:
    value = statistics.median(seconds)
    if value >= 1:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
