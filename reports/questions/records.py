"""The records that a question reads: those that come with the package, and those of results folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...bench.results.frames import frame_of
from ...bench.results.scores import Scores, folder_scores
from ...bench.results.store import Store
from ..reference.results import Reference
from ..reference.rows import record_of
from .question import Evidence, Question


def evidence(question: Question, reference: Reference, results: Path | None = None) -> Evidence:
    """Of each matrix: rows of the reference, and records of the folder `results`/<matrix>, which count first."""
    frames, scores = {}, dict[str, Scores]()
    for name in question.read:
        own = reference.of(name)
        records: dict[str, Mapping[str, Any]] = {row["key"]: record_of(row) for row in own.rows}
        scores |= own.scores
        if results is not None and (results / name / "store.json").is_file():
            store = Store(results / name, create=False)
            computed = {record["key"]: record for record in store.records()}
            records |= computed
            scores |= folder_scores(store, computed)
        frames[name] = frame_of(records.values()) if records else pd.DataFrame()
    return Evidence(frames, scores)


def core_minutes(rows: Sequence[Mapping[str, Any]]) -> float:
    """Minutes of one core behind rows, as they say: each network trained once, then scores and retraining."""
    fits = {}
    for row in rows:
        place = (row["matrix"], row["dataset"], row["architecture"], row.get("inference"), row.get("when"), row["seed"])
        fits[place] = row.get("seconds_train") or 0.0
    rest = sum((row.get("seconds_score") or 0.0) + (row.get("seconds_finetune") or 0.0) for row in rows)
    return (sum(fits.values()) + rest) / 60
