"""Records as tables: a pandas frame, results.csv, costs.csv."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError
from .columns import COSTS, IDENTITY, NUMBERS, NUMERIC_PREFIXES, ORDER, RESULTS, SECONDS
from .store import Store


def results(*folders: str | Path) -> pd.DataFrame:
    """All records of one or several results folders as a pandas frame, one row per cell, in a fixed order.

    A cell that stands in several folders (shards) counts once, a finished record before a failed one.
    Raises UsageError for a folder that is not a results folder.
    """
    import pandas as pd

    if not folders:
        raise UsageError("name at least one results folder")
    best: dict[str, dict[str, Any]] = {}
    for record in (r for folder in folders for r in Store(folder, create=False).records()):
        if record["key"] not in best or record["status"] == "done":
            best[record["key"]] = record
    rows = sorted(best.values(), key=_position)
    columns = [*IDENTITY, *RESULTS, *SECONDS, *COSTS, "learned", "reports", "latency", "traceback"]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    numeric = [c for c in columns if c in NUMBERS or c.startswith(NUMERIC_PREFIXES)]
    return frame.astype(dict.fromkeys(numeric, float))


def csv_text(frame: pd.DataFrame) -> str:
    """results.csv: identity, results and seconds; equal runs give equal text but for the seconds."""
    return _csv(frame, [*IDENTITY, *RESULTS, *SECONDS])


def costs_text(frame: pd.DataFrame) -> str:
    """costs.csv: what each cell took and where it ran."""
    return _csv(frame, ["key", *ORDER[:-1], *SECONDS, *COSTS])


def _csv(frame: pd.DataFrame, columns: list[str]) -> str:
    table = frame[columns].copy()
    for column in ("layer_density", "collapsed", "shift"):
        if column in table:
            table[column] = [json.dumps(v) if isinstance(v, dict | list) else "" for v in table[column]]
    return table.to_csv(index=False, lineterminator="\n")


def _position(record: Mapping[str, Any]) -> tuple:
    target = record["sparsity_target"]
    return tuple((2.0 if target is None else target) if name == "sparsity_target" else record[name] for name in ORDER)


def write_tables(folder: Path) -> Path:
    """Derive results.csv and costs.csv from the records of a results folder; returns the path of the first."""
    frame = results(folder)
    write_atomically(folder / "costs.csv", costs_text(frame).encode())
    path = folder / "results.csv"
    write_atomically(path, csv_text(frame).encode())
    return path
