"""Structures removed: the measured speed-up, and the quality left, against what is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..drawing import panels as layout
from ..drawing.axes import banded, dense_line
from ..drawing.panels import styled
from ..drawing.style import Style, styles
from ..records import statistics as st
from ..records.frame import (
    Panel,
    Records,
    by_seed,
    dense_by_seed,
    halvings,
    labels,
    panel_metric,
    panels,
    seed_counts,
)
from ..records.metrics import REMOVED_FLOPS, REMOVED_PARAMETERS, Metric
from ..writing.sentences import band_text, per_point
from .savings import SPEEDUP, batch_text, means, measured, structured, timed

SHARES = (REMOVED_FLOPS, REMOVED_PARAMETERS)
_TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_STEPS = ([4.0**k for k in range(-6, 11)], [2.0**k for k in range(-12, 21)])
_FINE = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0]
_PROPORTIONAL = {"color": "black", "linestyle": (0, (5, 2)), "linewidth": 1.0}
_SAME = {"color": "#777777", "linestyle": "-", "linewidth": 0.9}
_MASK = {"color": "#9a9a9a", "marker": "o", "markersize": 3.0, "linestyle": "none"}


# ---------------------------------------------------------------- latency


def latency_panels(records: Records) -> list[Panel]:
    """The panels with a measured speed-up."""
    return panels(timed(records))


@styled
def latency(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Measured speed-up of the compact network against the share of operations removed, masked networks in grey.

    Equal steps are equal factors on both axes, so that a speed-up in proportion to the operations is a straight line.
    """
    there = latency_panels(records) if only is None else list(only)
    rows, look = timed(records), styles(labels(records))
    parts = [means(panel.rows(rows)) for panel in there]
    names = {name for part in parts for name in part["label"]}
    used = {name: style for name, style in look.items() if name in names}
    figure, axes = layout.grid(len(there), layout.handles(used, *_latency_legend(parts), line=False))
    for axis, panel, part in zip(axes, there, parts, strict=True):
        _latency_panel(axis, part, used)
        layout.title(axis, panel, rows["units"].nunique() > 1)
    return figure


def _latency_legend(parts: Sequence[pd.DataFrame]) -> list[Line2D]:
    masked = any(part["speedup_masked"].notna().any() for part in parts)
    own = [Line2D([], [], label="mask alone", **_MASK)] if masked else []
    return [*own, Line2D([], [], label="in proportion to the FLOPs", **_PROPORTIONAL)]


def _latency_panel(axis: Axes, part: pd.DataFrame, look: Mapping[str, Style]) -> None:
    x = halvings(part[REMOVED_FLOPS.name].to_numpy(float))
    axis.axhline(1.0, zorder=1.5, **_SAME)
    axis.plot([0.0, x.max()], [1.0, 2.0 ** x.max()], zorder=1.5, **_PROPORTIONAL)
    axis.plot(x, part["speedup_masked"], zorder=2, **_MASK)
    for label, style in look.items():
        mine = (part["label"] == label).to_numpy()
        own = part[mine]
        axis.vlines(x[mine], own[SPEEDUP[1]], own[SPEEDUP[2]], color=style.color, linewidth=1.1, alpha=0.8)
        axis.plot(x[mine], own["speedup_compact"], color=style.color, marker=style.marker, linestyle="none")
    _share_axis(axis, part[REMOVED_FLOPS.name], REMOVED_FLOPS)
    _speedup_axis(axis, part[[*SPEEDUP, "speedup_masked"]].to_numpy(float), 2.0 ** x.max())
    axis.annotate(
        "no faster", (1, 1), (2, 0), ("axes fraction", "data"), "offset points", rotation=90, ha="left", va="center",
        fontsize=6.5, color=_SAME["color"],
    )  # fmt: skip


def _speedup_axis(axis: Axes, values: np.ndarray, proportional: float) -> None:
    """A log axis that holds all points; the proportional line may leave it where it is far above them."""
    values = values[np.isfinite(values) & (values > 0)]
    low, high = min(0.8, values.min() / 1.1), max(2.0, values.max() * 1.2)
    high = max(high, min(proportional * 1.1, 3 * high))
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    wide, powers, fine = ([tick for tick in ticks if low <= tick <= high] for ticks in (*_STEPS, _FINE))
    axis.yaxis.set_major_locator(FixedLocator(wide if len(wide) > 4 else powers if len(powers) > 2 else fine))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("speed-up")


def _share_axis(axis: Axes, shares: pd.Series, metric: Metric) -> None:
    """From the dense network at 0 to the largest share, in halvings, round shares marked."""
    most = float(halvings(shares.max()))
    ticks = [0.0]
    for share in _TICKS:
        if halvings(share) <= most and halvings(share) - halvings(ticks[-1]) >= 0.11 * most:
            ticks.append(share)
    layout.sparsity_axis(axis, ticks)
    pad = max(0.05 * most, 0.05)
    axis.set_xlim(-pad, most + pad)
    axis.set_xlabel(metric.label)


