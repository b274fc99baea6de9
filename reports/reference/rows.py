"""A row of the reference results: a record without what only a look at its one cell needs, and its scores in bits."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...bench.results.columns import COSTS, IDENTITY, RESULTS, SECONDS
from ...bench.results.scores import Scores

COLUMNS = (*IDENTITY, *RESULTS, *SECONDS, *COSTS, "dataset_digest", "run")
LEFT_OUT = ("shift", "collapsed", "peak_bytes_train", "peak_bytes_score", "peak_bytes_finetune")
DENSITY_DIGITS = 4
SECONDS_DIGITS = 3

Row = dict[str, Any]


def row_of(record: Mapping[str, Any], matrix: str, scores: Scores | None) -> Row:
    """A row; metrics keep every digit, as recomputing them is to give the same bits."""
    row = {n: record[n] for n in COLUMNS if record.get(n) not in (None, {}, []) and n not in LEFT_OUT}
    if density := row.get("layer_density"):
        row["layer_density"] = {layer: round(share, DENSITY_DIGITS) for layer, share in density.items()}
    row |= {
        n: round(row[n], SECONDS_DIGITS) for n in ("seconds_train", "seconds_score", "seconds_finetune") if n in row
    }
    return row | {"matrix": matrix} | (_packed(scores) if scores else {})


def record_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record that a row stands for: identity complete, the rest as far as it is there."""
    empty = dict.fromkeys(("reason", "sparsity_target"))
    return empty | {n: v for n, v in row.items() if n not in ("test", "bits", "halves", "examples")}


def command(row: Mapping[str, Any]) -> str:
    """What recomputes a row and compares."""
    return f"bayesprune verify --cell {row['key'][:12]}"


def scores_in(row: Mapping[str, Any]) -> Scores | None:
    """The scores of a row; None where there are none. Raises ValueError for what is none of ours."""
    if "test" not in row:
        return None
    if "halves" in row:
        return Scores(row["test"], np.frombuffer(base64.b64decode(row["halves"]), "<f2").astype(float))
    bits = np.unpackbits(np.frombuffer(base64.b64decode(row["bits"], validate=True), np.uint8))
    if not 0 < row["examples"] <= len(bits) < row["examples"] + 8:
        raise ValueError(f"{len(bits)} bits for {row['examples']} examples")
    return Scores(row["test"], bits[: row["examples"]].astype(bool))


def _packed(scores: Scores) -> Row:
    if scores.values.dtype == bool:
        content = {"bits": np.packbits(scores.values), "examples": len(scores.values)}
    else:
        content = {"halves": scores.values.astype("<f2")}
    texts = {n: base64.b64encode(v.tobytes()).decode() for n, v in content.items() if isinstance(v, np.ndarray)}
    return {"test": scores.test, **content, **texts}
