"""Records as tables: a pandas frame, results.csv, costs.csv."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...datasets.errors import UsageError
from ..spec.equal_epochs import of_settings
from .columns import COSTS, IDENTITY, ORDER, RESULTS, SECONDS, is_number
from .store import Store

# What a cell begins with that spreadsheets compute instead of showing it.
_FORMULA = ("=", "+", "-", "@")


def results(*folders: str | Path) -> pd.DataFrame:
    """All records of one or several results folders as a pandas frame, one row per cell, in a fixed order.

    A cell that stands in several folders (shards) counts once, a finished record before a failed one.
    Raises UsageError for a folder that is not a results folder.
    """
    if not folders:
        raise UsageError("name at least one results folder")
    best: dict[str, dict[str, Any]] = {}
    for record in (r for folder in folders for r in Store(folder, create=False).records()):
        if record["key"] not in best or record["status"] == "done":
            best[record["key"]] = record
    return frame_of(best.values())


def frame_of(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Records as a pandas frame, one row per cell, in a fixed order."""
    rows = [_budget(record) | dict(record) for record in sorted(records, key=_position)]
    columns = [*IDENTITY, *RESULTS, *SECONDS, *COSTS, "learned", "reports", "latency", "traceback", "run"]
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    numeric = [c for c in columns if is_number(c)]
    return frame.astype(dict.fromkeys(numeric, float))


def _budget(record: Mapping[str, Any]) -> dict[str, Any]:
    """Epochs of training and of retraining, and the protocol that these follow: what the settings of a record say."""
    run = record.get("run") or {}
    phases = {"epochs_train": "training", "epochs_finetune": "finetune"}
    epochs = {name: run.get(phase, {}).get("epochs") for name, phase in phases.items()}
    return {**epochs, "protocol": of_settings(run)}


def csv_text(frame: pd.DataFrame) -> str:
    """results.csv: identity, results and seconds; equal runs give equal text but for the seconds."""
    return _csv(frame, [*IDENTITY, *RESULTS, *SECONDS])


def costs_text(frame: pd.DataFrame) -> str:
    """costs.csv: what each cell took and where it ran."""
    return _csv(frame, ["key", *ORDER[:-1], *SECONDS, *COSTS])


def _csv(frame: pd.DataFrame, columns: list[str]) -> str:
    import pandas as pd

    table = frame[columns].copy()
    for column in ("revisions", "tuned", "layer_density", "collapsed", "shift"):
        if column in table:
            table[column] = [json.dumps(v) if isinstance(v, dict | list) else "" for v in table[column]]
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = [_harmless(v) if isinstance(v, str) else v for v in table[column]]
    return table.to_csv(index=False, lineterminator="\n")


def _harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula, or for a new row."""
    text = text.replace("\r", " ")
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _is_number_text(text) else text


def _is_number_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _position(record: Mapping[str, Any]) -> tuple:
    target = record["sparsity_target"]
    return tuple((2.0 if target is None else target) if name == "sparsity_target" else record[name] for name in ORDER)


def write_tables(folder: Path) -> Path:
    """Derive results.csv and costs.csv from the records of a results folder; returns the path of the first.

    Raises UsageError for a folder that is gone or cannot be written.
    """
    frame = results(folder)
    store = Store(folder, create=False)
    store.write(folder / "costs.csv", costs_text(frame).encode())
    path = folder / "results.csv"
    store.write(path, csv_text(frame).encode())
    return path
