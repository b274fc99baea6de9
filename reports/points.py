"""Figures at one sparsity: quality against cost, calibration, accuracy under shift; and average ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from . import layout
from . import statistics as st
from .frame import Panel, at_sparsity, labels, panel_metric, panels, prepare, reference_sparsity
from .layout import styled
from .metrics import Metric
from .ranking import Ranking
from .style import Style, styles


def calibration_panels(frame: pd.DataFrame, sparsity: float) -> list[Panel]:
    """The panels with a calibration error after temperature scaling; expects a prepared frame."""
    return panels(at_sparsity(frame, sparsity), "ece_scaled")


def cost_panels(frame: pd.DataFrame, sparsity: float) -> list[Panel]:
    """The panels with seconds and a primary metric; expects a prepared frame."""
    rows = at_sparsity(frame, sparsity)
    rows = rows[rows["seconds"] > 0]
    return [p for p in panels(rows) if p.rows(rows)[panel_metric(frame, p).name].notna().any()]


def shift_panels(frame: pd.DataFrame, sparsity: float) -> list[Panel]:
    """The panels with accuracies under shift; expects a prepared frame."""
    rows = at_sparsity(frame, sparsity)
    return panels(rows[rows["shift"].map(lambda value: bool(severities(value)))])


@styled
def cost(frame: pd.DataFrame, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric against total seconds (training, scoring, fine-tuning) at one target sparsity."""
    frame = prepare(frame)
    at = reference_sparsity(frame) if sparsity is None else sparsity
    there = cost_panels(frame, at) if only is None else list(only)
    rows, look = at_sparsity(frame, at), styles(labels(frame))
    figure, axes = layout.grid(len(there), layout.handles(_used(look, rows, there), line=False))
    for axis, panel in zip(axes, there, strict=True):
        _cost_panel(axis, panel.rows(rows), panel_metric(frame, panel), look)
        layout.title(axis, panel, frame["units"].nunique() > 1)
    return figure


def _used(look: Mapping[str, Style], rows: pd.DataFrame, there: Sequence[Panel]) -> dict[str, Style]:
    names = {name for panel in there for name in panel.rows(rows)["label"]}
    return {name: style for name, style in look.items() if name in names}


def _cost_panel(axis: Axes, rows: pd.DataFrame, metric: Metric, look: Mapping[str, Style]) -> None:
    rng = st.generator()
    rows = rows[rows[metric.name].notna() & (rows["seconds"] > 0)]
    for label, own in rows.groupby("label"):
        x = st.mean_interval(own.groupby("seed")["seconds"].mean().to_numpy(float), rng)
        y = st.mean_interval(metric.scale * own.groupby("seed")[metric.name].mean().to_numpy(float), rng)
        style = look[str(label)]
        axis.plot([x.low, x.high], [y.value, y.value], color=style.color, linewidth=0.9, alpha=0.7)
        axis.plot([x.value, x.value], [y.low, y.high], color=style.color, linewidth=0.9, alpha=0.7)
        axis.plot(
            [x.value],
            [y.value],
            color=style.color,
            marker=style.marker,
            markersize=6,
            linestyle="none",
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    axis.set_xscale("log")
    _seconds_ticks(axis, rows["seconds"])
    axis.set_xlabel("seconds, total (log scale)")
    axis.set_ylabel(metric.label)


def _seconds_ticks(axis: Axes, seconds: pd.Series) -> None:
    """Three to five round numbers; a log locator alone leaves narrow ranges without any label."""
    low, high = seconds.min() / 1.15, seconds.max() * 1.15
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), np.arange(1, 10, 0.25)):
        ticks = [step * 10.0**e for e in exponents for step in steps if low <= step * 10.0**e <= high]
        if len(ticks) >= 3:
            break
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 6) or 1]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


