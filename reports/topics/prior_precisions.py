"""Prior precisions that the evidence chose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..drawing import panels as layout
from ..drawing.axes import WIDTH, in_order, power_axis, short_names, tensor_axis
from ..drawing.panels import styled
from ..drawing.style import Style
from ..drawing.training_styles import fit_panels, training_styles, used
from ..records.frame import Panel, Records, number, seeds_text
from ..records.trainings import fit_counts, fits, most_fits


def precisions_caption(records: Records) -> str:
    """Caption of the learned prior precisions."""
    several = "; averaged over seeds on the log scale" if most_fits(records) > 1 else ""
    return (
        "Prior precisions δ that the evidence chose, over the entries of each parameter tensor, in the order of the "
        f"network: median (marker), 25–75 % (thick) and 5–95 % (thin){several}, {seeds_text(fit_counts(records))}. "
        "A large δ holds a weight near zero. A prior with one precision for a tensor, or for all, shows a marker alone."
    )


_QUANTILES = 5  # of the precisions of one tensor: 5, 25, 50, 75 and 95 %


def precision_panels(records: Records) -> list[Panel]:
    """The panels with quantiles of learned prior precisions."""
    rows = fits(records)
    return [panel for panel in fit_panels(records) if len(_quantiles(panel.rows(rows)))]


@styled
def precisions(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Learned prior precisions in each parameter tensor, in network order, one panel below the other."""
    there = precision_panels(records) if only is None else list(only)
    rows = fits(records)
    look = training_styles(rows)
    tables = [_quantiles(panel.rows(rows)) for panel in there]
    shown = used(look, tables)
    tensors = [in_order(list(dict.fromkeys(table["tensor"]))) for table in tables]
    heights = [2.3 + 0.16 * 0.45 * max(map(len, short_names(names))) for names in tensors] or [2.0]
    legend = layout.handles(shown)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3))
    axes = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).ravel())
    for axis, panel, table, names in zip(axes, there, tables, tensors, strict=False):
        _precision_panel(axis, table, names, shown)
        layout.title(axis, panel, False)
    if legend:
        figure.legend(handles=legend, loc="outside lower center", ncols=min(len(legend), 4))
    return figure


def _quantiles(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per training and tensor: log10 of its five quantiles, averaged over seeds."""
    found = [
        (fit.training, tensor, *_logarithms(values))
        for fit in rows.itertuples()
        for tensor, values in (fit.learned.get("precisions") or {}).items()  # pyright: ignore
        if isinstance(values, Sequence) and len(values) == _QUANTILES
    ]
    columns = ["training", "tensor", *range(_QUANTILES)]
    table = pd.DataFrame(found, columns=pd.Index(columns, dtype=object))
    return table.groupby(["training", "tensor"], sort=False).mean().dropna(how="all").reset_index()


def _logarithms(values: Iterable[object]) -> list[float]:
    return [math.log10(value) if value > 0 else math.nan for value in map(number, values)]


def _precision_panel(axis: Axes, table: pd.DataFrame, tensors: Sequence[str], look: dict[str, Style]) -> None:
    """Bars of 25-75 % (thick) and 5-95 % (thin) around the median, the trainings side by side in each slot."""
    here = [name for name in look if name in set(table["training"])]
    slot = 0.8 / max(len(here), 1)
    width = min(3.0, 110 * slot / max(len(tensors), 1))  # points; thinner where slots are narrow
    for nth, name in enumerate(here):
        own = table[table["training"] == name].set_index("tensor")[list(range(_QUANTILES))].reindex(list(tensors))
        q05, q25, q50, q75, q95 = (10.0 ** own.to_numpy(float)).T
        x, style = np.arange(len(tensors)) + slot * (nth - (len(here) - 1) / 2), look[name]
        axis.vlines(x, q05, q95, color=style.color, linewidth=max(0.5, 0.4 * width))
        axis.vlines(x, q25, q75, color=style.color, linewidth=max(1.4, 1.6 * width), alpha=0.45)
        axis.plot(x, q50, color=style.color, linewidth=0.6, alpha=0.35)
        axis.plot(x, q50, color=style.color, marker=style.marker, markersize=1.2 + width, linestyle="none")
    tensor_axis(axis, tensors)
    power_axis(axis)
    axis.set_ylabel("prior precision δ")
