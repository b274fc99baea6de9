"""What the evidence learned: its rise during training, the priors it chose, and both as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from . import layout
from . import statistics as st
from .fits import fits, number, trace
from .frame import Panel, prepare
from .heatmap import WIDTH, in_order, short_names
from .layout import styled
from .metrics import Metric
from .render import Row, Section, Table, row
from .results_table import finite_text
from .style import Style

PRIORS = {"scalar": "#E69F00", "layerwise": "#56B4E9", "unitwise": "#009E73", "parameterwise": "#D55E00"}
"""The colour of each prior structure, coarse to fine."""

_OTHERS = ("#CC79A7", "#332288", "#8C510A", "#44AA99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_QUANTILES = 5  # of the precisions of one tensor: 5, 25, 50, 75 and 95 %
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

EVIDENCE = Metric("log_evidence", "log evidence (nats)", True, digits=1)
EFFECTIVE = Metric("effective", "effective parameters", False, digits=1)
SHARE = Metric("share", "of all (%)", False, 100.0, 2)


def training_styles(rows: pd.DataFrame) -> dict[str, Style]:
    """A style for each training with an evidence, coarse priors first: the colour is the prior structure's."""
    learned = rows[rows["learned"].notna()]
    pairs = sorted(set(zip(learned["prior"], learned["training"], strict=True)), key=_coarse_first)
    unknown = [prior for prior in dict.fromkeys(prior for prior, _ in pairs) if prior not in PRIORS]
    colors = PRIORS | {prior: _OTHERS[i % len(_OTHERS)] for i, prior in enumerate(unknown)}
    known = list(colors)
    table, used = {}, dict.fromkeys(colors, 0)
    for prior, name in pairs:
        nth, used[prior] = used[prior], used[prior] + 1
        marker = MARKERS[(known.index(prior) + 3 * nth) % len(MARKERS)]
        table[name] = Style(colors[prior], marker, _DASHES[nth % len(_DASHES)])
    return table


def _coarse_first(pair: tuple[str, str]) -> tuple[int, str, str]:
    prior, name = pair
    return (list(PRIORS).index(prior) if prior in PRIORS else len(PRIORS)), prior, name


def fit_panels(frame: pd.DataFrame) -> list[Panel]:
    """One panel for each data set and architecture with an evidence; expects a prepared frame."""
    rows = fits(frame)
    return sorted({Panel(d, a, "") for d, a in zip(rows["dataset"], rows["architecture"], strict=True)})


# ---------------------------------------------------------------- during training


def rise_panels(frame: pd.DataFrame) -> list[Panel]:
    """The panels in which a fit recorded its evidence during training; expects a prepared frame."""
    rows = fits(frame)
    return [panel for panel in fit_panels(frame) if len(_steps(panel.rows(rows))["evidence"].dropna())]


@styled
def rise(frame: pd.DataFrame, only: Sequence[Panel] | None = None) -> Figure:
    """Log evidence, and beside it the effective share of the parameters, against the epoch."""
    frame = prepare(frame)
    there = rise_panels(frame) if only is None else list(only)
    rows = fits(frame)
    look = training_styles(rows)
    shown = used(look, [panel.rows(rows) for panel in there])
    figure, axes = layout.grid(2 * len(there), layout.handles(shown), columns=2)
    for left, right, panel in zip(axes[::2], axes[1::2], there, strict=True):
        steps = _steps(panel.rows(rows))
        for axis, column in ((left, "evidence"), (right, "share")):
            _rise_panel(axis, steps, column, shown)
            layout.title(axis, panel, False)
        left.set_ylabel(EVIDENCE.label)
        right.set_ylabel("effective parameters (%)")
        _cut_off_the_start(left, steps)
    return figure


def used(look: dict[str, Style], parts: Sequence[pd.DataFrame]) -> dict[str, Style]:
    """The styles of the trainings that occur in any of the tables."""
    names = {name for part in parts for name in part["training"]}
    return {name: style for name, style in look.items() if name in names}


