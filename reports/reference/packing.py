"""Making the reference results: computed seed by seed, so that whatever is there is complete; then packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ...bench.results.lock import InUse
from ...bench.results.scores import scores_of
from ...bench.results.store import MachineFault, Store
from ...bench.spec.run import Run, sources_read_once
from ...datasets.errors import UsageError
from .files import SUFFIX, write
from .results import FOLDER, Reference, joined
from .revisions import current
from .rows import Row, row_of
from .tiers import TIERS


def compute(
    out: Path, tiers: Iterable[str], held: Reference, *, jobs: int | None = None,
    said: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], Callable[[int], None]] | None = None,
) -> None:  # fmt: skip
    """Run the cells of some tiers that are not `held`, each matrix into a folder of its own in `out`.

    The first seed of all matrices, then the next. What is finished there is not run again. A matrix that cannot run
    here, as its data are not there, does not keep the others from it: raises UsageError for it in the end. Raises InUse
    and MachineFault at once.
    """
    from ...bench.harness.run_matrix import run
    from ...bench.spec.matrix import load_matrix

    matrices = {name: load_matrix(name) for tier in tiers for name in TIERS[tier]}
    parts = [(name, place, seed) for name, matrix in matrices.items() for place, seed in enumerate(matrix.seeds)]
    left_out: dict[str, UsageError] = {}
    for name, _, seed in sorted(parts, key=lambda part: part[1]):
        if name in left_out:
            continue
        cells = matrices[name].model_copy(update={"seeds": [seed]}).cells()
        missing = held.lacks(cells)
        if not missing:
            continue
        said(f"{name}, seed {seed}: {len(missing)} of {len(cells)} cells")
        try:
            run(missing, out / name, jobs=jobs, progress=progress)
        except (InUse, MachineFault):  # nor could the others run
            raise
        except UsageError as error:
            left_out[name] = error
    if left_out:
        raise UsageError(f"left out: {'; '.join(f'{name}, as {error}' for name, error in left_out.items())}")


def pack(out: Path, tier: str, folder: Path = FOLDER) -> tuple[Path, int]:
    """Write the file of a tier from results folders in `out`; returns its path and how many rows it has.

    Rows of the present file stay where a cell has not been computed again. Rows whose arithmetic has been revised since
    are let go. Raises UsageError as `read` and `current`.
    """
    path = folder / f"{tier}{SUFFIX}"
    rows = dict(joined([(tier, path)] if path.is_file() else []).by_key)
    for name in TIERS[tier]:
        if (out / name / "store.json").is_file():
            rows |= {row["key"]: row for row in _rows(Store(out / name, create=False), name)}
    with sources_read_once():
        rows = {row["key"]: row for row in current(Reference(tuple(rows.values()), ()))[0].rows if _is_todays(row)}
    made = max((row["started"][:10] for row in rows.values() if "started" in row), default="")
    write(path, list(rows.values()), made)
    return path, len(rows)


def _is_todays(row: Row) -> bool:
    """Whether a cell has the revisions of today, that of its inference among them."""
    return Run.model_validate(row["run"]).revisions == row.get("revisions", {})


def _rows(store: Store, matrix: str) -> Iterable[Row]:
    for record in store.records():
        if record["status"] != "failed":
            yield row_of(record, matrix, scores_of(store, record))
