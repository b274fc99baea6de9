"""How the order of methods depends on the budget: the curve over the epochs of retraining; and who was undertrained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import kendalltau, rankdata

from ..drawing import panels as layout
from ..drawing.axes import banded
from ..drawing.panels import styled
from ..drawing.style import Style, styles
from ..records import statistics as st
from ..records.budgets import Budget, budgets, of_budget
from ..records.frame import Panel, Records, at_sparsity, panel_metric, panels, percent, span, targets
from ..records.metrics import Metric
from ..records.undertrained import MARGIN, Undertrained
from ..writing.numbers import mean_text
from ..writing.render import Row, Section, Table, row


@dataclass(frozen=True)
class Curve:
    """Methods at one sparsity of a panel under several epochs of retraining R, after the same training T.

    `values` has for each method an array (seeds, budgets) of the panel's metric, of seeds that all of them have.
    """

    panel: Panel
    sparsity: float
    metric: Metric
    budgets: tuple[Budget, ...]
    values: dict[str, np.ndarray]

    @property
    def ranks(self) -> np.ndarray:
        """Rank of each method's mean under each budget, (methods, budgets); 1 is best, ties share."""
        means = np.array([values.mean(axis=0) for values in self.values.values()])
        return np.column_stack([rankdata(-self.metric.sign * column) for column in means.T])

    @property
    def names(self) -> list[str]:
        """The epochs of retraining by those of training: `0`, `T/4`, `T`, `4T`."""
        return [_in_trainings(b.share) for b in self.budgets]

    @property
    def agreement(self) -> dict[str, float]:
        """Kendall's τ of the order under each budget with that at R = T (or the longest, where there is none)."""
        shares = [b.share for b in self.budgets]
        at = shares.index(1.0) if 1.0 in shares else len(shares) - 1
        pairs = zip(self.names, self.ranks.T, strict=True)
        return {name: float(kendalltau(self.ranks[:, at], r).statistic) for i, (name, r) in enumerate(pairs) if i != at}  # pyright: ignore


def _in_trainings(share: float) -> str:
    """A share of the training as a multiple of T."""
    part = Fraction(share).limit_denominator(16)
    times = "" if part.numerator == 1 else str(part.numerator)
    return f"{times}T" + (f"/{part.denominator}" if part.denominator != 1 else "") if part else "0"


def sensitivities(records: Records) -> list[Curve]:
    """Every panel and sparsity at which at least two methods were retrained for different numbers of epochs."""
    found = []
    by_training: dict[tuple[int, str], list[Budget]] = {}
    for budget in sorted(budgets(records)):
        if budget.training > 0:
            by_training.setdefault((budget.training, budget.protocol), []).append(budget)
    for several in by_training.values():
        parts = [of_budget(records, budget) for budget in several]
        for panel in panels(records):
            for sparsity in targets(panel.rows(records)):
                curve = _curve(panel, sparsity, several, [at_sparsity(panel.rows(part), sparsity) for part in parts])
                found += [curve] if curve else []
    return found


def _curve(panel: Panel, sparsity: float, several: Sequence[Budget], parts: Sequence[pd.DataFrame]) -> Curve | None:
    there = [(budget, rows) for budget, rows in zip(several, parts, strict=True) if len(rows)]
    if len(there) < 2:
        return None
    metric = panel_metric(pd.concat([rows for _, rows in there]), panel)
    tables = [rows.pivot_table(index="seed", columns="label", values=metric.name) for _, rows in there]
    methods = sorted(set.intersection(*(set(table.columns) for table in tables)))
    values = {method: both for method in methods if len(both := _paired([table[method] for table in tables]))}
    return Curve(panel, sparsity, metric, tuple(b for b, _ in there), values) if len(values) > 1 else None


def _paired(columns: Sequence[pd.Series]) -> np.ndarray:
    return pd.concat(columns, axis=1).dropna().to_numpy(float)


