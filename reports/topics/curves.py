"""A metric against sparsity: lines with bands over seeds, the dense reference, self-chosen operating points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..drawing import panels as layout
from ..drawing.axes import banded, dense_line
from ..drawing.panels import styled
from ..drawing.style import Style, styles
from ..records import statistics as st
from ..records.frame import Panel, Records, by_seed, dense_by_seed, halvings, has_items, labels, panels, pruned
from ..records.metrics import METRICS, Metric
from ..writing.sentences import band_text, failed_cells, per_point


@styled
def curves(records: Records, metric: str = "accuracy", only: Sequence[Panel] | None = None) -> Figure:
    """A metric against sparsity: one panel per data set and architecture, a line with a band per method.

    The x axis counts halvings of the network, so that 50 to 99 % are equally legible. A dashed black line is
    the unpruned network, a star the sparsity that a method chose itself, an open marker a network in which a
    layer lost all its units.
    """
    there = panels(records, metric) if only is None else list(only)
    look = styles(labels(records))
    shown = pd.concat([panel.rows(pruned(records)) for panel in there]) if there else pruned(records)
    shown = shown[shown[metric].notna()]
    figure, axes = layout.grid(len(there), _curve_legend(records, shown, there, METRICS[metric], look))
    both = records["units"].nunique() > 1
    for axis, panel in zip(axes, there, strict=True):
        _curve_panel(axis, records, panel, METRICS[metric], look)
        layout.title(axis, panel, both)
    return figure


def _curve_legend(
    records: Records, shown: pd.DataFrame, there: Sequence[Panel], metric: Metric, look: Mapping[str, Style]
) -> list[Line2D]:
    extra = [layout.dense_handle()] if any(len(dense_by_seed(records, p, metric)) for p in there) else []
    extra += [layout.star_handle()] if shown["auto"].any() else []
    extra += [layout.open_handle()] if shown["collapsed"].map(has_items).any() else []
    return layout.handles({name: look[name] for name in look if name in set(shown["label"])}, *extra)


def _curve_panel(axis: Axes, records: Records, panel: Panel, metric: Metric, look: Mapping[str, Style]) -> None:
    rng = st.generator()
    rows = panel.rows(pruned(records))
    rows = rows[rows[metric.name].notna() & rows["sparsity"].notna()]
    for label in sorted(set(rows["label"])):
        own = rows[rows["label"] == label]
        _line(axis, own, metric, look[label], rng)
        _star(axis, own[own["auto"]], metric, look[label], rng)
    dense_line(axis, dense_by_seed(records, panel, metric), metric, rng)
    layout.sparsity_axis(axis, sorted({*rows["target"].dropna(), *_realised_auto(rows)}))
    _ticks_at_targets(axis, rows)
    axis.set_ylabel(metric.label)
    if metric.logarithmic:
        layout.log_if_wide(axis, [*rows[metric.name], *dense_by_seed(records, panel, metric)])


def _realised_auto(rows: pd.DataFrame) -> list[float]:
    return list(rows[rows["auto"]].groupby("label")["sparsity"].mean())


def _ticks_at_targets(axis: Axes, rows: pd.DataFrame) -> None:
    """Ticks stand where a sparsity was asked for, and at round ones beyond; the limits still hold the stars."""
    asked = sorted(set(rows["target"].dropna()))
    if asked:
        limits = axis.get_xlim()
        layout.sparsity_axis(axis, layout.with_landmarks(axis, asked))
        axis.set_xlim(limits)


def _line(axis: Axes, rows: pd.DataFrame, metric: Metric, style: Style, rng: np.random.Generator) -> None:
    values = by_seed(rows, metric.name)
    if not values.size:
        return
    x = halvings(by_seed(rows, "sparsity").mean().to_numpy(float))
    mean, low, high = st.mean_band(metric.scale * values.to_numpy(float), rng)
    banded(axis, x, (mean, low, high), style)
    lost = by_seed(rows.assign(lost=rows["collapsed"].map(has_items).astype(float)), "lost").max().to_numpy(float) > 0
    axis.plot(
        x[lost], mean[lost], color=style.color, marker=style.marker, linestyle="none", markerfacecolor="white", zorder=4
    )


def _star(axis: Axes, rows: pd.DataFrame, metric: Metric, style: Style, rng: np.random.Generator) -> None:
    if not len(rows):
        return
    per_seed = rows.groupby("seed")[["sparsity", metric.name]].mean()
    spread = st.mean_interval(metric.scale * per_seed[metric.name].to_numpy(float), rng)
    x = float(halvings(per_seed["sparsity"].mean()))
    across = st.mean_interval(per_seed["sparsity"].to_numpy(float), rng)
    axis.plot(
        [x],
        [spread.value],
        marker="*",
        markersize=13,
        color=style.color,
        markeredgecolor="black",
        markeredgewidth=0.7,
        linestyle="none",
        zorder=5,
    )
    axis.plot(
        [x],
        [spread.value],
        marker=style.marker,
        markersize=2.6,
        color="white",
        markeredgewidth=0,
        linestyle="none",
        zorder=6,
    )
    if math.isfinite(spread.low):
        axis.plot([x, x], [spread.low, spread.high], color=style.color, linewidth=1.2, zorder=4)
        ends = halvings([across.low, across.high])
        axis.plot(ends, [spread.value] * 2, color=style.color, linewidth=1.2, zorder=4)


def curves_caption(records: Records, metric: Metric) -> str:
    """Caption of a metric against sparsity."""
    rows = pruned(records)
    rows = rows[rows[metric.name].notna()]
    parts = [
        f"{metric.label[0].upper()}{metric.label[1:]} on the test split against the share of units pruned "
        f"({metric.direction}); {band_text(rows)}, {per_point(rows)}.",
        "Equal steps to the right are equal factors of compression.",
        "A star is the sparsity that the method chose itself, its cross 95 % bootstrap intervals over seeds."
        if rows["auto"].any()
        else "",
        "Open markers: at least one layer lost all its units in at least one seed." if _collapsed(rows) else "",
        failed_cells(records),
    ]
    return " ".join(filter(None, parts))


def _collapsed(rows: pd.DataFrame) -> bool:
    return bool(rows["collapsed"].map(has_items).any())
