"""Methods of a report among the reference results: ranked anew among themselves, on the networks of CORE."""

from __future__ import annotations

from collections.abc import Collection

from ..reference.results import Reference
from ..reference.revisions import current
from ..reference.tiers import TIERS
from ..topics.standing import reference_standing
from ..writing.render import Table


def reference_standings(methods: Collection[str], reference: Reference) -> list[Table]:
    """A table for each matrix of CORE in which at least two of these methods have results."""
    rows = tuple(row for row in current(reference)[0].rows if row["method"] in methods)
    there = Reference(rows, reference.made)
    return [table for matrix in TIERS["core"] if (table := _standing(there.of(matrix), matrix)) is not None]


def _standing(part: Reference, matrix: str) -> Table | None:
    kind = matrix.removeprefix("reference-core-")
    return reference_standing(part, f"reference-{kind}", f"Reference results of these methods, {kind}: CORE")
