"""The figure of one cell: the share that every layer keeps."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..drawing import panels
from ..drawing.axes import WIDTH, in_order, short_names


@panels.styled
def layer_shares(densities: Mapping[str, float]) -> Figure:
    """A bar for each layer, in their order, with its share in per cent."""
    layers = in_order(list(densities))
    figure = Figure(figsize=(0.6 * WIDTH, 0.7 + 0.2 * len(layers)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(short_names(layers), [densities[layer] for layer in layers], color="0.45")
    axis.bar_label(bars, fmt="{:.1%}", padding=2)
    axis.set(xlim=(0, 1.12), xlabel="share kept")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    axis.invert_yaxis()
    return figure
