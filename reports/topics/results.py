"""The main table: mean ± standard deviation over seeds, the best in bold as far as the seeds can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..records import statistics as st
from ..records.frame import Panel, Records, dense_by_seed, labels, panels, percent, pruned, span, targets
from ..records.metrics import METRICS, Metric
from ..writing.numbers import mean_text
from ..writing.render import Cell, Section, Table, row

AUTO = "chosen"
HELD = "final mask (epochs)"


def results(records: Records, metric: str = "accuracy") -> Table:
    """Mean ± standard deviation over seeds: methods × sparsities, one section per data set and architecture."""
    m = METRICS[metric]
    levels = targets(pruned(records))
    auto = bool(pruned(records)["auto"].any())
    epochs = bool(pruned(records)["epochs_held"].notna().any())
    sections = tuple(_result_section(records, panel, m, levels, auto, epochs) for panel in panels(records, metric))
    columns = (
        "method",
        *(f"{percent(level)}" for level in levels),
        *([AUTO] if auto else []),
        "seeds",
        *([HELD] if epochs else []),
    )
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
        *([f"The column “{HELD}” has the epochs that networks were trained with their final mask."] if epochs else []),
        "A number in brackets is the number of seeds where it differs from the last column's; – was not run.",
    )
    return Table(metric.replace("_", "-"), f"Results: {m.label}", columns, sections, notes)


def _result_section(
    records: Records, panel: Panel, metric: Metric, levels: Sequence[float], auto: bool, epochs: bool
) -> Section:  # fmt: skip
    rows = panel.rows(records)
    names = labels(rows)
    seeds = {name: _most_seeds(rows[rows["label"] == name], metric) for name in names}
    columns = [_column(rows[rows["target"] == level], names, seeds, metric) for level in levels]
    if auto:
        columns.append([_chosen(rows[rows["auto"] & (rows["label"] == name)], metric) for name in names])
    kept = [held(rows[rows["label"] == name]) for name in names] if epochs else []
    body = [
        row(name, *(column[i] for column in columns), str(seeds[name]), *kept[i : i + 1])
        for i, name in enumerate(names)
    ]
    return Section(with_dense(records, panel, metric), tuple(body))


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


def with_dense(records: Records, panel: Panel, metric: Metric) -> str:
    """The name of a panel as a heading, with the unpruned network's metric after it."""
    dense = dense_by_seed(records, panel, metric).to_numpy(float)
    reference = f" (dense: {mean_text(dense, metric)}, {len(dense)} seeds)" if len(dense) else " (dense: not known)"
    return panel.name(records) + reference


def held(rows: pd.DataFrame) -> str:
    """For how many epochs results had their final mask: `30`, or `5–20`; empty where records do not say."""
    known = rows[rows["status"] == "done"]["epochs_held"].dropna()
    return span([int(n) for n in known]) if len(known) else ""
