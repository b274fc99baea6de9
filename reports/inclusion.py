"""Inclusion probabilities against input features: which features each method keeps, and whether seeds agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import layout
from .frame import Panel, done, prepare, seeds_text
from .layout import styled
from .style import Style, styles


def inclusion_panels(frame: pd.DataFrame) -> list[Panel]:
    """The panels in which a method recorded probabilities of its input features; expects a prepared frame."""
    rows = _recorded(frame)
    return sorted({Panel(r.dataset, r.architecture, "") for r in rows[["dataset", "architecture"]].itertuples()})  # pyright: ignore[reportArgumentType]


@styled
def inclusion(frame: pd.DataFrame, only: Sequence[Panel] | None = None) -> Figure:
    """Probability of inclusion of every feature in the order of the data set, a row of panels per method."""
    frame = prepare(frame)
    there = inclusion_panels(frame) if only is None else list(only)
    rows = _recorded(frame)
    parts = [(panel, label, part) for panel in there for label, part in _of_panel(rows, panel).groupby("label")]
    look = styles([str(label) for _, label, _ in parts])
    figure, axes = layout.grid(len(parts), layout.handles(look, line=False), columns=2)
    for axis, (panel, label, part) in zip(axes, parts, strict=False):
        _features(axis, part, look[str(label)])
        layout.title(axis, panel, False)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is seen: the point, the bar, the line, and the number of seeds."""
    rows = _recorded(frame)
    counts = [part["seed"].nunique() for _, part in rows.groupby(["dataset", "architecture", "label"])]
    if not counts:
        return ""
    return (
        "Probability that a feature is in the model, before anything is removed, in the order of the data set's "
        "features: mean over seeds (marker) and the range of all seeds (bar), "
        f"{seeds_text(counts)}. Above the line, ½, a feature belongs to the median probability model. A feature counts "
        "as in if any weight that reads it is; probabilities of different methods do not compare, selections do."
    )


def probabilities(rows: pd.DataFrame) -> np.ndarray:
    """Recorded probabilities, one row per seed, shape (seeds, features); NaN where a record has fewer features."""
    first = rows.drop_duplicates("seed")
    return pd.DataFrame(list(first["features"])).to_numpy(float)


def _recorded(frame: pd.DataFrame) -> pd.DataFrame:
    rows = done(frame)
    if "reports" not in rows:
        return rows.assign(features=None).iloc[:0]
    found = rows.assign(features=rows["reports"].map(_features_of))
    return found[found["features"].notna()]


def _features_of(reports: object) -> Sequence[float] | None:
    """The probabilities of the first report, of the network before anything was removed."""
    first = reports[0] if isinstance(reports, Sequence) and len(reports) else None
    features = first.get("features") if isinstance(first, Mapping) else None
    return features if isinstance(features, Sequence) and len(features) else None


def _of_panel(rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    return rows[(rows["dataset"] == panel.dataset) & (rows["architecture"] == panel.architecture)]


def _features(axis: Axes, rows: pd.DataFrame, style: Style) -> None:
    values = probabilities(rows)
    x = np.arange(1, values.shape[1] + 1)
    axis.vlines(x, np.nanmin(values, 0), np.nanmax(values, 0), color=style.color, linewidth=0.8, alpha=0.6)
    axis.plot(x, np.nanmean(values, 0), color=style.color, marker=style.marker, markersize=3, linestyle="none")
    axis.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    axis.set_ylim(-0.03, 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_xlabel("feature")
    axis.set_ylabel("inclusion probability")