# ---------------------------------------------------------------- quality


def structure_panels(records: Records) -> list[Panel]:
    """The panels with a primary metric and a share of operations or parameters removed."""
    rows = structured(records)
    rows = rows[rows[[share.name for share in SHARES]].notna().any(axis=1)]
    return [panel for panel in panels(rows) if panel.rows(rows)[panel_metric(records, panel).name].notna().any()]


@styled
def structure(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric against the share of operations removed, and beside it of parameters removed."""
    there = structure_panels(records) if only is None else list(only)
    rows, look = structured(records), styles(labels(records))
    figure, axes = layout.grid(2 * len(there), _structure_legend(records, rows, there, look), columns=2)
    for index, axis in enumerate(axes):
        panel, share = there[index // 2], SHARES[index % 2]
        metric = panel_metric(records, panel)
        own = panel.rows(rows)
        _quality_panel(axis, own[own[metric.name].notna() & own[share.name].notna()], metric, share, look)
        dense_line(axis, dense_by_seed(records, panel, metric), metric, st.generator())
        layout.title(axis, panel, rows["units"].nunique() > 1)
    return figure


def _structure_legend(
    records: Records, rows: pd.DataFrame, there: Sequence[Panel], look: Mapping[str, Style]
) -> list[Line2D]:
    shown = pd.concat([panel.rows(rows) for panel in there]) if there else rows
    names = set(shown["label"])
    dense = any(len(dense_by_seed(records, panel, panel_metric(records, panel))) for panel in there)
    extra = [layout.dense_handle()] * dense + [layout.star_handle()] * bool(shown["auto"].any())
    return layout.handles({name: style for name, style in look.items() if name in names}, *extra)


def _quality_panel(axis: Axes, rows: pd.DataFrame, metric: Metric, share: Metric, look: Mapping[str, Style]) -> None:
    rng = st.generator()
    for label in sorted(set(rows["label"])):
        own = rows[rows["label"] == label]
        _line(axis, own, metric, share, look[label], rng)
        _star(axis, own[own["auto"]], metric, share, look[label])
    _share_axis(axis, rows[share.name] if len(rows) else pd.Series([0.5]), share)
    axis.set_ylabel(metric.label)
    if metric.logarithmic:
        layout.log_if_wide(axis, list(rows[metric.name]))


def _line(
    axis: Axes, rows: pd.DataFrame, metric: Metric, share: Metric, style: Style, rng: np.random.Generator
) -> None:
    values = by_seed(rows, metric.name)
    if values.size:
        x = halvings(by_seed(rows, share.name).mean().to_numpy(float))
        banded(axis, x, st.mean_band(metric.scale * values.to_numpy(float), rng), style)


def _star(axis: Axes, rows: pd.DataFrame, metric: Metric, share: Metric, style: Style) -> None:
    if len(rows):
        at = rows.groupby("seed")[[share.name, metric.name]].mean().mean()
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.7, "linestyle": "none", "zorder": 5}
        x, y = float(halvings(at[share.name])), metric.scale * at[metric.name]
        axis.plot([x], [y], color=style.color, marker="*", markersize=13, **edge)


def structure_caption(records: Records) -> str:
    """Caption of quality against what structured pruning removed."""
    rows = measured(records)
    star = "A star is the sparsity that the method chose itself." if rows["auto"].any() else ""
    return (
        "The primary metric of networks pruned by structures against the share of floating-point operations (left) and "
        "of parameters (right) that left the network for good, as the compact network counts them, not the mask; "
        f"{band_text(rows)}, {per_point(rows)}. Equal steps to the right are equal factors; the dense network stands "
        f"at 0. {star}"
    ).strip()


def latency_caption(records: Records) -> str:
    """Caption of measured speed-ups."""
    rows = timed(records)
    several = ", point and limits averaged over seeds" if max(seed_counts(rows), default=0) > 1 else ""
    masked = rows["speedup_masked"].notna().any()
    return (
        f"Latency of the dense network / own latency at {batch_text(rows)}, measured in turn on one machine "
        f"({_devices(rows)}), against the share of floating-point operations removed; bar: 95 % interval of the median "
        f"over rounds{several}, {per_point(rows)}. Both axes are logarithmic; dashed: a speed-up in proportion to the "
        "operations; level line: no faster than dense. "
        + ("Grey: the same networks with the mask alone, which saves no time." if masked else "")
    ).strip()


def _devices(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(set(rows["device"]) - {""})) or "device not recorded"
