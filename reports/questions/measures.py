"""Numbers of methods by block and seed, from records; in per cent where they are shares."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..ledger.entry import Quantity
from ..ledger.judge import quantity
from ..records.metrics import METRICS


def measured(
    frame: pd.DataFrame,
    method: str,
    sparsity: float | str | tuple[float, ...],
    column: str = "accuracy",
    retraining: int | None = None,
) -> pd.Series:
    """Values by block (data set · architecture) and seed, the mean over sparsities; none where nothing has been run.

    A seed that lacks one of the sparsities is left out; `retraining` are epochs, any if None. Shares are in per cent.
    """
    levels: Any = list(sparsity) if isinstance(sparsity, tuple) else sparsity
    found = quantity(Quantity(method=method, sparsity=levels, column=column, retraining=retraining), frame)
    names = [f"{dataset} · {architecture}" for dataset, architecture, *_ in found.index]
    seeds = found.index.get_level_values("seed")
    index = pd.MultiIndex.from_arrays([names, list(seeds)], names=["block", "seed"])
    return pd.Series(found.to_numpy(float) * _scale(column), index)


def _scale(column: str) -> float:
    """What turns a stored share into per cent, where `quantity` has not done so."""
    metric = METRICS.get(column.removeprefix("dense_").removeprefix("validation_"))
    return 1.0 if metric is None or column in ("accuracy", "dense_accuracy") else metric.scale
