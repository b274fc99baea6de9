"""Answering an open question: computing what decides it, judging by its rule, writing its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..questions.catalogue import QUESTIONS, named
from ..questions.page import write
from ..questions.question import Finding, Question
from ..questions.records import core_minutes, evidence
from ..reference.results import Reference
from .compare import seconds_of

if TYPE_CHECKING:
    from ...bench.spec.run import Run


def listing(reference: Reference) -> Iterator[str]:
    """A line for each question: what it asks, and its answer by the records that come with the package."""
    width = max(map(len, QUESTIONS))
    for name, question in QUESTIONS.items():
        rows = reference.of(*question.matrices).rows
        answer = question.judged(evidence(question, reference)).answer
        cost = f"{len(rows)} cells, {core_minutes(rows):.0f} minutes of one core" if rows else "no cells yet"
        yield f"  {name:<{width}}  {question.asks}\n  {'':<{width}}    {answer} ({cost})"


def todo(question: Question, reference: Reference) -> dict[str, list[Run]]:
    """The cells of each matrix that the reference does not hold."""
    from ...bench.spec.matrix import load_matrix

    return {name: reference.lacks(load_matrix(name).cells()) for name in question.matrices}


def estimate(cells: dict[str, list[Run]], jobs: int) -> float:
    """About how many seconds they take, if none of them is there yet."""
    return sum(seconds_of(own) for own in cells.values() if own) / jobs


def compute(
    cells: dict[str, list[Run]], out: Path, jobs: int | None, progress: Callable[[int], Callable[[int], None]]
) -> None:
    """Run them, each matrix into a folder of its name; what is finished there is not run again."""
    from ...bench.harness.run_matrix import run

    for name, own in cells.items():
        if own:
            run(sorted(own, key=lambda r: r.seed), out / name, jobs=jobs, device="cpu", progress=progress)


def answer(name: str, reference: Reference, results: Path | None, page: Path) -> tuple[Finding, Path]:
    """What the records say by the rule, and the page; raises UsageError for a question that there is not."""
    question = named(name)
    return write(question, evidence(question, reference, results), page)
