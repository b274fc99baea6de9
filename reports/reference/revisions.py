"""Rows that the code has left behind: their arithmetic was revised since; and rows that are ahead of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ...architectures import registry as architectures
from ...bench.spec.metrics import registry as metrics
from ...datasets import registry as datasets
from ...datasets.errors import UsageError
from ...methods import registry as methods
from .results import Reference
from .rows import Row

REGISTRIES = {"dataset": datasets, "architecture": architectures, "method": methods}


def current(reference: Reference) -> tuple[Reference, str]:
    """The rows whose data sets, architectures, methods and metrics are of today's revisions, and who was left out.

    Inferences are not looked at here, as that would import them; packing does. Raises UsageError for a row of a later
    revision than the code's, and one that names what the code does not have.
    """
    kept, stale = list[Row](), set[str]()
    for row in reference.rows:
        if _is_current(row):
            kept.append(row)
        else:
            stale.add(row["method"])
    note = f"Reference rows of an older revision are left out: {', '.join(sorted(stale))}." if stale else ""
    return Reference(tuple(kept), reference.made), note


def _is_current(row: Row) -> bool:
    said, is_same = row.get("revisions") or {}, True
    for kind, here in _here(row["run"]).items():
        there = said.get(kind, {})
        for name in here.keys() | there.keys():
            if there.get(name, 1) > here.get(name, 1):
                raise UsageError(
                    f"reference row {row['key'][:12]} is of revision {there[name]} of {kind} {name!r}, this program "
                    f"has revision {here.get(name, 1)}: update bayesprune"
                )
            is_same = is_same and there.get(name, 1) == here.get(name, 1)
    return is_same


def _here(run: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    found = {kind: _revisions(kind, run[kind]["name"]) for kind in REGISTRIES}
    like = run["method"].get("options", {}).get("like")
    if isinstance(like, str):
        found["method"] = found["method"] | _revisions("method", like)
    return found | {"metric": _metrics()}


@cache
def _revisions(kind: str, name: str) -> dict[str, int]:
    return REGISTRIES[kind].revisions(name)


@cache
def _metrics() -> dict[str, int]:
    return {entry.name: entry.revision for entry in metrics.catalogue().values() if entry.revision != 1}
