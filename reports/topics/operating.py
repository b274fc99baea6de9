"""What methods decide by themselves: where their own thresholds land, and magnitude pruning at that sparsity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..records import statistics as st
from ..records.frame import Panel, Records, by_seed, halvings, panel_metric, panels, pruned
from ..records.metrics import METRICS, Metric
from ..records.ranking import BASELINE
from ..writing.numbers import finite_text, interval_text, mean_text
from ..writing.render import Row, Section, Table, row
from .results import with_dense

CHOSEN = Metric("sparsity", "pruned (%)", True, 100.0, 1)
SECONDS = Metric("seconds", "seconds", False, digits=2)
BESIDE = {
    "nll": "NLL",
    "ece": "ECE (%)",
    "mc_nll": "MC NLL",
    "mc_ece": "MC ECE (%)",
    "risk_bound": "certified risk (%)",
}
"""Columns beside the primary metric, as short as a wide table needs them."""


@dataclass(frozen=True)
class OperatingPoint:
    """Where a method's own threshold lands, and the baseline's curve interpolated there, paired by seed.

    `values` has a row per seed: `sparsity`, the primary metric, that of the unpruned network of the same training,
    `seconds`, and what stands beside them. `difference` is signed so that positive means better than the baseline; NaN
    where the baseline's curve, which begins at its unpruned network, does not reach that sparsity (nothing is
    extrapolated).
    """

    panel: Panel
    label: str
    metric: Metric
    values: pd.DataFrame
    baseline: np.ndarray
    difference: st.Interval


def operating_points(records: Records) -> list[OperatingPoint]:
    """All self-chosen operating points with results."""
    rng = st.generator()
    points = (
        _point(records, panel, label, rng)
        for panel in panels(records)
        for label in sorted(set(panel.rows(pruned(records)).query("auto")["label"]))
    )
    return [point for point in points if len(point.values)]


def _point(records: Records, panel: Panel, label: str, rng: np.random.Generator) -> OperatingPoint:
    rows, metric = panel.rows(pruned(records)), panel_metric(records, panel)
    columns = list(dict.fromkeys(["sparsity", metric.name, metric.dense_column, "seconds", *BESIDE]))
    own = rows[(rows["label"] == label) & rows["auto"]].groupby("seed")[columns].mean()
    own = own.dropna(subset=["sparsity", metric.name])
    curve = _from_dense(rows[rows["label"] == BASELINE], metric)
    there = np.array([interpolated(curve, seed, s) for seed, s in zip(own.index, own["sparsity"], strict=True)])
    difference = st.mean_interval(metric.sign * (own[metric.name].to_numpy(float) - there), rng)
    return OperatingPoint(panel, label, metric, own, there, difference)


def _from_dense(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """A method's curve of each seed, from the unpruned network of its training (sparsity 0) on."""
    curve = by_seed(rows, metric.name)
    dense = rows.groupby("seed")[metric.dense_column].mean()
    return curve if 0.0 in curve or not len(rows) else pd.concat([dense.rename(0.0), curve], axis=1)


def interpolated(curve: pd.DataFrame, seed: object, sparsity: float) -> float:
    """A seed's curve (one row of `by_seed`) at any sparsity inside its range, linear in log compression."""
    values = curve[curve.index == seed].to_numpy(float).ravel()
    there = np.isfinite(values)
    if not there.any():
        return math.nan
    at = halvings(curve.columns.to_numpy(float)[there])
    return float(np.interp(halvings(sparsity), at, values[there], left=math.nan, right=math.nan))


# ---------------------------------------------------------------- the table


def decisions(records: Records) -> Table:
    """Each method at the sparsity it chose: share pruned, quality, calibration and seconds, magnitude beside it."""
    points = operating_points(records)
    beside = [name for name in BESIDE if any(point.values[name].notna().any() for point in points)]
    sections = tuple(
        Section(with_dense(records, panel, panel_metric(records, panel)), rows)
        for panel in panels(records)
        if (rows := tuple(_row(point, beside) for point in points if point.panel == panel))
    )
    columns = ("method", CHOSEN.label, "metric", "own dense", "there", f"{BASELINE} there", "better by")
    columns += (*(BESIDE[name] for name in beside), SECONDS.label, "seeds")
    return Table(
        "operating-points",
        "What methods decide by themselves",
        columns,
        sections,
        (_NOTE, *([_MC_NOTE] if "mc_nll" in beside else [])),
        frozenset({"metric"}),
    )


_NOTE = (
    "Networks at the sparsity that the method's own threshold or decision chose; means ± standard deviations over "
    f"seeds. Own dense: the same training, nothing pruned. The value of {BASELINE} is interpolated, from its own dense "
    "network on, seed by seed and linearly in log compression (nothing is extrapolated: – where its curve does not "
    "reach); “better by” is the paired difference with its 95 % bootstrap interval, positive where the method is "
    "better. Seconds: training, scoring and fine-tuning together."
)
_MC_NOTE = "MC: of class probabilities averaged over draws from the posterior; NLL and ECE are of the weights' mean."


def _row(point: OperatingPoint, beside: list[str]) -> Row:
    m, there = point.metric, point.baseline[np.isfinite(point.baseline)]
    return row(
        point.label,
        mean_text(point.values["sparsity"].to_numpy(float), CHOSEN),
        m.label,
        finite_text(point.values[m.dense_column], m),
        mean_text(point.values[m.name].to_numpy(float), m),
        finite_text(there, m),
        interval_text(point.difference, m.scale, m.digits + 1),
        *(finite_text(point.values[name], METRICS[name]) for name in beside),
        finite_text(point.values["seconds"], SECONDS),
        str(len(point.values)),
    )
