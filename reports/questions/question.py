"""What a question is, what records it reads, and what an analysis finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from ...bench.results.scores import Scores
from ..writing.render import Table

Answer = Literal["yes", "no", "it depends", "undecided", "not run"]


@dataclass(frozen=True)
class Evidence:
    """Records by matrix, and the scores of their test examples by key."""

    frames: Mapping[str, pd.DataFrame]
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Finding:
    """What an analysis says.

    Attributes:
        answer: in a word.
        says: sentences, the first of which is the answer.
        tables: what it rests on.
        figure: one picture of it, and its caption.
        doubts: what is uncertain, in sentences.
    """

    answer: Answer
    says: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    figure: Figure | None = None
    caption: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A question that the literature has not settled.

    Attributes:
        name: of its page and command.
        asks: the question.
        disagree: who says what.
        design: how it is decided, in words.
        matrices: whose cells decide it.
        beside: matrices that are read as far as the package holds them, and never computed for it.
        rule: which outcome counts as which answer; written, like the analysis, before the run.
        written: on which day.
        analysis: from records to a finding.
        remarks: what was noticed afterwards; the rule stays as it was.
        seeds: how many were planned in each block; nothing is judged before they are all there.
    """

    name: str
    asks: str
    disagree: str
    design: str
    matrices: tuple[str, ...]
    rule: tuple[str, ...]
    written: str
    analysis: Callable[[Evidence], Finding]
    beside: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    seeds: int = 5

    @property
    def read(self) -> tuple[str, ...]:
        """All matrices whose records it reads."""
        return (*self.matrices, *self.beside)

    def judged(self, evidence: Evidence) -> Finding:
        """What the analysis says of a complete run; looking earlier, and stopping at what one likes, would spoil it."""
        waiting = [name for name in self.matrices if not _is_complete(evidence.frames[name], self.seeds)]
        if waiting:
            return Finding("not run", (f"Not run, or not to its end: {', '.join(waiting)}.",))
        return self.analysis(evidence)


def _is_complete(frame: pd.DataFrame, seeds: int) -> bool:
    """Whether every block has so many seeds, with as many cells under each."""
    if not len(frame):
        return False
    cells = frame.groupby(["dataset", "architecture", "seed"]).size()
    return bool((cells == cells.max()).all() and (cells.groupby(level=[0, 1]).size() >= seeds).all())
