"""The entries that come with the package, the matrix that decides each, and the records that there are of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ...bench.results.frames import frame_of
from ...bench.results.store import Store
from ...bench.spec.shipped import MATRICES, shipped_matrices
from ...datasets.errors import UsageError, unknown
from ..reference.results import Reference
from ..reference.rows import record_of
from .entry import Entry, load_entries

FOLDER = Path(__file__).parent


def shipped_entries() -> list[Entry]:
    """The entries that come with the package; raises UsageError for an id that two files have."""
    entries = [entry for path in sorted((FOLDER / "entries").glob("*.yaml")) for entry in load_entries(path)]
    ids = [entry.id for entry in entries]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise UsageError(f"the shipped ledger has two entries {min(twice)!r}")
    return entries


def matrix_of(entry: Entry, beside: Path | None = None) -> Path:
    """The file of the matrix that decides an entry: one beside the user's ledger, or a shipped one.

    Raises UsageError if there is none.
    """
    name = f"{entry.matrix.removesuffix('.yaml')}.yaml"
    for folder in (*([beside] if beside else []), MATRICES):
        if (folder / name).is_file():
            return folder / name
    raise unknown(f"matrix of entry {entry.id!r}", entry.matrix, shipped_matrices())


def frames(entries: Iterable[Entry], reference: Reference, results: Sequence[Path] = ()) -> dict[str, pd.DataFrame]:
    """The records of each matrix that entries name: those of the reference, and of folders `results`/<matrix>.

    Raises UsageError for a folder of results that is none.
    """
    for folder in results:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; name one that holds a results folder for each matrix")
    return {name: _frame(name, reference, results) for name in dict.fromkeys(entry.matrix for entry in entries)}


def _frame(name: str, reference: Reference, results: Sequence[Path]) -> pd.DataFrame:
    records = {row["key"]: record_of(row) for row in reference.of(name).rows}
    for folder in results:
        if (folder / name / "store.json").is_file():
            records |= {r["key"]: r for r in Store(folder / name, create=False).records()}
    return frame_of(records.values()) if records else pd.DataFrame()
