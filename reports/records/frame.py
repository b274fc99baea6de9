"""The frame of records as reports read it: every column there, panels and labels named, seeds aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

import numpy as np
import pandas as pd

from .metrics import METRICS, PRIMARY, Metric

DENSE = "dense"
MAP = "MAP"
_TEXT = (
    "key",
    "status",
    "reason",
    "traceback",
    "method",
    "architecture",
    "dataset",
    "units",
    "when",
    "inference",
    "criterion",
    "likelihood",
    "predictive",
    "started",
    "device",
    "version_bayesprune",
    "version_torch",
    "version_python",
    "git_revision",
    "host_cpu",
    "fit_device",
    "fit_host_cpu",
    "protocol",
    "unfinished",
)
_NUMBERS = (
    *METRICS,
    "sparsity_target",
    "sparsity",
    "kept",
    "total",
    "compression",
    "temperature",
    "dense_accuracy",
    "dense_nll",
    "dense_ece",
    "dense_rmse",
    "dense_bpc",
    "dense_perplexity",
    "mc_draws",
    "flops_dense",
    "flops_nonzero",
    "flops_ratio",
    "flops_compact",
    "parameters",
    "parameters_masked",
    "parameters_removed",
    "bytes_dense",
    "bytes_compact",
    "certificate",
    *(f"speedup_{network}{limit}" for network in ("masked", "compact") for limit in ("", "_low", "_high")),
    "seconds_train",
    "seconds_score",
    "seconds_finetune",
    "passes_train",
    "passes_score",
    "passes_finetune",
    "peak_bytes_train",
    "peak_bytes_score",
    "peak_bytes_finetune",
    "validation_accuracy",
    "validation_nll",
    "validation_rmse",
    "epochs_train",
    "epochs_finetune",
    "epochs_held",
    "threads",
    "host_cores",
    "host_workers",
)
_SECONDS = ["seconds_train", "seconds_score", "seconds_finetune"]
_STRUCTURES = ("layer_density", "collapsed", "shift", "learned", "latency")
_CELL = ["dataset", "architecture", "units", "method", "seed", "target", "auto", "epochs_train", "epochs_finetune"]


@dataclass(frozen=True, order=True)
class Panel:
    """One comparison that makes sense on its own: a data set, an architecture and what its units are.

    `criterion` and `evidence` (see `fits.trainings`) narrow it further; empty, they hold for all.
    """

    dataset: str
    architecture: str
    units: str
    criterion: str = ""
    evidence: str = ""

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` that belong here."""
        same = (frame["dataset"] == self.dataset) & (frame["architecture"] == self.architecture)
        same &= frame["units"] == self.units
        for column, wanted in (("criterion", self.criterion), ("evidence", self.evidence)):
            same = same & (frame[column] == wanted) if wanted else same
        return frame[same]

    def name(self, frame: pd.DataFrame) -> str:
        """Short text; says the kind of units only where the frame holds more than one kind."""
        parts = [self.dataset, self.architecture] + ([self.units] if frame["units"].nunique() > 1 else [])
        return " · ".join(part for part in parts if part)


Records = NewType("Records", pd.DataFrame)
"""The frame of records as `prepare` returns it: every column there, labels distinct, numbers finite."""


def prepare(frame: pd.DataFrame) -> Records:
    """A copy with all columns of a record and four more; the input may lack columns or be empty.

    Added: `target` (the sparsity asked for, NaN where the method chose), `auto`, `label` (the method, made
    distinct where one name ran with several inferences or moments) and `seconds` (train + score +
    fine-tune). Infinite metrics become NaN, and so do seconds that workers on one core took in turn. A report does this
    once and hands the result down.
    """
    columns = {name: _text(frame, name) for name in _TEXT} | {name: _numbers(frame, name) for name in _NUMBERS}
    columns |= {name: _objects(frame, name) for name in _STRUCTURES}
    columns["layer_density"] = columns["layer_density"].map(_as_mapping)
    columns["learned"] = columns["learned"].map(lambda value: value if isinstance(value, Mapping) else None)
    out = pd.DataFrame({**dict(frame.items()), **columns}, index=frame.index).reset_index(drop=True)
    out["seed"] = _numbers(out, "seed").fillna(0).astype(int)
    out["auto"] = _objects(out, "sparsity_auto").map(lambda flag: flag is True or flag is np.True_).astype(bool)
    out["target"] = out["sparsity_target"].round(9).mask(out["auto"])
    out.loc[crowded(out), _SECONDS] = math.nan
    out["seconds"] = out[_SECONDS].sum(axis=1, min_count=1)
    out["label"] = _labels(out)
    return Records(out)


def crowded(frame: pd.DataFrame) -> pd.Series:
    """Which cells shared a machine with more workers than it has cores; their seconds are not those of the method."""
    return (frame["host_workers"] > frame["host_cores"]).fillna(False)


def _text(frame: pd.DataFrame, name: str) -> pd.Series:
    return _objects(frame, name).map(lambda value: str(value) if _given(value) else "").astype(object)


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    values = pd.to_numeric(_objects(frame, name), errors="coerce").astype(float)
    return values.where(np.isfinite(values))


def _objects(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name].astype(object) if name in frame else pd.Series([None] * len(frame), frame.index, dtype=object)


