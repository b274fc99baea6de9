"""Axes that several figures share: layers in the order of the network, powers of ten, the dense network."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..records import statistics as st
from ..records.metrics import Metric
from .style import Style, shortened


def banded(
    axis: Axes, x: np.ndarray, band: tuple[np.ndarray, np.ndarray, np.ndarray], style: Style, **options: object
) -> None:
    """A method's line over `x`, with the interval of its mean behind it."""
    mean, low, high = band
    axis.plot(x, mean, color=style.color, marker=style.marker, linestyle=style.line, **options)  # pyright: ignore
    axis.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)


def dense_line(axis: Axes, dense: pd.Series, metric: Metric, rng: np.random.Generator) -> None:
    """The unpruned network's metric over seeds, as a dashed line with its interval."""
    if not len(dense):
        return
    spread = st.mean_interval(metric.scale * dense.to_numpy(float), rng)
    axis.axhline(spread.value, color="black", linestyle=(0, (5, 2)), linewidth=1.0, zorder=1.5)
    if math.isfinite(spread.low):
        axis.axhspan(spread.low, spread.high, color="black", alpha=0.07, linewidth=0, zorder=1)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def tensor_axis(axis: Axes, tensors: Sequence[str]) -> None:
    """An x axis with a slot for each parameter tensor or layer, its short name below it."""
    names, step = short_names(tensors), max(1, round(len(tensors) / 40))
    axis.set_xticks(range(0, len(names), step), names[::step], rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(visible=False, axis="x")
    for edge in range(1, len(names)):
        axis.axvline(edge - 0.5, color="#eeeeee", linewidth=0.5, zorder=0)


def power_axis(axes: Axes) -> None:
    """A log y axis labelled in powers of ten, without the mathematics that names must not be read as."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def power(value: float) -> str:
    """`10⁻³`; other values as they are."""
    exponent = round(math.log10(value)) if value > 0 else 0
    exact = value > 0 and math.isclose(value, 10.0**exponent)
    return f"10{str(exponent).translate(_SUPERSCRIPT)}" if exact else f"{value:g}"


WIDTH = 9.9  # inches
NAME_LENGTH = 20


def in_order(names: list[str]) -> list[str]:
    """Names as given; alphabetical ones (a record's keys may be sorted) by their numbers: b.2 before b.10."""
    if names != sorted(names):
        return names
    return sorted(names, key=lambda name: [(part.isdigit(), part.zfill(6)) for part in re.split(r"(\d+)", name)])


def short_names(names: Sequence[str] | pd.Index) -> list[str]:
    """Layer names; long ones lose the dotted parts that all share at either end, then their middle."""
    texts = [re.sub(r"[._]weight$", "", str(name)) for name in names]
    if max(map(len, texts), default=0) <= NAME_LENGTH:
        return texts
    parts = [text.split(".") for text in texts]
    head, tail = _shared(parts), _shared([part[::-1] for part in parts])
    return [shortened(".".join(part[head : len(part) - tail] or part), NAME_LENGTH) for part in parts]


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many of the first entries are the same in all of several lists; every list keeps at least one."""
    most = min((len(part) for part in parts), default=1) - 1 if len(parts) > 1 else 0
    return next((i for i in range(most) if len({part[i] for part in parts}) > 1), most)
