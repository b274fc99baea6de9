"""What removing structures gave: shares of the dense network, speed-ups with verdicts, a table, reasons for doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from ...bench.evaluation.verdict import verdict
from ..records.frame import Records, panels, percent, pruned
from ..records.metrics import (
    COMPACT_BYTES,
    COMPACT_FLOPS,
    MASKED,
    REMOVED_FLOPS,
    REMOVED_GROUPS,
    REMOVED_PARAMETERS,
    Metric,
)
from ..writing.numbers import mean_text
from ..writing.render import Row, Section, Table, row
from .results import AUTO

MUCH = 0.3
"""A network that lost more of its operations than this is expected to be faster."""

SPEEDUP = ["speedup_compact", "speedup_compact_low", "speedup_compact_high"]
_CELL = ["label", "auto", "target"]
_MEASURED = ["parameters_removed", "flops_compact", "bytes_compact", "certificate", "speedup_compact"]
_COLUMNS = (REMOVED_GROUPS, MASKED, REMOVED_PARAMETERS, COMPACT_FLOPS, COMPACT_BYTES)


def structured(records: Records) -> pd.DataFrame:
    """The networks pruned by structures, with shares of the dense network.

    Added: `parameters_masked_share`, `parameters_removed_share`, `flops_removed`, `flops_left`, `bytes_left`, NaN
    where the record has no such number. Expects a prepared records.
    """
    rows = pruned(records)
    rows = rows[rows["units"] != "weights"]
    left = _share(rows["flops_compact"], rows["flops_dense"])
    return rows.assign(
        **{
            MASKED.name: _share(rows["parameters_masked"], rows["parameters"]),
            REMOVED_PARAMETERS.name: _share(rows["parameters_removed"], rows["parameters"]),
            REMOVED_FLOPS.name: 1.0 - left,
            COMPACT_FLOPS.name: left,
            COMPACT_BYTES.name: _share(rows["bytes_compact"], rows["bytes_dense"]),
        }
    )


def _share(part: pd.Series, whole: pd.Series) -> pd.Series:
    return part / whole.where(whole > 0)


def measured(records: Records) -> pd.DataFrame:
    """The rows of `structured` with at least one number about the compact network."""
    rows = structured(records)
    return rows[rows[_MEASURED].notna().any(axis=1)]


def timed(records: Records) -> pd.DataFrame:
    """The rows of `structured` with a measured speed-up and a share of operations."""
    rows = structured(records)
    return rows[(rows["speedup_compact"] > 0) & rows[REMOVED_FLOPS.name].notna()]


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and target sparsity: shares and speed-ups, averaged over seeds, limits of intervals too.

    If the interval of every seed holds its own speed-up, the mean speed-up lies between the mean limits.
    """
    columns = [REMOVED_FLOPS.name, *SPEEDUP, "speedup_masked"]
    per_seed = rows.groupby([*_CELL, "seed"], dropna=False, as_index=False)[columns].mean()
    return per_seed.groupby(_CELL, dropna=False, as_index=False)[columns].mean()


def batches(rows: pd.DataFrame) -> list[int]:
    """The batch sizes at which the speed-ups in the rows were measured: the largest of each record."""
    found = [value.get("compact") for value in rows["latency"] if isinstance(value, Mapping)]
    last = [steps[-1] for steps in found if isinstance(steps, Sequence) and len(steps)]
    return sorted({int(step["batch"]) for step in last if isinstance(step, Mapping) and step.get("batch")})


def batch_text(rows: pd.DataFrame) -> str:
    """`batch 64`, or where nothing says which, `the largest batch timed`."""
    return f"batch {', '.join(map(str, sizes))}" if (sizes := batches(rows)) else "the largest batch timed"


# ---------------------------------------------------------------- the table


def structure(records: Records) -> Table:
    """What each method removed at each target sparsity, what that saves, and the largest certificate."""
    rows = measured(records)
    sections = tuple(Section(panel.name(rows), _section_rows(panel.rows(rows))) for panel in panels(rows))
    columns = ("method", "asked for", *(metric.label for metric in _COLUMNS), "speed-up", "verdict", "certificate",
               "seeds")  # fmt: skip
    notes = (
        "Means ± sample standard deviations over seeds, of the dense network. Masked: parameters that the mask sets to "
        "zero; removed: parameters that are gone from the compact network, with all that only served them.",
        f"Speed-up: dense / compact latency at {batch_text(rows)}, above 1 is faster; brackets: 95 % interval of the "
        "median over rounds of timing, its limits averaged over seeds; “no faster” where it holds 1.",
        "Certificate: the largest difference of any output between the compact and the masked network, over real "
        "inputs and all seeds; – where a seed has none.",
    )
    title = "Structures removed: size, operations and latency"
    return Table("structure", title, columns, sections, notes, frozenset({"asked for", "verdict"}))


def _section_rows(rows: pd.DataFrame) -> tuple[Row, ...]:
    return tuple(_structure_row(own) for _, own in rows.groupby(_CELL, dropna=False))


def _structure_row(rows: pd.DataFrame) -> Row:
    label, auto, target = rows[_CELL].iloc[0]
    asked = AUTO if auto else percent(target)
    ratio, low, high = means(rows)[SPEEDUP].iloc[0]
    sure = rows["certificate"].notna().all()
    certificate = f"{rows['certificate'].max():.1e}" if sure else "–"
    shares = [_mean_text(rows, metric) for metric in _COLUMNS]
    return row(label, asked, *shares, speedup_text(ratio, low, high), verdict(low, high), certificate,
               str(rows["seed"].nunique()))  # fmt: skip


def _mean_text(rows: pd.DataFrame, metric: Metric) -> str:
    values = rows.groupby("seed")[metric.name].mean().dropna().to_numpy(float)
    return mean_text(values, metric) if len(values) else "–"


def speedup_text(ratio: float, low: float, high: float) -> str:
    """`1.42 [1.31, 1.55]`; without brackets where there is no interval."""
    if not math.isfinite(ratio):
        return "–"
    limits = f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{ratio:.2f}{limits}"


# ---------------------------------------------------------------- doubts


def structure_doubts(records: Records) -> list[str]:
    """Missing certificates, and methods that are no faster although much is gone."""
    return [*_uncertified(structured(records)), *_no_faster(timed(records))]


def _uncertified(rows: pd.DataFrame) -> list[str]:
    count = int(rows["certificate"].isna().sum())
    verb = "has" if count == 1 else "have"
    text = (
        f"{count} of {len(rows)} networks pruned by structures {verb} no certificate: nothing shows that a compact "
        "network computes what the masked one does."
    )
    return [text] if count else []


def _no_faster(rows: pd.DataFrame) -> list[str]:
    """One sentence per panel that names the methods and where."""
    found = []
    for panel in panels(rows):
        own = means(panel.rows(rows))
        slow = own[(own[REMOVED_FLOPS.name].round(9) > MUCH) & (own[SPEEDUP[1]] <= 1)]
        names = [f"{label} ({_where(points)})" for label, points in slow.groupby("label")]
        if names:
            found.append(
                f"{panel.dataset} · {panel.architecture}: no faster at {batch_text(panel.rows(rows))} although more "
                f"than {percent(MUCH)} of the operations are gone: {', '.join(names)}."
            )
    return found


def _where(points: pd.DataFrame) -> str:
    """`at 50 %, chosen`."""
    asked = [AUTO if auto else percent(target) for auto, target in zip(points["auto"], points["target"], strict=True)]
    return f"at {', '.join(asked)}"
