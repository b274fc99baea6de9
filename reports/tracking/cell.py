"""What a tracker is told of a cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ...bench.results.columns import COSTS, RESULTS, SECONDS, is_number
from .picture import layer_shares

MEASURED = {*RESULTS, *SECONDS, *(name for name in COSTS if name.startswith("peak_bytes"))}


@dataclass(frozen=True)
class Cell:
    """A record in a tracker's words.

    Attributes:
        key: the cell's own, the same wherever it is run.
        name: data set, network, method, sparsity and seed.
        group: the same without the seed.
        status: done, failed or skipped.
        config: what was asked for, and the surroundings, as flat names with dots.
        metrics: what was measured, finite numbers only.
        figure: shares kept in each layer, if the record has them.
    """

    key: str
    name: str
    group: str
    status: str
    config: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    figure: Figure | None


def cell_of(record: Mapping[str, Any]) -> Cell:
    """The record of any cell, failed and skipped ones too."""
    group = " ".join([*(str(record[n]) for n in ("dataset", "architecture", "method", "units")), _sparsity(record)])
    asked = {name: value for name, value in record.items() if name not in MEASURED and _is_plain(value)}
    densities = record.get("layer_density")
    return Cell(
        key=record["key"],
        name=f"{group} seed {record['seed']}",
        group=group,
        status=record["status"],
        config=asked | _flat("run", record["run"]),
        metrics={name: float(value) for name, value in record.items() if name in MEASURED and _is_finite(name, value)},
        figure=layer_shares(densities) if densities else None,
    )


def _sparsity(record: Mapping[str, Any]) -> str:
    return "auto" if record["sparsity_auto"] else f"{record['sparsity_target']:g}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _is_finite(name: str, value: Any) -> bool:
    return is_number(name) and isinstance(value, int | float) and math.isfinite(value)


def _flat(name: str, value: Any) -> dict[str, str | int | float | bool]:
    if isinstance(value, Mapping):
        return {key: leaf for part, inner in value.items() for key, leaf in _flat(f"{name}.{part}", inner).items()}
    return {name: value if _is_plain(value) else str(value)}