def _as_mapping(value: object) -> object:
    """Pairs of (layer, share) as a mapping in the same order; anything else unchanged."""
    return dict(value) if isinstance(value, list | tuple) else value


def _given(value: object) -> bool:
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


def _labels(frame: pd.DataFrame) -> pd.Series:
    """Method names; where the same cell ran in several ways, the way is added: `magnitude [before]`."""
    labels = frame["method"].copy()
    twins = frame[frame.duplicated(_CELL, keep=False)]
    for method, rows in twins.groupby("method"):
        mine = frame["method"] == method
        for column in ("when", "inference", "predictive"):
            if rows[column].nunique() > 1:
                labels[mine] += " [" + frame.loc[mine, column] + "]"
    return labels


def done(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a result."""
    return frame[frame["status"] == "done"]


def pruned(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a result of a pruned network: without the unpruned control."""
    rows = done(frame)
    return rows[rows["method"] != DENSE]


def panels(frame: pd.DataFrame, metric: str | None = None) -> list[Panel]:
    """The panels with at least one pruned network; single weights first, then by name.

    `metric` names a column that must have a value.
    """
    rows = pruned(frame)
    rows = rows if metric is None else rows[rows[metric].notna()]
    found = {Panel(*key) for key in zip(rows["dataset"], rows["architecture"], rows["units"], strict=True)}
    return sorted(found, key=lambda panel: (panel.units != "weights", panel))


def panel_metric(frame: pd.DataFrame, panel: Panel) -> Metric:
    """The metric that ranks networks in this panel."""
    rows = panel.rows(done(frame))
    return METRICS[next((name for name in PRIMARY if rows[name].notna().any()), "accuracy")]


def labels(frame: pd.DataFrame) -> list[str]:
    """The labels of all pruning methods in the frame, sorted, failed ones too."""
    return sorted(set(frame.loc[frame["method"] != DENSE, "label"]))


def targets(frame: pd.DataFrame) -> list[float]:
    """The sparsities that were asked for, rising."""
    return sorted(set(frame.loc[frame["method"] != DENSE, "target"].dropna()))


def by_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values as a table, one row per seed and one column per target sparsity; NaN where there is none."""
    at = rows[rows["target"].notna()]
    return at.groupby(["seed", "target"])[column].mean().unstack("target")


def dense_by_seed(frame: pd.DataFrame, panel: Panel, metric: Metric) -> pd.Series:
    """The unpruned network's metric, one value per seed: from `dense` runs, else as the pruned runs recorded it.

    Those recorded after MAP training count first: another inference has an unpruned network of its own.
    """
    rows = done(frame)
    rows = rows[(rows["dataset"] == panel.dataset) & (rows["architecture"] == panel.architecture)]
    own = rows[rows["method"] == DENSE].groupby("seed")[metric.name].mean().dropna()
    if len(own) or metric.dense_column not in rows:
        return own
    rows = rows[rows[metric.dense_column].notna()]
    plain = rows[rows["inference"].str.startswith(MAP)]
    return (plain if len(plain) else rows).groupby("seed")[metric.dense_column].mean()


def reference_sparsity(frame: pd.DataFrame, wanted: float = 0.95) -> float:
    """The target sparsity with results that lies nearest to `wanted` in compression; NaN if there is none."""
    there = np.array(targets(pruned(frame)))
    return float(there[np.argmin(abs(halvings(there) - halvings(wanted)))]) if len(there) else math.nan


def halvings(sparsity: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """How often the number of units was halved: log2 of the compression 1 / (1 - sparsity)."""
    return -np.log2(np.clip(1.0 - np.asarray(sparsity, dtype=float), 1e-6, 1.0))


def at_sparsity(frame: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """The pruned networks at one target sparsity."""
    rows = pruned(frame)
    return rows[np.isclose(rows["target"].to_numpy(dtype=float), sparsity, rtol=0, atol=1e-9)]


def seed_counts(frame: pd.DataFrame) -> list[int]:
    """How many seeds stand behind each result of a pruned network."""
    cells = ["dataset", "architecture", "units", "label", "target", "auto"]
    return list(pruned(frame).groupby(cells, dropna=False)["seed"].nunique())


def span(counts: Sequence[int]) -> str:
    """`3`, or `2–3` where the counts differ; `0` for none."""
    low, high = (min(counts), max(counts)) if len(counts) else (0, 0)
    return str(low) if low == high else f"{low}–{high}"


def seeds_text(counts: Sequence[int]) -> str:
    """`n = 3 seeds`, `n = 1 seed`, or `n = 2–3 seeds` where the counts differ."""
    text = span(counts)
    return f"n = {text} seed{'s' * (text != '1')}"


def percent(share: float) -> str:
    """A share as a short percentage: 0.875 is `87.5 %`."""
    return f"{100 * share:.4g} %"


def has_items(value: object) -> bool:
    """Whether a record's list is there and not empty."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def number(value: object) -> float:
    """A finite number, or NaN."""
    good = isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else math.nan  # pyright: ignore[reportArgumentType]


def scopes(rows: pd.DataFrame, *columns: str) -> list[Panel]:
    """Single weights first, then by name."""
    every = ["dataset", "architecture", "units", *columns]
    found = {Panel(**dict(zip(every, key, strict=True))) for key in rows[every].itertuples(index=False, name=None)}
    return sorted(found, key=lambda panel: (panel.units != "weights", panel))