@styled
def sensitivity(curves: Sequence[Curve]) -> Figure:
    """For each panel the metric against the epochs of retraining, and beside it the order of the methods."""
    look = styles(name for curve in curves for name in curve.values)
    figure, axes = layout.grid(2 * len(curves), layout.handles(look), height=2.9, columns=2)
    both = len({curve.panel.units for curve in curves}) > 1
    for curve, quality, order in zip(curves, axes[::2], axes[1::2], strict=True):
        _quality(quality, curve, look)
        _order(order, curve, look)
        layout.title(quality, curve.panel, both)
        order.set_title(f"order at {percent(curve.sparsity)} pruned")
    return figure


def _quality(axis: Axes, curve: Curve, look: dict[str, Style]) -> None:
    rng, x = st.generator(), np.arange(len(curve.budgets))
    for name, values in curve.values.items():
        banded(axis, x, st.mean_band(curve.metric.scale * values, rng), look[name])
    axis.set_ylabel(curve.metric.label)
    _retraining_axis(axis, curve)


def _order(axis: Axes, curve: Curve, look: dict[str, Style]) -> None:
    for name, ranks in zip(curve.values, curve.ranks, strict=True):
        style = look[name]
        axis.plot(range(len(ranks)), ranks, color=style.color, marker=style.marker, linestyle=style.line)
    axis.set_ylim(len(curve.values) + 0.5, 0.5)
    axis.set_ylabel("rank (1 is best)")
    _retraining_axis(axis, curve)


def _retraining_axis(axis: Axes, curve: Curve) -> None:
    axis.set_xticks(range(len(curve.budgets)), curve.names)
    axis.set_xlabel("epochs of retraining after T of training")


def sensitivity_caption(curves: Sequence[Curve]) -> str:
    """Caption of the curve over budgets, with how far the orders agree."""
    counts = [len(next(iter(curve.values.values()))) for curve in curves]
    taus = "; ".join(
        f"{curve.panel.dataset} · {curve.panel.architecture}, {percent(curve.sparsity)}: "
        + ", ".join(f"{name}: {_tau(tau)}" for name, tau in curve.agreement.items())
        for curve in curves
    )
    return (
        "Left: the same networks and sparsity, retrained for different numbers of epochs; bands: 95 % bootstrap "
        f"intervals of the mean, n = {span(counts)} seeds. Right: the order of the means. A ranking holds for its "
        f"budget only. Kendall's τ with the order of the headline's budget: {taus}."
    )


def _tau(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def sensitivity_table(curves: Sequence[Curve]) -> Table:
    """Mean ± standard deviation and rank of each method under each budget."""
    names = sorted({b.share for curve in curves for b in curve.budgets})
    columns = ("method", *(f"R = {_in_trainings(n)}" for n in names))
    sections = tuple(
        Section(f"{curve.panel.dataset} · {curve.panel.architecture}, {percent(curve.sparsity)} pruned, "
                f"T = {curve.budgets[0].training}", tuple(_rows(curve, names)))
        for curve in curves
    )  # fmt: skip
    notes = ("Mean ± sample standard deviation over seeds, with the rank among these methods after the #.",)
    return Table("sensitivity", "How the order depends on the epochs of retraining", columns, sections, notes)


def _rows(curve: Curve, shares: Sequence[float]) -> list[Row]:
    at = {b.share: i for i, b in enumerate(curve.budgets)}
    ranks = dict(zip(curve.values, curve.ranks, strict=True))
    return [
        row(name, *(_entry(values[:, at[s]], ranks[name][at[s]], curve.metric) if s in at else "–" for s in shares))
        for name, values in curve.values.items()
    ]


def _entry(values: np.ndarray, rank: float, metric: Metric) -> str:
    return f"{mean_text(values, metric)} #{rank:g}"


def undertrained_table(found: Sequence[Undertrained]) -> Table:
    """Who stands apart, where and why."""
    rows = tuple(row(one.label, one.units, one.place, one.reason) for one in found)
    notes = (
        f"These methods carry a † and have no rank: the unpruned network of their own training is more than "
        f"{100 * MARGIN:g} points of accuracy below that of MAP training, or their own decision could not yet be made.",
    )
    columns = ("method", "units", "where", "why")
    return Table(
        "undertrained", "Undertrained within this budget", columns, (Section("", rows),), notes,
        frozenset({"units", "where", "why"}), frozenset({"why"}),
    )  # fmt: skip