def _steps(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per fit and recorded epoch: training, seed, epoch, evidence (nats), share (%)."""
    found = [
        (fit.training, fit.seed, epoch, evidence, 100 * effective / fit.parameters if fit.parameters else math.nan)
        for fit in rows.itertuples()
        for epoch, evidence, effective in trace(fit.learned)  # pyright: ignore[reportArgumentType]
        if math.isfinite(epoch)
    ]
    return pd.DataFrame(found, columns=pd.Index(["training", "seed", "epoch", "evidence", "share"]))


def _rise_panel(axis: Axes, steps: pd.DataFrame, column: str, look: dict[str, Style]) -> None:
    rng = st.generator()
    for name, style in look.items():
        own = steps[steps["training"] == name]
        values = own.groupby(["seed", "epoch"])[column].mean().unstack("epoch")
        if not values.size:
            continue
        mean, low, high = st.mean_band(values.to_numpy(float), rng)
        every = max(1, round(len(mean) / 8))
        x = values.columns.to_numpy(float)
        axis.plot(x, mean, color=style.color, marker=style.marker, linestyle=style.line, markevery=every)
        axis.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("epoch")


def _cut_off_the_start(axis: Axes, steps: pd.DataFrame, ratio: float = 3.0) -> None:
    """Begin the axis below the second half of training, where the first epochs would flatten it."""
    values = steps[np.isfinite(steps["evidence"])]
    if not len(values):
        return
    late = values[values["epoch"] >= (values["epoch"].min() + values["epoch"].max()) / 2]["evidence"]
    span = late.max() - late.min()
    if span > 0 and late.min() - values["evidence"].min() > ratio * span:
        axis.set_ylim(bottom=late.min() - 0.5 * span, top=max(late.max(), values["evidence"].max()) + 0.08 * span)


# ---------------------------------------------------------------- prior precisions


def precision_panels(frame: pd.DataFrame) -> list[Panel]:
    """The panels with quantiles of learned prior precisions; expects a prepared frame."""
    rows = fits(frame)
    return [panel for panel in fit_panels(frame) if len(_quantiles(panel.rows(rows)))]


@styled
def precisions(frame: pd.DataFrame, only: Sequence[Panel] | None = None) -> Figure:
    """Learned prior precisions in each parameter tensor, in network order, one panel below the other."""
    frame = prepare(frame)
    there = precision_panels(frame) if only is None else list(only)
    rows = fits(frame)
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


# ---------------------------------------------------------------- the table


def evidence(frame: pd.DataFrame) -> Table:
    """Final log evidence and effective parameters of each training, mean ± standard deviation over seeds."""
    frame = prepare(frame)
    rows = fits(frame)
    sections = tuple(Section(panel.name(rows), _evidence_rows(panel.rows(rows))) for panel in fit_panels(frame))
    columns = ("prior", "curvature", EVIDENCE.label, EFFECTIVE.label, SHARE.label, "seeds")
    notes = (
        "Of the trained, unpruned network; mean ± sample standard deviation over seeds. Evidence: log marginal "
        "likelihood of the whole training set, larger is better. It may be compared within a panel and only between "
        "equal approximations of the curvature: another one is another yardstick. Effective parameters: how many the "
        "data determine, Σ h / (h + δ).",
    )
    return Table("evidence", "What the evidence learned", columns, sections, notes, frozenset({"curvature"}))


def _evidence_rows(rows: pd.DataFrame) -> tuple[Row, ...]:
    return tuple(_evidence_row(name, rows[rows["training"] == name]) for name in training_styles(rows))


def _evidence_row(name: str, rows: pd.DataFrame) -> Row:
    share = rows["effective"] / rows["parameters"]
    numbers = [(rows["log_evidence"], EVIDENCE), (rows["effective"], EFFECTIVE), (share, SHARE)]
    texts = [finite_text(values, metric) for values, metric in numbers]
    return row(name, rows["curvature"].iloc[0] or "–", *texts, str(rows["seed"].nunique()))
