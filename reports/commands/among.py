"""Methods of a report among the reference results: ranked anew among themselves, on the networks of CORE."""

from __future__ import annotations

from collections.abc import Collection

from ..leaderboard.standings import leaderboard
from ..records.blocks import field
from ..records.frame import prepare
from ..reference.results import Reference
from ..reference.revisions import current
from ..topics.standing import standing_table
from ..writing.render import Table
from .compare import headline
from .entrants import MATRICES


def reference_standings(methods: Collection[str], reference: Reference) -> list[Table]:
    """A table for each kind of units in which at least two of these methods have reference results."""
    present, _ = current(reference)
    found = (_standings(methods, headline(present.of(name)), units) for units, name in MATRICES.items())
    return [table for table in found if table is not None]


def _standings(methods: Collection[str], reference: Reference, units: str) -> Table | None:
    rows = tuple(row for row in reference.rows if row["method"] in methods)
    if len({row["method"] for row in rows if row["status"] == "done"}) < 2:
        return None
    own = Reference(rows, reference.made)
    found = field(prepare(own.frame()), own.scores, units)
    if found is None or len(found.blocks[0].entrants) < 2:
        return None
    title = f"Reference results of these methods, {units}: CORE, {_budget(rows)}"
    return standing_table(leaderboard(found.blocks), found, f"reference-{units}", title)


def _budget(rows: tuple[dict, ...]) -> str:
    training, retraining = (max(int(row.get(n) or 0) for row in rows) for n in ("epochs_train", "epochs_finetune"))
    return f"{training} + {retraining} epochs"
