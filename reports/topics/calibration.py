"""Calibration before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..drawing import panels as layout
from ..drawing.panels import occurring, styled
from ..drawing.style import Style, styles
from ..records.frame import Panel, Records, at_sparsity, labels, panels, percent, reference_sparsity
from ..writing.sentences import per_point


def calibration_panels(records: Records, sparsity: float) -> list[Panel]:
    """The panels with a calibration error after temperature scaling."""
    return panels(at_sparsity(records, sparsity), "ece_scaled")


@styled
def calibration(records: Records, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """Expected calibration error of every method before (light) and after (full) temperature scaling."""
    at = reference_sparsity(records) if sparsity is None else sparsity
    there = calibration_panels(records, at) if only is None else list(only)
    rows, look = at_sparsity(records, at), styles(labels(records))
    names = list(occurring(look, rows, there))
    legend = [
        Line2D([], [], color="#555555", marker="o", markerfacecolor="white", linestyle="none", label="before"),
        Line2D([], [], color="#555555", marker="o", linestyle="none", label="after temperature scaling"),
    ]
    figure, axes = layout.grid(len(there), legend, height=0.75 + 0.2 * max(len(names), 3))
    for index, (axis, panel) in enumerate(zip(axes, there, strict=True)):
        _calibration_panel(axis, panel.rows(rows), names, look, named=index % _width(axes) == 0)
        layout.title(axis, panel, records["units"].nunique() > 1)
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


def calibration_caption(records: Records, at: float) -> str:
    """Caption of calibration before and after temperature scaling."""
    return (
        f"Expected calibration error on the test split at {percent(at)} pruned, mean over seeds, "
        f"{per_point(at_sparsity(records, at))}; the temperature is fitted on the validation split. Lower is better."
    )
