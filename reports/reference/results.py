"""The reference results as one value: rows, frames and scores, by matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...bench.results.frames import frame_of
from ...bench.results.scores import Scores
from ...datasets.errors import UsageError
from .files import SUFFIX, read
from .rows import Row, record_of, scores_in

if TYPE_CHECKING:  # which imports torch
    from ...bench.spec.run import Run

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Reference:
    """Rows of one or several files.

    Attributes:
        rows: as they are stored.
        made: for each file, until when it was computed.
    """

    rows: tuple[Row, ...]
    made: tuple[tuple[str, str], ...]

    @cached_property
    def by_key(self) -> dict[str, Row]:
        """Rows by the key of their cell."""
        return {row["key"]: row for row in self.rows}

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Scores of examples, by the key of the cell."""
        return {row["key"]: found for row in self.rows if (found := scores_in(row)) is not None}

    def frame(self) -> pd.DataFrame:
        """The rows as a frame of records."""
        return frame_of(map(record_of, self.rows))

    def of(self, *matrices: str) -> Reference:
        """The rows of some matrices alone; cells of different budgets are never compared."""
        return Reference(tuple(row for row in self.rows if row["matrix"] in matrices), self.made)

    def lacks(self, cells: Iterable[Run]) -> list[Run]:
        """The cells, of today's revisions, that are not among the rows."""
        return [cell for cell in cells if cell.key not in self.by_key]

    def row(self, prefix: str) -> Row:
        """The row whose key begins so; raises UsageError unless there is exactly one."""
        found = [key for key in self.by_key if key.startswith(prefix)]
        if len(found) != 1:
            what = "none" if not found else f"{len(found)} of them"
            raise UsageError(f"a reference cell whose key begins with {prefix!r} was asked for, and there is {what}")
        return self.by_key[found[0]]


def joined(parts: Iterable[tuple[str, Path]]) -> Reference:
    """Reference results of files, by name; raises UsageError as `read`."""
    rows, made = list[Row](), list[tuple[str, str]]()
    for name, path in parts:
        head, found = read(path)
        rows += found
        made.append((name, str(head.get("made", ""))))
    return Reference(tuple(rows), tuple(made))


@lru_cache(maxsize=2)
def shipped(folder: Path = FOLDER) -> Reference:
    """The reference results that come with the package; those that there are."""
    return joined((path.name.removesuffix(SUFFIX), path) for path in sorted(folder.glob(f"*{SUFFIX}")))
