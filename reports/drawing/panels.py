"""Pages of panels: sizes, axes that can be read at 50 to 99 % sparsity, one legend outside of them, files."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ..records.frame import Panel, halvings
from .style import Style, sheet, shortened

PER_PAGE = 9
COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 3.3, 2.35  # inches
NARROWEST = 6.6
LANDMARKS = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
LABEL_LENGTH, CROWDED_LENGTH = 38, 26
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name (no suffix), its heading, and a caption that says what is seen."""

    name: str
    title: str
    caption: str
    figure: Figure


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the report's style sheet."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with sheet():
            return draw(*args, **kwargs)

    return inside


def pages(panels: Sequence[Panel], size: int = PER_PAGE) -> list[list[Panel]]:
    """Panels in pages of about equal length, none longer than `size`."""
    count = math.ceil(len(panels) / size)
    return [list(part) for part in _split(panels, count)] if count else []


def _split(panels: Sequence[Panel], count: int) -> list[Sequence[Panel]]:
    edges = [round(i * len(panels) / count) for i in range(count + 1)]
    return [panels[a:b] for a, b in itertools.pairwise(edges)]


def grid(
    count: int, legend: Sequence[Line2D], height: float = PANEL_HEIGHT, columns: int = COLUMNS
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes in rows, and the legend below all of them in space of its own."""
    columns = 2 if count == 4 and columns == 3 else min(columns, max(count, 1))
    rows = math.ceil(max(count, 1) / columns)
    width = max(NARROWEST, PANEL_WIDTH * columns)
    across = _legend_columns(legend, width)
    legend_rows = math.ceil(len(legend) / across) if legend else 0
    figure = Figure(figsize=(width, height * rows + 0.19 * legend_rows + 0.15))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.remove()
    if legend:
        figure.legend(handles=list(legend), loc="outside lower center", ncols=across)
    return figure, list(axes[:count])


def _legend_columns(legend: Sequence[Line2D], width: float) -> int:
    longest = max((len(str(handle.get_label())) for handle in legend), default=1)
    return max(1, min(len(legend), int(72 * width / (4.4 * longest + 38))))


def handles(styles: Mapping[str, Style], *extra: Line2D, line: bool = True) -> list[Line2D]:
    """Legend entries of methods, then the extra ones; `line=False` for figures of points."""
    names = told_apart(list(styles), LABEL_LENGTH if len(styles) <= 6 else CROWDED_LENGTH)
    return [handle(name, style, line) for name, style in zip(names, styles.values(), strict=True)] + list(extra)


def told_apart(names: Sequence[str], length: int) -> list[str]:
    """Names at most `length` characters long, or, where that would make some of them equal, in full."""
    short = [shortened(name, length) for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def handle(name: str, style: Style, line: bool = True) -> Line2D:
    """The legend entry of one method."""
    return Line2D(
        [],
        [],
        color=style.color,
        marker=style.marker,
        linestyle=style.line if line else "none",
        label=name,
    )


def dense_handle() -> Line2D:
    """The legend entry of the unpruned network's line."""
    return Line2D([], [], color="black", linestyle=(0, (5, 2)), linewidth=1.0, label="dense")


def star_handle() -> Line2D:
    """The legend entry of self-chosen sparsities."""
    return Line2D(
        [], [], color="#555555", marker="*", markersize=10, linestyle="none", label="sparsity the method chose"
    )


def open_handle() -> Line2D:
    """The legend entry of collapsed networks."""
    return Line2D(
        [], [], color="#555555", marker="o", markerfacecolor="white", linestyle="none", label="open: collapsed layer"
    )


def title(axes: Axes, panel: Panel, both_units: bool) -> None:
    """The panel's name above its axes, on two lines where one is too long."""
    network = panel.architecture + (f" · {panel.units}" if both_units else "")
    one = f"{panel.dataset} · {network}"
    axes.set_title(one if len(one) <= 36 else f"{shortened(panel.dataset, 36)}\n{shortened(network, 36)}")


def sparsity_axis(axes: Axes, sparsities: Sequence[float]) -> None:
    """An x axis in halvings of the network with ticks in per cent pruned, thinned until they are legible."""
    if not len(sparsities):
        return
    at = halvings(sparsities)
    pad = max(0.06 * (at.max() - at.min()), 0.15)
    axes.set_xlim(at.min() - pad, at.max() + pad)
    chosen = thinned(sorted(set(sparsities)), gap=0.105)
    axes.xaxis.set_major_locator(FixedLocator(list(halvings(chosen))))
    axes.set_xticklabels([f"{100 * s:.4g}" for s in chosen])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("pruned (%)")


def with_landmarks(axes: Axes, sparsities: Sequence[float], gap: float = 0.105) -> list[float]:
    """The sparsities, and round ones of the axis beyond the smallest and the largest of them."""
    low, high = axes.get_xlim()
    room = gap * (high - low)
    first, last = halvings([min(sparsities), max(sparsities)])
    beyond = [s for s in LANDMARKS if low <= (x := halvings(s)) <= high and (x <= first - room or x >= last + room)]
    return sorted({*sparsities, *beyond})


def thinned(sparsities: Sequence[float], gap: float) -> list[float]:
    """The largest sparsity and, from there down, those at least `gap` of the axis away from the last one kept."""
    at = halvings(sparsities)
    wide = max(float(at.max() - at.min()), 1e-9)
    kept = [len(at) - 1]
    for i in range(len(at) - 2, -1, -1):
        if (at[kept[-1]] - at[i]) / wide >= gap:
            kept.append(i)
    return [sparsities[i] for i in reversed(kept)]


def log_if_wide(axes: Axes, values: Sequence[float], ratio: float = 20.0) -> None:
    """A log y axis if the values are positive and span more than `ratio`."""
    finite = np.asarray([v for v in values if math.isfinite(v)])
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > ratio:
        axes.set_yscale("log")
        decades = math.log10(finite.max() / finite.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def side_by_side(axis: Axes, rows: pd.DataFrame, kinds: Sequence[str], look: Mapping[str, Style]) -> None:
    """For each column of `kinds` a marker at the mean over seeds, a line from smallest to largest; methods abreast."""
    here = [name for name in look if name in set(rows["label"])]
    slot = 0.8 / max(len(here), 1)
    for nth, name in enumerate(here):
        values = rows[rows["label"] == name][list(kinds)].astype(float)
        x = np.arange(len(kinds)) + slot * (nth - (len(here) - 1) / 2)
        axis.vlines(x, values.min(), values.max(), color=look[name].color, linewidth=1.1)
        axis.plot(x, values.mean(), color=look[name].color, marker=look[name].marker, linestyle="none")
    axis.set_xticks(range(len(kinds)), list(kinds))
    axis.set_xlim(-0.6, len(kinds) - 0.4)
    axis.margins(y=0.08)
    largest = rows.loc[rows["label"].isin(here), list(kinds)].astype(float).max().max()
    axis.set_ylim(0, 1.08 * largest if largest > 0 else None)  # half a marker, above the largest


FORMATS: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
"""The files of each figure and what their metadata leave out, so that equal figures are equal bytes."""


@styled
def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure that stands alone, the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=FORMATS["svg"])


@styled
def save(drawing: Drawing, folder: Path) -> bytes:
    """Write the figure as PDF, SVG and PNG, the same bytes every time; returns the SVG."""
    drawing.figure.draw_without_rendering()  # lays out once; the three files then share it
    drawing.figure.set_layout_engine("none")
    for suffix, metadata in FORMATS.items():
        drawing.figure.savefig(folder / f"{drawing.name}.{suffix}", metadata=metadata)
    return (folder / f"{drawing.name}.svg").read_bytes()


def occurring(look: Mapping[str, Style], rows: pd.DataFrame, there: Sequence[Panel]) -> dict[str, Style]:
    """The looks of methods that have rows in one of the panels."""
    names = {name for panel in there for name in panel.rows(rows)["label"]}
    return {name: style for name, style in look.items() if name in names}
