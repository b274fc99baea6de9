"""Averaging over a posterior beside plugging in its mean: accuracy, NLL and calibration of the same networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..records import statistics as st
from ..records.frame import Records, panels, percent, pruned, reference_sparsity, span
from ..records.metrics import METRICS, Metric
from ..writing.numbers import finite_text, interval_text
from ..writing.render import Row, Section, Table, row
from .operating import CHOSEN
from .results import AUTO

PAIRS = (("accuracy", "accuracy (%)"), ("nll", "NLL"), ("ece", "ECE (%)"))
"""Metrics that records have of both predictives, the second under `mc_`, and how they are called here."""


def averaged(records: Records) -> Table:
    """Accuracy, NLL and ECE of the mean of the weights and of averaged draws, and the paired gain of averaging."""
    at, rng = reference_sparsity(_drawn(records)), st.generator()
    sections = tuple(
        Section(panel.name(records), tuple(_row(name, level, rows, rng) for name, level, rows in _groups(own, at)))
        for panel in panels(records, "mc_nll")
        if len(own := panel.rows(_drawn(records)))
    )
    columns = ("method", "pruned", "draws", *(head for _, name in PAIRS for head in (name, f"MC {name}")))
    columns += ("NLL better by", "ECE better by", "seeds")
    notes = (
        "The same pruned networks twice: with the final weights, as everywhere else, and (MC) with class probabilities "
        "averaged over this many draws of the weights. Means ± standard deviations over seeds; “better by”: the paired "
        "difference, without − with averaging, with its 95 % bootstrap interval, positive where averaging helps. "
        f"“{AUTO}”: at the sparsity that the method chose.",
    )
    return Table("averaged", "Averaging over the posterior", columns, sections, notes)


def _drawn(records: Records) -> pd.DataFrame:
    rows = pruned(records)
    return rows[rows["mc_nll"].notna()]


def _groups(rows: pd.DataFrame, at: float) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(method, what was asked for, its records) at the method's own sparsity and at the reference sparsity."""
    for name, own in rows.groupby("label"):
        for level, there in ((AUTO, own[own["auto"]]), (percent(at), own[own["target"] == at])):
            if len(there):
                yield str(name), level, there


def _row(name: str, level: str, rows: pd.DataFrame, rng: np.random.Generator) -> Row:
    per_seed = rows.groupby("seed")[[head for one, _ in PAIRS for head in (one, f"mc_{one}")]].mean()
    chosen = f" @ {finite_text(rows['sparsity'], CHOSEN)} %" if level == AUTO else ""
    texts = [finite_text(per_seed[column], METRICS[str(column)]) for column in per_seed]
    draws = span([int(n) for n in rows["mc_draws"].dropna()])
    gains = (_gain(per_seed, METRICS[name], rng) for name in ("nll", "ece"))
    return row(name, level + chosen, draws, *texts, *gains, str(len(per_seed)))


def _gain(per_seed: pd.DataFrame, metric: Metric, rng: np.random.Generator) -> str:
    difference = metric.sign * (per_seed[f"mc_{metric.name}"] - per_seed[metric.name])
    return interval_text(st.mean_interval(difference.to_numpy(float), rng), metric.scale, metric.digits)
