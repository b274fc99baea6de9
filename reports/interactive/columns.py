"""Records as columns of JSON: each text once, with a number per record; numbers to seven digits; no empty columns.

Figures and details read these; what ranks are made of is exact and stands elsewhere (`blocks`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ...bench.results.columns import SECONDS
from ..records.metrics import METRICS

DIGITS = 7
KEY = 16  # hexadecimal digits of a key that tell records apart
ORDER = ("dataset", "architecture", "units", "label", "target", "seed", "key")
TEXTS = (
    "status", "reason", "dataset", "architecture", "units", "label", "method", "when", "inference", "criterion",
    "likelihood", "predictive", "unfinished", "protocol", "device", "host_cpu", "version_bayesprune", "version_torch",
    "git_revision", "started",
)  # fmt: skip
NUMBERS = (
    "seed", "target", "sparsity", "kept", "total", *METRICS, "dense_accuracy", "dense_nll", "dense_ece", "dense_rmse",
    "dense_bpc", "validation_accuracy", "validation_nll", "validation_rmse", "mc_draws", "flops_ratio", "flops_compact",
    "parameters", "parameters_masked", "parameters_removed", "epochs_train", "epochs_finetune", "epochs_held",
    "passes_score", *SECONDS,
)  # fmt: skip
CHOICES = ("dataset", "architecture", "method")
PLACE = (*CHOICES, "sparsity", "seed", "units")
_STRING_OR_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|(?<![\d.])(\d+)e')

Column = dict[str, list] | list


def in_order(records: pd.DataFrame) -> pd.DataFrame:
    """The records in an order that does not depend on that of the frame."""
    return records.sort_values(list(ORDER), kind="stable").reset_index(drop=True)


def columns(records: pd.DataFrame) -> dict[str, Any]:
    """All columns that have a value, of records that `prepare` made: texts as {values, codes}, numbers as a list."""
    found: dict[str, Any] = {"key": [key[:KEY] for key in records["key"]]}
    found |= {name: _coded(list(records[name])) for name in TEXTS if (records[name] != "").any()}
    found |= {name: _rounded(records[name]) for name in NUMBERS if name in records and records[name].notna().any()}
    return found | {f"run_{name}": column for name, column in _runs(records).items()}


def _coded(values: Sequence[str]) -> dict[str, list]:
    every = sorted(set(values))
    place = {value: i for i, value in enumerate(every)}
    return {"values": every, "codes": [place[value] for value in values]}


def _rounded(values: pd.Series) -> list[float | int | None]:
    return [_short(float(value)) for value in values]


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _runs(records: pd.DataFrame) -> dict[str, dict[str, list]]:
    """What a matrix of one cell says of it, as JSON texts; nothing where records do not say with what they were run."""
    runs = [run if _is_run(run) else None for run in records.get("run", ())]
    if not any(runs):
        return {}
    parts = {name: [_text(run and _choice(run[name])) for run in runs] for name in CHOICES}
    parts["sparsity"] = [_text(run and run["sparsity"]) for run in runs]
    parts["settings"] = [_text(run and {k: v for k, v in run.items() if k not in PLACE}) for run in runs]
    return {name: _coded(texts) for name, texts in parts.items()}


def _is_run(run: object) -> bool:
    return (
        isinstance(run, Mapping)
        and all(name in run for name in PLACE)
        and all(isinstance(run[name], Mapping) and "name" in run[name] for name in CHOICES)
    )


def _choice(part: Mapping[str, Any]) -> dict[str, Any]:
    """A name with its options as a matrix has them."""
    return {"name": part["name"], **(part.get("options") or {})}


def _text(value: Any) -> str:
    """JSON that YAML reads alike: there, a number with an exponent needs a point."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str) if value is not None else ""
    return _STRING_OR_EXPONENT.sub(lambda found: found[0] if found[0][0] == '"' else f"{found[1]}.0e", text)
