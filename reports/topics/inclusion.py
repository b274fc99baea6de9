"""Inclusion probabilities of input features: which of them each method selects, and whether seeds agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...bench.features.stability import stability
from ..drawing import panels as layout
from ..drawing.panels import styled
from ..drawing.style import Style, styles
from ..records.frame import Panel, Records, done, seeds_text
from ..records.metrics import Metric
from ..writing.numbers import finite_text
from ..writing.render import Row, Section, Table, by_label, row

# Features in one panel of the figure, at most.
SHOWN = 1000
SELECTED = Metric("selected", "selected", True, digits=1)


def inclusion_panels(records: Records) -> list[Panel]:
    """The panels in which a method recorded probabilities of its input features."""
    rows = _recorded(records)
    return sorted({Panel(r.dataset, r.architecture, "") for r in rows[["dataset", "architecture"]].itertuples()})  # pyright: ignore[reportArgumentType]


@styled
def inclusion(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Probability of inclusion of every feature in the order of the data set, a row of panels per method."""
    there = inclusion_panels(records) if only is None else list(only)
    rows = _recorded(records)
    parts = [(panel, label, part) for panel in there for label, part in _of_panel(rows, panel).groupby("label")]
    look = styles([str(label) for _, label, _ in parts])
    figure, axes = layout.grid(len(parts), layout.handles(look, line=False), columns=2)
    for axis, (panel, label, part) in zip(axes, parts, strict=False):
        _features(axis, part, look[str(label)])
        layout.title(axis, panel, False)
    return figure


def inclusion_caption(records: Records) -> str:
    """What is seen: the point, the bar, the line, and the number of seeds."""
    rows = _recorded(records)
    counts = [part["seed"].nunique() for _, part in rows.groupby(["dataset", "architecture", "label"])]
    if not counts:
        return ""
    return (
        "Probability that a feature is in the model, before anything is removed, in the order of the data set's "
        "features: mean over seeds (marker) and the range of all seeds (bar), "
        f"{seeds_text(counts)}. Above the line, ½, a feature belongs to the median probability model. A feature counts "
        "as in if any weight that reads it is; probabilities of different methods do not compare, selections do."
        + (f" Of more than {SHOWN:,} features the most probable {SHOWN:,} are drawn, in their order." * _large(rows))
    )


def _large(rows: pd.DataFrame) -> bool:
    return bool((rows["features"].map(len) > SHOWN).any())


def probabilities(rows: pd.DataFrame) -> np.ndarray:
    """Recorded probabilities, one row per seed, shape (seeds, features); NaN where a record has fewer features."""
    first = rows.drop_duplicates("seed")
    return pd.DataFrame(list(first["features"])).to_numpy(float)


def _recorded(records: Records) -> pd.DataFrame:
    rows = done(records)
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
    shown = np.sort(np.argsort(-np.nanmean(values, 0), kind="stable")[:SHOWN])
    values, x = values[:, shown], shown + 1
    axis.vlines(x, np.nanmin(values, 0), np.nanmax(values, 0), color=style.color, linewidth=0.8, alpha=0.6)
    axis.plot(x, np.nanmean(values, 0), color=style.color, marker=style.marker, markersize=3, linestyle="none")
    axis.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    axis.set_ylim(-0.03, 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.set_xlabel("feature")
    axis.set_ylabel("inclusion probability")


# ---------------------------------------------------------------- the table


def selections(records: Records) -> Table:
    """How many features each method selects, mean ± standard deviation over seeds, and whether seeds agree."""
    rows = _recorded(records)
    there = inclusion_panels(records)
    sections = tuple(Section(panel.name(records), by_label(_of_panel(rows, panel), _selection)) for panel in there)
    columns = ("method", "features", SELECTED.label, "in every seed", "in any seed", "stability", "seeds")
    notes = (
        "Selected: features with an inclusion probability above one half, of the trained network before anything is "
        "removed. Seeds differ in the split of the data too. Stability: agreement of their selections, corrected for "
        "chance (Nogueira et al. 2018): 1 is perfect, 0 that of random sets of the same sizes; a dash where all "
        "select nothing or everything, or there is one seed.",
    )
    return Table("selected-features", "Which features are selected", columns, sections, notes)


def _selection(name: str, rows: pd.DataFrame) -> Row:
    chosen = probabilities(rows) > 0.5
    agreement = stability(chosen)
    return row(
        name,
        str(chosen.shape[1]),
        finite_text(chosen.sum(1), SELECTED),
        str(int(chosen.all(0).sum())),
        str(int(chosen.any(0).sum())),
        f"{agreement:.2f}" if np.isfinite(agreement) else "–",
        str(len(chosen)),
    )
