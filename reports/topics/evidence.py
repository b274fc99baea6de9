"""What the evidence learned: its rise during training, the priors it chose, and both as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..drawing import panels as layout
from ..drawing.axes import banded
from ..drawing.panels import styled
from ..drawing.style import Style
from ..drawing.training_styles import EVIDENCE, fit_panels, training_styles, used
from ..records import statistics as st
from ..records.frame import Panel, Records, seeds_text
from ..records.metrics import Metric
from ..records.trainings import fit_counts, fits, most_fits, trace
from ..writing.numbers import finite_text
from ..writing.render import Row, Section, Table, row

EFFECTIVE = Metric("effective", "effective parameters", False, digits=1)
SHARE = Metric("share", "of all (%)", False, 100.0, 2)


# ---------------------------------------------------------------- during training


def rise_panels(records: Records) -> list[Panel]:
    """The panels in which a fit recorded its evidence during training."""
    rows = fits(records)
    return [panel for panel in fit_panels(records) if len(_steps(panel.rows(rows))["evidence"].dropna())]


@styled
def rise(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Log evidence, and beside it the effective share of the parameters, against the epoch."""
    there = rise_panels(records) if only is None else list(only)
    rows = fits(records)
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
        x, band = values.columns.to_numpy(float), st.mean_band(values.to_numpy(float), rng)
        banded(axis, x, band, style, markevery=max(1, round(len(x) / 8)))
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


# ---------------------------------------------------------------- the table


def evidence(records: Records) -> Table:
    """Final log evidence and effective parameters of each training, mean ± standard deviation over seeds."""
    rows = fits(records)
    sections = tuple(Section(panel.name(rows), _evidence_rows(panel.rows(rows))) for panel in fit_panels(records))
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


def rise_caption(records: Records) -> str:
    """Caption of evidence and effective parameters during training."""
    return (
        "Left: Laplace approximation of the log marginal likelihood of the whole training set (nats, not per example) "
        "after each round of steps on the prior, larger is better; it may be compared only between equal "
        "approximations of the curvature. Right: effective parameters Σ h / (h + δ), how many the data determine, as a "
        f"share of all. {_fit_band(records)}. Where the first epochs would flatten the rest, the left axis begins "
        "above them."
    )


def _fit_band(records: Records) -> str:
    band = "; band: 95 % bootstrap interval of that mean" if most_fits(records) > 1 else ""
    return f"Line: mean over seeds{band}, {seeds_text(fit_counts(records))}"