@styled
def calibration(frame: pd.DataFrame, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """Expected calibration error of every method before (light) and after (full) temperature scaling."""
    frame = prepare(frame)
    at = reference_sparsity(frame) if sparsity is None else sparsity
    there = calibration_panels(frame, at) if only is None else list(only)
    rows, look = at_sparsity(frame, at), styles(labels(frame))
    names = list(_used(look, rows, there))
    legend = [
        Line2D([], [], color="#555555", marker="o", markerfacecolor="white", linestyle="none", label="before"),
        Line2D([], [], color="#555555", marker="o", linestyle="none", label="after temperature scaling"),
    ]
    figure, axes = layout.grid(len(there), legend, height=0.75 + 0.2 * max(len(names), 3))
    for index, (axis, panel) in enumerate(zip(axes, there, strict=True)):
        _calibration_panel(axis, panel.rows(rows), names, look, named=index % _width(axes) == 0)
        layout.title(axis, panel, frame["units"].nunique() > 1)
    return figure


def _width(axes: Sequence[Axes]) -> int:
    """How many panels stand side by side."""
    spec = axes[0].get_subplotspec() if axes else None
    return spec.get_gridspec().ncols if spec else 1


def _calibration_panel(
    axis: Axes, rows: pd.DataFrame, names: Sequence[str], look: Mapping[str, Style], named: bool
) -> None:
    means = {label: 100 * own[["ece", "ece_scaled"]].mean().to_numpy(float) for label, own in rows.groupby("label")}
    for place, name in enumerate(names):
        if name in means:
            before, after = means[name]
            style = look[name]
            axis.plot([before, after], [place, place], color=style.color, linewidth=1.1, alpha=0.6)
            axis.plot([before], [place], color=style.color, marker=style.marker, markerfacecolor="white")
            axis.plot([after], [place], color=style.color, marker=style.marker)
    axis.set_yticks(range(len(names)), layout.told_apart(names, 24) if named else [""] * len(names))
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel("expected calibration error (%)")


@styled
def shift(frame: pd.DataFrame, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """Accuracy against the severity of corruptions of the test inputs, averaged over their kinds."""
    frame = prepare(frame)
    at = reference_sparsity(frame) if sparsity is None else sparsity
    there = shift_panels(frame, at) if only is None else list(only)
    rows, look = at_sparsity(frame, at), styles(labels(frame))
    figure, axes = layout.grid(len(there), layout.handles(_used(look, rows, there)))
    for axis, panel in zip(axes, there, strict=True):
        _shift_panel(axis, panel.rows(rows), look)
        layout.title(axis, panel, frame["units"].nunique() > 1)
    return figure


def _shift_panel(axis: Axes, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    rng = st.generator()
    for label, own in rows.groupby("label"):
        curve = pd.DataFrame([{0: a, **severities(s)} for a, s in zip(own["accuracy"], own["shift"], strict=True)])
        curve = 100 * curve.groupby(own["seed"].to_numpy()).mean().sort_index(axis=1)
        mean, low, high = st.mean_band(curve.to_numpy(float), rng)
        x, style = curve.columns.to_numpy(float), look[str(label)]
        axis.plot(x, mean, color=style.color, marker=style.marker, linestyle=style.line)
        axis.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)
    axis.set_xlabel("severity of the shift (0: none)")
    axis.set_ylabel("accuracy (%)")


def severities(value: object) -> dict[int, float]:
    """Mean accuracy per severity of one record's `shift`, {"noise/3": {"accuracy": ...}, ...}."""
    if not isinstance(value, Mapping):
        return {}
    found: dict[int, list[float]] = {}
    for key, result in value.items():
        severity = str(key).rpartition("/")[2]
        accuracy = result.get("accuracy") if isinstance(result, Mapping) else None
        if severity.isdigit() and isinstance(accuracy, int | float) and math.isfinite(accuracy):
            found.setdefault(int(severity), []).append(float(accuracy))
    return {severity: float(np.mean(values)) for severity, values in sorted(found.items())}


@styled
def ranks(ranking: Ranking, look: Mapping[str, Style] | None = None) -> Figure:
    """Average ranks with their intervals, and the critical difference as a shaded band behind the best method."""
    look = styles(s.label for s in ranking.standings) if look is None else look
    figure = Figure(figsize=(layout.NARROWEST, 0.85 + 0.22 * len(ranking.standings)))
    axis = figure.subplots()
    for place, standing in enumerate(ranking.standings):
        rank, style = standing.rank, look[standing.label]
        axis.plot([rank.low, rank.high], [place, place], color=style.color, linewidth=1.6)
        axis.plot([rank.value], [place], color=style.color, marker=style.marker, markersize=6, linestyle="none")
    best, distance = ranking.standings[0].rank.value, ranking.comparison.critical_difference
    if math.isfinite(distance):
        axis.axvspan(best, best + distance, color="#999999", alpha=0.15, linewidth=0)
    axis.set_yticks(range(len(ranking.standings)), layout.told_apart([s.label for s in ranking.standings], 40))
    axis.set_ylim(len(ranking.standings) - 0.4, -0.6)
    axis.set_xlim(0.7, len(ranking.standings) + 0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(
        "average rank (1 is best)"
        + ("; shaded: within the critical difference of the best" if math.isfinite(distance) else "")
    )
    return figure
