"""The picture of the mission's comparison for README and the first page, and that of the budget for the protocol's."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from bayesprune.architectures import registry as architectures
from bayesprune.bench.results.frames import results
from bayesprune.reports.drawing.panels import save_svg
from bayesprune.reports.records.frame import Panel, Records, done, panel_metric, panels, prepare, pruned
from bayesprune.reports.reference.results import shipped
from bayesprune.reports.reference.tiers import TIERS
from bayesprune.reports.topics.budgets import sensitivities, sensitivity, sensitivity_caption
from bayesprune.reports.topics.curves import curves

from . import reference
from .markdown import figure

# One of each idea: the baselines, and what the mission asks about; of noise whatever variant was run.
SHOWN = (
    "magnitude", "random", "opd", "spam-opd", "bmr", "bmr-laplace", "pip", "pip-gates", "variational-dropout",
    "horseshoe",
)  # fmt: skip
NOISE = ("bmrs-n", "bmrs-u")
FAMILIES = ("mlp", "resnet", "vit", "mixer", "lenet5", "lstm")
MOST_PANELS = 4


def write(path: Path, folders: tuple[str, ...] = ()) -> Path | None:
    """Draw one panel for each family of networks, that with the most methods in it; None without results.

    Args:
        path: of the picture.
        folders: of results; without them, the reference results that come with the package.
    """
    found = _shown([Records(done(prepare(results(*folders))))] if folders else _references())
    there = _panels(found) if found is not None else []
    if found is None or not there:
        return None
    kept = Records(pd.concat([panel.rows(found) for panel in there]))
    save_svg(curves(kept, panel_metric(found, there[0]).name, there), path)
    return path


def snippet(out: Path) -> str:
    """The picture, drawn below `out`, as it is shown on the first page."""
    if write(out / "mission.svg") is None:
        return "There are no reference results to show yet.\n"
    caption = "The reference results that come with the package, one network of each family."
    return figure("/generated/mission.svg", "Quality against sparsity, one panel for each family of networks", caption)


def budget_snippet(out: Path) -> str:
    """The curve over the budget of retraining, from CORE, drawn below `out`, as the protocol's page shows it."""
    found = sensitivities(prepare(shipped().of(*TIERS["core"]).frame()))
    if not found:
        return ""
    save_svg(sensitivity(found), out / "budgets.svg")
    what = "Quality, and the order of methods, against the epochs of retraining"
    return figure("/generated/budgets.svg", what, sensitivity_caption(found))


def _references() -> list[Records]:
    return [reference.records(matrix) for matrix in reference.matrices() if matrix not in TIERS["ledger"]]


def _shown(parts: list[Records]) -> Records | None:
    """The rows of the methods that are shown."""
    rows = [part[part["label"].isin(SHOWN) | part["label"].map(reference.base).isin(NOISE)] for part in parts]
    return Records(pd.concat(rows, ignore_index=True)) if any(map(len, rows)) else None


def _panels(found: Records) -> list[Panel]:
    def entrants(panel: Panel) -> int:
        return panel.rows(pruned(found))["label"].nunique()

    there = sorted(panels(found), key=entrants, reverse=True)
    first = {reference.base(panel.architecture, architectures): panel for panel in reversed(there)}
    return [first[name] for name in FAMILIES if name in first][:MOST_PANELS]


if __name__ == "__main__":
    drawn = write(Path(sys.argv[1]), tuple(sys.argv[2:]))
    print(f"{drawn}: drawn" if drawn else "there are no results: nothing is drawn")
