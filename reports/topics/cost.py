"""Cost: quality against seconds, and what every method took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..drawing import panels as layout
from ..drawing.panels import occurring, styled
from ..drawing.style import Style, styles
from ..records import statistics as st
from ..records.frame import (
    Panel,
    Records,
    at_sparsity,
    labels,
    panel_metric,
    panels,
    percent,
    pruned,
    reference_sparsity,
)
from ..records.metrics import QUALITY, Metric
from ..writing.numbers import capital, finite_text
from ..writing.render import Row, Section, Table, by_label, row
from ..writing.sentences import per_point
from .operating import SECONDS


def cost_panels(records: Records, sparsity: float) -> list[Panel]:
    """The panels with seconds and a primary metric."""
    rows = at_sparsity(records, sparsity)
    rows = rows[rows["seconds"] > 0]
    return [p for p in panels(rows) if p.rows(rows)[panel_metric(records, p).name].notna().any()]


@styled
def cost(records: Records, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric against total seconds (training, scoring, fine-tuning) at one target sparsity."""
    at = reference_sparsity(records) if sparsity is None else sparsity
    there = cost_panels(records, at) if only is None else list(only)
    rows, look = at_sparsity(records, at), styles(labels(records))
    figure, axes = layout.grid(len(there), layout.handles(occurring(look, rows, there), line=False))
    for axis, panel in zip(axes, there, strict=True):
        _cost_panel(axis, panel.rows(rows), panel_metric(records, panel), look)
        layout.title(axis, panel, records["units"].nunique() > 1)
    return figure


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


def cost_table(records: Records) -> Table:
    """What each method cost: seconds, passes, peak memory, and the FLOPs of the masked network."""
    at = reference_sparsity(records)
    sections = tuple(_cost_section(records, panel, at) for panel in panels(records))
    seconds, passes = (
        tuple(f"{part} {unit}" for part in ("train", "score", "fine-tune")) for unit in ("(s)", "passes")
    )
    columns = ("method", *seconds, "total (s)", *passes, "peak memory (MB)", "FLOPs left (%)", "cells")
    where = f" at {percent(at)} pruned" if math.isfinite(at) else ""
    notes = (
        "Means over the done cells of a method; total seconds: mean ± standard deviation. Passes: examples that went "
        "forward and backward, in thousands. Training that several cells share counts in full for each. "
        f"FLOPs left{where} count non-zero weights: a mask alone makes nothing faster.",
    )
    return Table("cost", "Cost", columns, sections, notes)


def _cost_section(records: Records, panel: Panel, at: float) -> Section:
    rows = panel.rows(pruned(records))
    return Section(panel.name(records), by_label(rows, partial(_cost_row, at=at)))


def _cost_row(label: str, rows: pd.DataFrame, at: float) -> Row:
    parts = ("train", "score", "finetune")
    seconds = [_mean(rows[f"seconds_{part}"], 1, 2) for part in parts]
    passes = [_mean(rows[f"passes_{part}"], 1e-3, 1) for part in parts]
    peak = rows[[f"peak_bytes_{part}" for part in parts]].max(axis=1)
    there = rows[rows["target"] == at] if math.isfinite(at) else rows
    flops = _mean(there["flops_nonzero"] / there["flops_dense"], 100, 1)
    return row(
        label, *seconds, finite_text(rows["seconds"], SECONDS), *passes, _mean(peak, 1e-6, 1), flops, str(len(rows))
    )


def _mean(values: pd.Series, scale: float, digits: int) -> str:
    mean = float(values.mean()) if values.notna().any() else math.nan
    return f"{scale * mean:.{digits}f}" if math.isfinite(mean) else "–"


def cost_caption(records: Records, at: float) -> str:
    """Caption of quality against cost."""
    return (
        f"{capital(QUALITY)} against the wall-clock seconds of training, scoring and fine-tuning together, "
        f"at {percent(at)} pruned; point: mean over seeds, cross: 95 % bootstrap intervals, "
        f"{per_point(at_sparsity(records, at))}. Training shared by several cells counts in full for each. "
        "Cheap and good is at the upper left (where less is better: lower left)."
    )
