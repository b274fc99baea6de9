"""Charts and standings from the reference results that come with the package; nothing where there are none."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.registry import Registry
from bayesprune.methods import registry as methods
from bayesprune.reports.drawing.panels import save_svg
from bayesprune.reports.records.budgets import budgets, of_budget
from bayesprune.reports.records.frame import Records, done, panel_metric, panels, prepare
from bayesprune.reports.reference.coverage import HEAD, coverage
from bayesprune.reports.reference.results import Reference, shipped
from bayesprune.reports.reference.tiers import TIERS
from bayesprune.reports.topics.curves import curves, curves_caption
from bayesprune.reports.topics.standing import reference_standing
from bayesprune.reports.writing.render import Section, Table

from .markdown import pipes

BASELINES = ("magnitude", "random")
MOST_PANELS = 4


def held() -> str:
    """A table of what the package holds of what is planned."""
    return pipes(HEAD, [found.texts() for found in coverage(shipped())]) + "\n"


@functools.cache
def base(label: str, registry: Registry = methods) -> str:
    """The registered name in a label: `opd` of `opd(rounds=5)`, `spam-<criterion>` of `spam-opd`."""
    name = re.split(r"[(\[ ]", label, maxsplit=1)[0]
    try:
        return registry.entries(name)[0].name
    except UsageError:  # of a plug-in, or of an earlier version
        return name


@functools.cache
def matrices() -> dict[str, Reference]:
    """The rows of each matrix, without those of open questions."""
    reference = shipped()
    names = dict.fromkeys(row["matrix"] for row in reference.rows if row["matrix"] not in TIERS["questions"])
    return {name: reference.of(name) for name in names}


@functools.cache
def standings() -> tuple[Table, ...]:
    """The leaderboards of CORE and REAL: one for each matrix that has one."""
    found = (_standing(tier, name) for tier in ("core", "real") for name in TIERS[tier] if name in matrices())
    return tuple(table for table in found if table is not None)


def _standing(tier: str, matrix: str) -> Table | None:
    part, kind = matrices()[matrix], matrix.removeprefix(f"reference-{tier}-")
    return reference_standing(part, f"standings-{tier}-{kind}", f"{tier.upper()}, {kind}")


def standing_of(name: str) -> list[Table]:
    """The lines of a method, with all its variants, in the leaderboards."""
    own = ((table, tuple(row for row in table.rows if base(row[0].text) == name)) for table in standings())
    return [Table(t.name, t.title, t.columns, (Section("", rows),)) for t, rows in own if rows]


def chart(shows: Callable[[Records], pd.Series], path: Path) -> str | None:
    """Quality against sparsity of what `shows` selects, beside magnitude and random, on the networks where it ran.

    The matrix is the one with the most results of it; those of the ledger, whose protocols are other people's, only
    where there is no other. Writes `path` and returns the caption; None without results.
    """
    found = max(_holding(shows), key=lambda rows: shows(rows).sum(), default=None)
    there = panels(found[shows(found)])[:MOST_PANELS] if found is not None else []
    if found is None or not there:
        return None
    metric = panel_metric(found, there[0])
    chosen = found[shows(found) | found["label"].isin(BASELINES)]
    kept = Records(pd.concat([panel.rows(chosen) for panel in there]))
    save_svg(curves(kept, metric.name, there), path)
    return curves_caption(kept, metric)


def _holding(shows: Callable[[Records], pd.Series]) -> list[Records]:
    found = {name: records(name) for name in matrices() if shows(records(name)).any()}
    comparisons = [rows for name, rows in found.items() if name not in TIERS["ledger"]]
    return comparisons or list(found.values())


@functools.cache
def records(matrix: str) -> Records:
    """The results of a matrix, at the budget of its headline."""
    found = done(prepare(matrices()[matrix].frame()))
    return of_budget(found, budgets(found)[0]) if len(found) else found
