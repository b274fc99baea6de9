"""Operating points: where a method's own threshold lands, and what magnitude pruning does at that sparsity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import statistics as st
from .frame import Panel, by_seed, halvings, panel_metric, panels, pruned
from .metrics import Metric
from .ranking import BASELINE


@dataclass(frozen=True)
class OperatingPoint:
    """Where a method's own threshold lands, and the baseline's curve interpolated there, paired by seed.

    `difference` is signed so that positive means better than the baseline; NaN where the baseline's curve
    does not reach that sparsity (nothing is extrapolated).
    """

    panel: Panel
    label: str
    metric: Metric
    sparsity: np.ndarray
    value: np.ndarray
    baseline: np.ndarray
    difference: st.Interval


def operating_points(frame: pd.DataFrame) -> list[OperatingPoint]:
    """All self-chosen operating points with results; expects a prepared frame."""
    rng = st.generator()
    points = (
        _point(frame, panel, label, rng)
        for panel in panels(frame)
        for label in sorted(set(panel.rows(pruned(frame)).query("auto")["label"]))
    )
    return [point for point in points if len(point.value)]


def _point(frame: pd.DataFrame, panel: Panel, label: str, rng: np.random.Generator) -> OperatingPoint:
    rows, metric = panel.rows(pruned(frame)), panel_metric(frame, panel)
    own = rows[(rows["label"] == label) & rows["auto"]].groupby("seed")[["sparsity", metric.name]].mean().dropna()
    curve = by_seed(rows[rows["label"] == BASELINE], metric.name)
    value = own[metric.name].to_numpy(float)
    there = np.array([interpolated(curve, seed, s) for seed, s in zip(own.index, own["sparsity"], strict=True)])
    difference = st.mean_interval(metric.sign * (value - there), rng)
    return OperatingPoint(panel, label, metric, own["sparsity"].to_numpy(float), value, there, difference)


def interpolated(curve: pd.DataFrame, seed: object, sparsity: float) -> float:
    """A seed's curve (one row of `by_seed`) at any sparsity inside its range, linear in log compression."""
    values = curve[curve.index == seed].to_numpy(float).ravel()
    there = np.isfinite(values)
    if not there.any():
        return math.nan
    at = halvings(curve.columns.to_numpy(float)[there])
    return float(np.interp(halvings(sparsity), at, values[there], left=math.nan, right=math.nan))
