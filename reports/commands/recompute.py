"""Recomputing rows and comparing: equal to the bit on the same class of machine, else within the stated rounding."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...bench.results.store import Store
from ...datasets.errors import UsageError
from ..reference.rows import Row

Outcome = Literal["equal to the bit", "within rounding", "another revision", "differs"]
EXACT = ("status", "kept", "total", "accuracy", "nll", "rmse", "bpc", "mask_digest", "logits_digest")
MACHINE = ("device", "host_cpu", "threads", "version_torch")
DEVIATIONS = 4.0
SLACK = 0.005
ROUNDING = (
    "on another class of machine, or with another version of torch, the same number of units is kept and the accuracy "
    f"differs by at most {100 * SLACK:g} points and {DEVIATIONS:g} standard errors of the test examples"
)


@dataclass(frozen=True)
class Comparison:
    """A row, what became of it when it was recomputed, and in words what differs."""

    row: Row
    outcome: Outcome
    why: str = ""


def recompute(
    rows: Sequence[Row], out: Path, jobs: int | None = None, plugins: Sequence[Path] = (),
    progress: Callable[[int], Callable[[int], None]] | None = None,
) -> list[Comparison]:  # fmt: skip
    """Compute the cells of rows again, into the folder `out`, which is resumed, and compare.

    Raises UsageError for rows of a later revision than the code's, and what running them raises.
    """
    from ...bench.harness.planned import load_plugins
    from ...bench.harness.run_matrix import run

    load_plugins(plugins)
    runs = {row["key"]: _run_of(row) for row in rows}
    same = {key: r for key, r in runs.items() if r.key == key}
    if same:
        run(list(same.values()), out, jobs=jobs, device="cpu", plugins=plugins, progress=progress)
    store = Store(out, create=False) if same else None
    return [_compared(row, store.read_record(row["key"]) if store and row["key"] in same else None) for row in rows]


def _run_of(row: Row) -> Any:
    from pydantic import ValidationError

    from ...bench.spec.run import Run

    try:
        found = Run.model_validate(row["run"])
        revisions = found.revisions
    except (ValidationError, KeyError) as error:
        raise UsageError(f"row {row['key'][:12]} does not say which cell it is of: its `run` is none") from error
    for kind, names in (row.get("revisions") or {}).items():
        for name, revision in names.items():
            if revision > (here := revisions.get(kind, {}).get(name, 1)):
                raise UsageError(
                    f"row {row['key'][:12]} is of revision {revision} of {kind} {name!r}, this program has revision "
                    f"{here}: update bayesprune"
                )
    return found


def _compared(row: Row, record: Mapping[str, Any] | None) -> Comparison:
    if record is None:
        return Comparison(row, "another revision", "the cell has another key here: code, plug-in or weights differ")
    different = [name for name in EXACT if row.get(name) != record.get(name)]
    if not different:
        return Comparison(row, "equal to the bit")
    moved = [name for name in MACHINE if row.get(name) != record.get(name)]
    told = ", ".join(f"{name} {_short(row.get(name))} there, {_short(record.get(name))} here" for name in different)
    if moved and _close(row, record):
        return Comparison(row, "within rounding", f"{', '.join(moved)} differ")
    return Comparison(row, "differs", told)


def _close(row: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    if row["status"] != record["status"] or row.get("kept") != record.get("kept"):
        return False
    if row.get("accuracy") is None or record.get("accuracy") is None:
        quality = "rmse" if row.get("rmse") is not None else "bpc"
        return math.isclose(row.get(quality) or 0.0, record.get(quality) or 0.0, rel_tol=0.02)
    share = min(max((row["accuracy"] + record["accuracy"]) / 2, 0.0), 1.0)
    error = math.sqrt(2 * share * (1 - share) / max(row.get("examples", 1000), 1))
    return abs(row["accuracy"] - record["accuracy"]) <= SLACK + DEVIATIONS * error


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else repr(value)


def summary(found: Iterable[Comparison]) -> str:
    """`49 of 50 equal to the bit, 1 within rounding: on another ...`."""
    listed = list(found)
    counts = Counter(c.outcome for c in listed)
    parts = [f"{n} {outcome}" for outcome, n in counts.most_common()]
    text = f"{len(listed)} cells recomputed: {', '.join(parts)}"
    return f"{text}. Rounding: {ROUNDING}." if counts["within rounding"] or counts["differs"] else f"{text}."


# ---------------------------------------------------------------------- which cells


def sample(rows: Sequence[Row], count: int, seed: int | None = None) -> list[Row]:
    """So many finished rows at random; all, if there are fewer."""
    finished = [row for row in rows if row["status"] == "done"]
    return random.Random(seed).sample(finished, min(count, len(finished)))  # noqa: S311


def chosen_by_hash(rows: Sequence[Row], digest: str, count: int) -> list[Row]:
    """The cells of a submission that are recomputed, which follow from the file: one can only try many files."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{digest}{row['key']}".encode()).hexdigest())[:count]
