"""Evaluating a ledger, and computing the cells that decide one of its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...datasets.errors import unknown
from ..build import tables_page
from ..ledger.entry import Entry, load_entries
from ..ledger.judge import judge
from ..ledger.page import counts, ledger_table
from ..ledger.records import frames, matrix_of, shipped_entries
from ..reference.results import shipped

TITLE = "Ledger of published claims"


def evaluate(file: str | None, results: Sequence[Path], out: Path, name: str = "index.html") -> tuple[str, Path]:
    """Judge the shipped entries, or those of a file; returns the counts as a sentence, and the page, a file `name`.

    Raises UsageError as `load_entries`, for a matrix that an entry names and nobody has, and for folders that are none.
    """
    entries = _entries(file)
    for entry in entries:
        matrix_of(entry, _beside(file))
    own = f" {file}" if file else ""
    judged = judge(entries, frames(entries, shipped(), results), f"bayesprune ledger{own} --run {{}}")
    said = counts(judged)
    return said, tables_page(out, TITLE, [said], [ledger_table(judged)], name)


def run_entry(
    name: str, file: str | None, into: Path, jobs: int | None, progress: Callable[[int], Callable[[int], None]]
) -> None:
    """Run the matrix that decides an entry, into a folder of its name; raises UsageError for an unknown entry."""
    from ...bench.harness.run_matrix import run

    entries = {entry.id: entry for entry in _entries(file)}
    if name not in entries:
        raise unknown("entry", name, entries)
    entry = entries[name]
    run(matrix_of(entry, _beside(file)), into / entry.matrix, jobs=jobs, progress=progress)


def _entries(file: str | None) -> list[Entry]:
    return load_entries(file) if file else shipped_entries()


def _beside(file: str | None) -> Path | None:
    return Path(file).parent if file else None
