"""What Bayesian model reduction says of networks: shares pruned and tied, and the threshold ζ of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...methods.reduction import TIE
from ..drawing import panels as layout
from ..drawing.axes import in_order, tensor_axis
from ..drawing.panels import styled
from ..drawing.style import Style, styles
from ..records.frame import Panel, Records, done, labels, number, panels, seeds_text
from ..records.metrics import Metric
from ..writing.numbers import finite_text
from ..writing.render import Row, Section, Table, by_label, row

SHARES = {"pruned": "pruned (%)", "tied": "tied (%)"}
SHARE = Metric("share", "share (%)", True, 100.0, 1)
ZETA = Metric("zeta", "ζ (nats)", True, digits=2)
_CELL = ["dataset", "architecture", "units", "label", "seed"]


def reduced(records: Records) -> pd.DataFrame:
    """One row per network that model reduction decided about, before anything had left.

    Columns: dataset, architecture, units, label, seed, `pruned` and `tied` (shares of all units), `zeta` (of each
    layer, nats; empty where the method has no such threshold), and `low` and `high`, its smallest and largest.
    """
    rows = done(records)
    reports = rows["reports"].map(_first) if "reports" in rows else pd.Series(None, rows.index, dtype=object)
    there = rows[reports.notna()]
    found = [_said(report) for report in reports[reports.notna()]]
    columns = pd.Index(["pruned", "tied", "zeta", "low", "high"])
    table = pd.concat([there[_CELL], pd.DataFrame(found, there.index, columns)], axis=1)
    return table.drop_duplicates(_CELL).reset_index(drop=True)


def _first(reports: object) -> Mapping[str, Any] | None:
    """What a method said of the network before anything left it, if it is what model reduction says."""
    first = reports[0] if isinstance(reports, Sequence) and len(reports) else None
    return first if isinstance(first, Mapping) and "pruned" in first else None


def _said(report: Mapping[str, Any]) -> dict[str, object]:
    zeta = {layer: number(value) for layer, value in (report.get("zeta") or {}).items()}
    ends = {"low": min(zeta.values(), default=np.nan), "high": max(zeta.values(), default=np.nan)}
    return {"pruned": number(report["pruned"]), "tied": number(report.get("tied")), "zeta": zeta, **ends}


def reduction_panels(records: Records) -> list[Panel]:
    """One panel for each data set, architecture and kind of units."""
    rows = reduced(records)
    return [panel for panel in panels(records) if len(panel.rows(rows))]


# ---------------------------------------------------------------- the figure


@styled
def reduction(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Shares pruned and tied, and beside them the threshold of each layer, in network order."""
    there = reduction_panels(records) if only is None else list(only)
    rows = reduced(records)
    look = {name: style for name, style in styles(labels(records)).items() if name in set(rows["label"])}
    figure, axes = layout.grid(2 * len(there), layout.handles(look, line=False), columns=2, height=2.6)
    for left, right, panel in zip(axes[::2], axes[1::2], there, strict=True):
        own = panel.rows(rows)
        layout.side_by_side(left, own.assign(**{kind: 100 * own[kind] for kind in SHARES}), list(SHARES), look)
        left.set_ylabel("share of units (%)")
        _thresholds(right, own, look)
        for axis in (left, right):
            layout.title(axis, panel, records["units"].nunique() > 1)
    return figure


def _thresholds(axis: Axes, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    """ζ of each layer: a marker at the mean over seeds, a line from the smallest to the largest."""
    zeta = pd.DataFrame(list(rows["zeta"]), rows.index).assign(label=rows["label"])
    layers = in_order([str(name) for name in zeta if name != "label"])
    layout.side_by_side(axis, zeta, layers, look)
    if layers:
        tensor_axis(axis, layers)
    axis.autoscale(axis="y")
    axis.axhline(0, color="#888888", linewidth=0.8, linestyle=":", zorder=1)
    axis.set_ylabel(f"threshold {ZETA.label}")


def reduction_caption(records: Records) -> str:
    """What is seen: the shares, the threshold, the line, and the number of seeds."""
    counts = list(reduced(records).groupby(_CELL[:-1])["seed"].nunique())
    band = "; line: smallest to largest" if max(counts, default=0) > 1 else ""
    return (
        "Left: share of units that the evidence is better off without, and share about which it is indifferent; of the "
        f"trained network, before anything is removed. Right: the threshold ζ of each layer; what has ΔF > ζ leaves. "
        f"Marker: mean over seeds{band}, {seeds_text(counts)}."
    )


# ---------------------------------------------------------------- the table


def reductions(records: Records) -> Table:
    """Shares pruned and tied and the range of thresholds of each method, mean ± standard deviation over seeds."""
    rows = reduced(records)
    sections = tuple(
        Section(panel.name(records), by_label(panel.rows(rows), _row)) for panel in reduction_panels(records)
    )
    columns = ("method", *SHARES.values(), "smallest ζ (nats)", "largest ζ (nats)", "seeds")
    notes = (
        "Of the trained network, before anything is removed; mean ± standard deviation over seeds. Pruned: the share "
        "of units whose removal the evidence prefers, ΔF > ζ, with one ζ for each layer. Tied: the share with a ΔF "
        f"within {TIE} nats of 0, where it is the optimiser's noise that decides; a large one makes the pruned share "
        "say little. A dash: the method says nothing of the kind.",
    )
    return Table("model-reduction", "What model reduction decides", columns, sections, notes)


def _row(name: str, rows: pd.DataFrame) -> Row:
    shares = [finite_text(rows[kind], SHARE) for kind in SHARES]
    return row(name, *shares, *(finite_text(rows[end], ZETA) for end in ("low", "high")), str(rows["seed"].nunique()))
