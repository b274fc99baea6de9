"""The heat map of layer densities: where each method keeps its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..drawing import panels as layout
from ..drawing.axes import WIDTH, in_order, short_names
from ..records.frame import Panel, Records, at_sparsity, panels, percent, reference_sparsity
from ..writing.sentences import per_point

NUMBERED = 30  # more layers than this leave no room for numbers
NORM = PowerNorm(0.45, vmin=0.0, vmax=1.0)  # low densities need the resolution


def density_panels(records: Records, sparsity: float) -> list[Panel]:
    """The panels that have layer densities at this target sparsity."""
    rows = at_sparsity(records, sparsity)
    return panels(rows[rows["layer_density"].map(lambda value: isinstance(value, Mapping) and len(value) > 0)])


def layer_densities(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean share kept, one row per method and one column per layer, in the order of `in_order`."""
    records = [
        (label, value)
        for label, value in zip(rows["label"], rows["layer_density"], strict=True)
        if isinstance(value, Mapping)
    ]
    table = pd.DataFrame([dict(value) for _, value in records], dtype=float)
    return table.groupby(np.array([label for label, _ in records])).mean()[in_order(list(table.columns))]


@layout.styled
def densities(records: Records, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """Share of units kept, method × layer, one heat map per panel, annotated in per cent."""
    at = reference_sparsity(records) if sparsity is None else sparsity
    there = density_panels(records, at) if only is None else list(only)
    tables = [layer_densities(panel.rows(at_sparsity(records, at))) for panel in there]
    heights = [0.24 * len(table) + 0.16 * 0.45 * _longest(table) + 0.75 for table in tables] or [2.0]
    figure = Figure(figsize=(WIDTH, sum(heights)))
    axes = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).ravel())
    images = [_heat_map(axis, table) for axis, table in zip(axes, tables, strict=False)]
    for axis, panel in zip(axes, there, strict=False):
        layout.title(axis, panel, records["units"].nunique() > 1)
    if images:
        _color_bar(figure, axes, images[0])
    return figure


def _longest(table: pd.DataFrame) -> int:
    return max(len(name) for name in short_names(table.columns))


def _heat_map(axis: Axes, table: pd.DataFrame) -> AxesImage:
    image = axis.imshow(table.to_numpy(float), norm=NORM, aspect="auto")
    axis.grid(False)
    names = short_names(table.columns)
    step = max(1, round(len(names) / 45))
    axis.set_xticks(range(0, len(names), step), names[::step], rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(table)), layout.told_apart([str(name) for name in table.index], 30))
    axis.tick_params(length=0)
    if len(names) <= NUMBERED:
        _numbers(axis, table, image)
    return image


def _numbers(axis: Axes, table: pd.DataFrame, image: AxesImage) -> None:
    size = 7.0 if table.shape[1] <= 20 else 5.5
    for (row, column), value in np.ndenumerate(table.to_numpy(float)):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(NORM(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axis.text(
                column,
                row,
                density_text(value),
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "black",
            )


def density_text(share: float) -> str:
    """Per cent with two significant digits; `0` means none at all."""
    value = 100 * share
    if value == 0 or value >= 9.95:
        return f"{value:.0f}"
    if value < 0.995:
        return f"{value:.2f}".lstrip("0") if value >= 0.005 else "<.01"
    return f"{value:.1f}"


def _color_bar(figure: Figure, axes: Sequence[Axes], image: AxesImage) -> None:
    bar = figure.colorbar(image, ax=list(axes), fraction=0.02, pad=0.01, aspect=30)
    bar.set_ticks([0.0, 0.01, 0.05, 0.2, 0.5, 1.0], labels=["0", "1", "5", "20", "50", "100"])
    bar.set_label("units kept (%)")


def density_caption(records: Records, at: float) -> str:
    """Caption of the heat maps of layer densities."""
    return (
        f"Share of units kept in each layer (numbers in %) at {percent(at)} pruned, mean over seeds, "
        f"{per_point(at_sparsity(records, at))}; layers in the order of the records. All methods of a panel keep about "
        "the same total; they differ in where."
    )
