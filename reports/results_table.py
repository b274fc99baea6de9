"""The main table: mean ± standard deviation over seeds, the best in bold as far as the seeds can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from . import statistics as st
from .frame import Panel, dense_by_seed, labels, panels, percent, prepare, pruned, targets
from .metrics import METRICS, Metric
from .render import Cell, Section, Table, row

AUTO = "chosen"


def results(frame: pd.DataFrame, metric: str = "accuracy") -> Table:
    """Mean ± standard deviation over seeds: methods × sparsities, one section per data set and architecture."""
    frame, m = prepare(frame), METRICS[metric]
    levels = targets(pruned(frame))
    auto = bool(pruned(frame)["auto"].any())
    sections = tuple(_result_section(frame, panel, m, levels, auto) for panel in panels(frame, metric))
    columns = ("method", *(f"{percent(level)}" for level in levels), *([AUTO] if auto else []), "seeds")
    notes = (
        f"{m.label[0].upper()}{m.label[1:]}, mean ± sample standard deviation over seeds; columns: share pruned; "
        f"{m.direction}.",
        "Bold: the best mean of a column and every mean that Welch's t test (5 %, each pair on its own) cannot tell "
        "from it; no bold where the best has a single seed.",
        *(
            ["The column “chosen” is at the sparsity that the method's own threshold chose (after the @)."]
            if auto
            else []
        ),
        "A number in brackets is the number of seeds where it differs from the last column's; – was not run.",
    )
    return Table(metric.replace("_", "-"), f"Results: {m.label}", columns, sections, notes)


def _result_section(frame: pd.DataFrame, panel: Panel, metric: Metric, levels: Sequence[float], auto: bool) -> Section:
    rows = panel.rows(frame)
    names = labels(rows)
    seeds = {name: _most_seeds(rows[rows["label"] == name], metric) for name in names}
    columns = [_column(rows[rows["target"] == level], names, seeds, metric) for level in levels]
    if auto:
        columns.append([_chosen(rows[rows["auto"] & (rows["label"] == name)], metric) for name in names])
    body = [row(name, *(column[i] for column in columns), str(seeds[name])) for i, name in enumerate(names)]
    return Section(with_dense(frame, panel, metric), tuple(body))


def _most_seeds(rows: pd.DataFrame, metric: Metric) -> int:
    there = rows[(rows["status"] == "done") & rows[metric.name].notna()]
    return int(there.groupby(there["target"].fillna(-1.0))["seed"].nunique().max()) if len(there) else 0


def _column(rows: pd.DataFrame, names: Sequence[str], seeds: dict[str, int], metric: Metric) -> list[Cell]:
    """One sparsity: a cell per method, the best ones bold."""
    groups = [rows[rows["label"] == name] for name in names]
    values = [_values(group, metric) for group in groups]
    bold = _bold(values, metric)
    return [
        Cell(_result_text(group, value, seeds[name], metric), bool(strong))
        for name, group, value, strong in zip(names, groups, values, bold, strict=True)
    ]


def _values(rows: pd.DataFrame, metric: Metric) -> np.ndarray:
    there = rows[(rows["status"] == "done") & rows[metric.name].notna()]
    return there.groupby("seed")[metric.name].mean().to_numpy(float)


def _bold(values: Sequence[np.ndarray], metric: Metric) -> np.ndarray:
    """The best mean and all that cannot be told from it; nothing where the best has one seed or no rival."""
    means = np.array([v.mean() if len(v) else math.nan for v in values])
    if np.isfinite(means).sum() < 2:
        return np.zeros(len(values), dtype=bool)
    deviations = np.array([v.std(ddof=1) if len(v) > 1 else 0.0 for v in values])
    best = int(np.nanargmax(metric.sign * means))
    return st.indistinguishable(means, deviations, [len(v) for v in values], best)


def _result_text(rows: pd.DataFrame, values: np.ndarray, seeds: int, metric: Metric) -> str:
    if not len(values):
        return absent(rows)
    return mean_text(values, metric) + (f" ({len(values)})" if len(values) != seeds else "")


def absent(rows: pd.DataFrame) -> str:
    """Why there is no number: failed, no finite value, skipped, or not run."""
    for status, word in (("failed", "failed"), ("done", "no value"), ("skipped", "skipped")):
        if (rows["status"] == status).any():
            return word
    return "–"


def _chosen(rows: pd.DataFrame, metric: Metric) -> Cell:
    values = _values(rows, metric)
    if not len(values):
        return Cell(absent(rows))
    at = rows[rows["status"] == "done"]["sparsity"].mean()
    return Cell(f"{mean_text(values, metric)} @ {100 * at:.1f} %")


def mean_text(values: np.ndarray, metric: Metric) -> str:
    """`97.2 ± 0.4`; without the deviation for a single seed."""
    spread = f" ± {metric.number(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    return metric.number(float(values.mean())) + spread


def interval_text(interval: st.Interval, scale: float, digits: int) -> str:
    """`2.1 [1.8, 2.4]`; without brackets where there is no interval."""
    if not math.isfinite(interval.value):
        return "–"
    value, low, high = (_signed(scale * end, digits) for end in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]" if math.isfinite(interval.low) else value


def _signed(value: float, digits: int) -> str:
    """Never `-0.0`: what rounds to zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def finite_text(values: pd.Series | np.ndarray, metric: Metric) -> str:
    """`mean_text` of the finite values; an en dash where there are none."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return mean_text(finite, metric) if len(finite) else "–"


def with_dense(frame: pd.DataFrame, panel: Panel, metric: Metric) -> str:
    """The name of a panel as a heading, with the unpruned network's metric after it."""
    dense = dense_by_seed(frame, panel, metric).to_numpy(float)
    reference = f" (dense: {mean_text(dense, metric)}, {len(dense)} seeds)" if len(dense) else " (dense: not known)"
    return panel.name(frame) + reference
