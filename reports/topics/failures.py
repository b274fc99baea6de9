"""Failed and skipped cells, with their reasons."""

from __future__ import annotations

import pandas as pd

from ..records.frame import Records, percent
from ..writing.render import Row, Section, Table, row
from .results import AUTO

_GROUP = ["status", "dataset", "architecture", "units", "method", "reason"]


def failures(records: Records) -> Table:
    """Failed and skipped cells with their reasons, cells with the same reason in one row."""
    bad = records[records["status"] != "done"]
    rows = tuple(_failure(own) for _, own in bad.groupby(_GROUP, sort=True))
    columns = ("status", "data set", "architecture", "units", "method", "share to prune", "seeds", "cells", "reason")
    words = frozenset(columns) - {"cells"}
    return Table(
        "failures", "Failed and skipped cells", columns, (Section("", rows),), (), words, frozenset({"reason"})
    )


def _failure(rows: pd.DataFrame) -> Row:
    status, dataset, architecture, units, method, reason = map(str, rows[_GROUP].iloc[0])
    asked = [percent(level) for level in sorted(set(rows["target"].dropna()))] + [AUTO] * bool(rows["auto"].any())
    seeds = ", ".join(str(seed) for seed in sorted(set(rows["seed"])))
    share = ", ".join(asked) or "–"
    reason = reason or "no reason was recorded"
    return row(status, dataset, architecture, units, method, share, seeds, str(len(rows)), reason)
