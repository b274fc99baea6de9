"""Comparing a method with the reference results: its cells of CORE, its standing among all, and a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bench.results.frames import frame_of
from ...bench.results.scores import folder_scores
from ...bench.results.store import Store
from ...datasets.errors import UsageError
from ..build import report
from ..leaderboard.standings import Leaderboard, Standing, leaderboard
from ..records.blocks import Field, field
from ..records.frame import done, prepare
from ..reference.results import Reference
from ..reference.revisions import current
from ..reference.rows import record_of
from ..topics.standing import standing_table
from .entrants import MATRICES, Entrants, cells, refuse_collisions

if TYPE_CHECKING:
    from ...bench.spec.run import Run

NEIGHBOURS = 3  # of a place, that the figures show beside the entrant
ANCHORS = ("magnitude", "random")


@dataclass(frozen=True)
class Plan:
    """The cells of entrants, the reference rows that they meet, and a note on those that were left out."""

    runs: tuple[Run, ...]
    reference: Reference
    units: str
    note: str = ""

    @property
    def todo(self) -> list[Run]:
        """The cells that are not reference rows."""
        return self.reference.lacks(self.runs)


def plan(found: Entrants, units: str, reference: Reference) -> Plan:
    """What is to be computed; raises UsageError for a collision with a reference row, or if there is no reference."""
    from ...bench.harness.cell import names

    of, stale = current(headline(reference.of(MATRICES[units])))
    seeds = {row["seed"] for row in of.rows if row["status"] == "done"}
    if not seeds:
        raise UsageError(f"there are no reference results for {units} yet: make them with `make reference`")
    places = {_place(row) for row in of.rows if row["status"] == "done"}
    runs = [r for r in cells(found, units, seeds) if _place(names(r)) in places]
    refuse_collisions(runs, of)
    return Plan(tuple(runs), of, units, stale)


def _place(cell: Mapping[str, Any]) -> tuple:
    """Where methods meet."""
    return cell["dataset"], cell["architecture"], cell["seed"], cell.get("sparsity_target")


def headline(reference: Reference) -> Reference:
    """Rows that were retrained for as long as they were trained."""
    return Reference(
        tuple(r for r in reference.rows if r.get("epochs_finetune") == r.get("epochs_train") or r["status"] != "done"),
        reference.made,
    )


def estimate(plan: Plan, jobs: int) -> float:
    """About how many seconds the cells take, measured on one epoch of each network.

    Raises UsageError for methods that make sense in no block.
    """
    return seconds_of(plan.todo) / jobs


def seconds_of(runs: Sequence[Run]) -> float:
    """About how many seconds of one job cells take; raises UsageError if none of them makes sense."""
    from ...bench.harness.dry_run import estimate as seconds
    from ...bench.harness.planned import tasks_of
    from ...bench.harness.provenance import resolved_device

    return seconds(tasks_of(_sensible(runs))[0], resolved_device("cpu"))


def _sensible(runs: Sequence[Run]) -> list[Run]:
    from ...bench.harness.preflight import preflight

    senseless = preflight(runs)
    if len(senseless) == len(runs):
        reason = next(iter(senseless.values()))
        raise UsageError(f"{runs[0].method.label!r} fits none of the blocks it would be compared on: {reason}")
    return [r for r in runs if r.key not in senseless]


def compute(
    plan: Plan, out: Path, jobs: int | None, plugins: Sequence[Path], progress: Callable[[int], Callable[[int], None]]
) -> None:
    """Run the cells into `out`, where dense networks that other entrants left are shared."""
    from ...bench.harness.run_matrix import run

    if not plan.todo:
        return
    run(plan.todo, out, jobs=jobs, device="cpu", plugins=plugins, progress=progress)


def standings(plan: Plan, out: Path, page: Path) -> tuple[list[str], Path]:
    """Sentences on where the entrants stand, and the page; raises UsageError where none of their cells is done."""
    own = _records(plan, out)
    if not any(r["status"] == "done" for r in own.values()):
        failed = next((r["reason"] for r in own.values()), "no cell ran")
        raise UsageError(f"none of the cells is done, so there is nothing to compare: {failed}")
    rows = {row["key"]: record_of(row) for row in plan.reference.rows} | own
    store = Store(out, create=False) if plan.todo else None
    scores = plan.reference.scores | (folder_scores(store, own) if store else {})
    frame = frame_of(rows.values())
    records = prepare(frame)
    labels = sorted(set(done(records[records["key"].isin(list(own))])["label"]))
    found = field(records, scores, plan.units, must=labels)
    if found is None or len(found.blocks[0].entrants) < 2:
        raise UsageError("no reference method has results in the blocks of these: make them with `make reference`")
    board = leaderboard(found.blocks)
    says = [_sentence(board.standing(label), board, found) for label in labels if label in board.entrants]
    table = standing_table(board, found, "standing", "Standing among the reference results", labels)
    keys = records.loc[records["label"].isin(_shown(board, labels)), "key"]
    title = f"{', '.join(labels)} among the reference results"
    missing = [plan.note] if plan.note else []
    return says, report(
        frame[frame["key"].isin(keys)], page, title=title, says=says, leading=[table], missing=missing, scores=scores
    )


def _records(plan: Plan, out: Path) -> dict[str, dict[str, Any]]:
    kept = {r.key for r in plan.runs}
    found = {key: record_of(plan.reference.by_key[key]) for key in kept & plan.reference.by_key.keys()}
    if plan.todo:
        found |= {r["key"]: r for r in Store(out, create=False).records() if r["key"] in kept}
    return found


def _sentence(s: Standing, board: Leaderboard, found: Field) -> str:
    first, count = board.standings[0], len(board.standings)
    value, low, high = (-100 * end for end in s.lead)
    better, worse = board.versus(s.entrant)
    interval = f" [{high:.1f}, {low:.1f}]" if math.isfinite(low) else ""
    behind = f", {value:.1f} points{interval} behind {first.entrant}" if s.entrant != first.entrant else ""
    blocks = f"{len(found.blocks)} block{'s' * (len(found.blocks) != 1)} of CORE"
    return (
        f"{s.entrant} is in place {s.place:g} of {count}, with 95 % between {1 + len(better)} and "
        f"{count - len(worse)}, over {blocks}: area {100 * s.score:.1f} %{behind}. It is surely "
        f"better than {len(worse)} of the others and surely worse than {len(better)} (paired tests, Holm over methods)."
    )


def _shown(board: Leaderboard, labels: Sequence[str]) -> set[str]:
    """The entrants, their neighbours by place, the first, and the anchors: what figures can hold."""
    order = list(board.entrants)
    near = {order[j] for label in labels if label in order for j in range(len(order))
            if abs(j - order.index(label)) <= NEIGHBOURS}  # fmt: skip
    return {*labels, *near, order[0], *(a for a in ANCHORS if a in order)}
