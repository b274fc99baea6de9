"""Pictures of results for README and the first page: the mission's comparison, from the reference results."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from bayesprune.reports.records.frame import Panel, Records, panel_metric, panels, pruned
from bayesprune.reports.topics.curves import curves

from . import reference
from .markdown import figure

# One representative of each idea: the baselines, and what the mission asks about.
SHOWN = (
    "magnitude", "random", "opd", "spam-opd", "bmr", "bmr-laplace", "bmrs-u", "pip-gates", "pip-laplace",
    "variational-dropout", "horseshoe",
)  # fmt: skip
FAMILIES = ("mlp", "lenet5", "resnet", "vit", "mixer", "lstm")
MOST_PANELS = 4


def write(path: Path) -> Path | None:
    """Draw one panel for each family of networks, that with the most methods in it; None without results."""
    records = _records()
    there = _panels(records) if records is not None else []
    if records is None or not there:
        return None
    reference.save_svg(curves(records, panel_metric(records, there[0]).name, there), path)
    return path


def snippet(out: Path) -> str:
    """The picture, drawn below `out`, as it is shown on the first page."""
    if write(out / "mission.svg") is None:
        return "There are no reference results to show yet.\n"
    caption = "The reference results that come with the package, one network of each family."
    return figure("/generated/mission.svg", "Quality against sparsity, one panel for each family of networks", caption)


def _records() -> Records | None:
    """Headline rows of the shown methods, wherever they were run."""
    parts = [part[part["label"].isin(SHOWN)] for part in map(reference.records, reference.matrices())]
    return Records(pd.concat(parts, ignore_index=True)) if any(map(len, parts)) else None


def _panels(records: Records) -> list[Panel]:
    def entrants(panel: Panel) -> int:
        return panel.rows(pruned(records))["label"].nunique()

    there = sorted(panels(records), key=entrants, reverse=True)
    first = {reference.base(panel.architecture): panel for panel in reversed(there)}
    families = [name for name in FAMILIES if name in first]
    return [first[name] for name in families][:MOST_PANELS]


if __name__ == "__main__":
    drawn = write(Path(sys.argv[1]))
    print(f"{drawn}: drawn from the reference results" if drawn else "no reference results: nothing is drawn")
