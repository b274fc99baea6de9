"""What a network scored on each test example, from the stored outputs of its cell: for paired tests. Without torch.

A classifier scores 1 where it is right; of several labels the share that is right. A regression scores 1 less its
squared error in units of the variance of the targets, so that the mean over examples is the variance explained. The
outputs are of half precision: of two classes that tie there, the first counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .store import Store

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores of one cell.

    Attributes:
        test: digest of the test targets; cells are paired where it is the same.
        values: (examples,), boolean where an example is right or wrong, else float64; larger is better.
    """

    test: str
    values: np.ndarray


def scores_of(store: Store, record: Mapping[str, Any]) -> Scores | None:
    """The scores of a finished cell; None if it is not finished, or its outputs are damaged or a language model's."""
    if record["status"] != "done" or not store.complete(record, mend=False):
        return None
    found = store.read_tensors("logits", record["key"], mend=False)
    return None if found is None else scored(found[0]["outputs"], found[0]["y"], record.get("likelihood") or "")


def folder_scores(store: Store, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Scores]:
    """Scores by key of those records that have any."""
    found = {key: scores_of(store, record) for key, record in records.items()}
    return {key: scores for key, scores in found.items() if scores is not None}


def all_scores(*folders: str | Path) -> dict[str, Scores]:
    """Scores by key of all records of results folders that have any; raises UsageError for a folder that is none."""
    found: dict[str, Scores] = {}
    for folder in folders:
        store = Store(folder, create=False)
        found |= folder_scores(store, {r["key"]: r for r in store.records() if r["key"] not in found})
    return found


def scored(outputs: np.ndarray, y: np.ndarray, likelihood: str) -> Scores | None:
    """Scores of outputs (n, outputs) against targets (n,) or (n, outputs)."""
    import numpy as np

    if outputs.ndim != 2 or len(y) != len(outputs):
        return None
    test = hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()
    if likelihood == "categorical":
        labels = y if y.ndim == 1 else y.argmax(axis=1)
        return Scores(test, outputs.argmax(axis=1) == labels)
    y = y.reshape(len(outputs), -1).astype(float)
    if likelihood == "bernoulli":
        return Scores(test, ((outputs > 0) == (y > 0.5)).mean(axis=1))
    error = ((outputs[:, : y.shape[1]].astype(float) - y) ** 2).mean(axis=1)
    return Scores(test, 1.0 - error / max(float(y.var()), 1e-12))
