"""Running a matrix: which cells are still to do, in which order, and what became of them.

Work is cut in two kinds of tasks: training a network that several cells share (a fit), then all sparsities
of one method on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...datasets.errors import UsageError
from ..results.frames import write_tables
from ..results.lock import Lease, owned, this_run
from ..results.store import Store, logger
from ..spec.matrix import Matrix
from ..spec.run import Run, content_key
from . import cell
from .arrivals import Arrivals
from .executors.chosen import chosen
from .executors.engine import Engine
from .interrupts import watching_for_interrupts
from .planned import Planned, pending, planned, tasks_of
from .provenance import provenance
from .scheduling import Schedule
from .tasks import Setting


def run(
    matrix: str | Path | Matrix | Sequence[Run],
    out: str | Path,
    *,
    jobs: int | None = None,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    device: str = "auto",
    plugins: Sequence[str | Path] = (),
    executor: str | Path | Callable[[], Executor] = "local",
    progress: Callable[[int], Callable[[int], None]] | None = None,
    watch: Callable[[str], None] | None = None,
    wait: bool = False,
    pin: bool = False,
) -> Path:
    """Run a matrix into a results folder and return the path of its results.csv.

    Cells whose record stands in the folder are not run again, so that calling this twice resumes.

    Args:
        matrix: a matrix file, the name of a shipped matrix, a Matrix, or the cells themselves.
        out: the results folder, created if need be; every worker must reach it under this path.
        jobs: worker processes; as many as there are cores by default. Where an executor brings its own workers, how
            many tasks it is given at once.
        shard: (i, n) runs the i-th of n parts, for n machines; a fit is never split between parts.
        retry_failed: run cells anew whose record says failed.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: files that register further methods.
        executor: what runs the tasks: "local"; "dask", a dask cluster on this machine; "dask://host:8786", one that is
            running; a YAML file, jobs of a batch system; "module:function", or a function, that returns an Executor.
        progress: called with the number of cells to run; the function it returns with each advance.
        watch: called with the key of every record that this run brings, as it comes.
        wait: whether to wait for another run into the folder to end, instead of refusing.
        pin: keep cells with the class of machine (device and processor) that trained their network.

    Raises:
        UsageError: before anything is written, for whatever the user can mend.
        InUse: another run owns the folder, unless both run parts of the same matrix.
        MachineFault: on the way, for a disk that is full, a folder that is gone, data that have changed, workers that
            cannot be. No cell is blamed for it; calling this again goes on.
    """
    engine = chosen(executor, jobs, device, Path(out))
    place = engine.place(device)
    engine.check()
    with watching_for_interrupts():
        plan = planned(matrix, shard, plugins)
        store = Store(out)
        owner = this_run(content_key([plan.said, sorted({*map(_sources, plan.every)})]), shard)
        with owned(store.folder, owner, wait, logger.warning) as lease:
            store.write_note(plan.said, [r.key for r in plan.every])
            setting = Setting(
                store.folder.resolve(), device if place is None else str(place), plan.plugins, lease.sign, __version__
            )
            return _run(plan, store, lease, engine, setting, place, retry_failed, pin, progress, watch)


def _sources(r: Run) -> str:
    return content_key([r.sources, r.revisions])


def _run(
    plan: Planned, store: Store, lease: Lease, engine: Engine, setting: Setting, place: torch.device | None,
    retry_failed: bool, pin: bool, progress: Callable[[int], Callable[[int], None]] | None,
    watch: Callable[[str], None] | None,
) -> Path:  # fmt: skip
    set_others_aside(plan.every, store)
    records = {r["key"]: r for r in store.records()}
    freeze_data_of(plan.every, store, records)
    todo = pending(plan.cells, store, retry_failed, records=records)
    advance = progress(len(todo)) if progress else lambda n: None

    def told(keys: Collection[str]) -> None:
        advance(len(keys))
        if watch is not None:
            for key in keys:
                watch(key)

    arrivals = Arrivals(store, [r.key for r in todo], told, lease.check)
    stale = {r.key: store.record_checksum(r.key) for r in todo if r.key in records}
    tasks, broken = tasks_of([r for r in todo if r.key not in plan.senseless])
    ended: dict[str, BaseException] = {**plan.senseless, **broken}
    for r in todo:
        if r.key in ended:
            store.write_record(cell.identity(r) | provenance(r, place) | cell.outcome_of(ended[r.key]))
    arrivals.update()
    try:
        Schedule(engine, setting, store, arrivals, place, pin).work_off(
            replace(t, stale=frozenset(filter(None, (stale.get(r.key) for r in t.runs)))) for t in tasks
        )
    except BaseException:
        with suppress(UsageError):  # the first trouble is the one to be told
            write_tables(store.folder)
        raise
    lease.check()
    return write_tables(store.folder)


def freeze_data_of(cells: Sequence[Run], store: Store, records: Mapping[str, Mapping[str, Any]]) -> None:
    """A folder from before does not say which data it is of; its records, by key, do."""
    if (store.folder / "data").is_dir():
        return
    frozen: dict[str, str] = {}
    for r in cells:
        if digest := records.get(r.key, {}).get("dataset_digest"):
            frozen.setdefault(r.data_key, digest)
    for key, digest in frozen.items():
        store.freeze_data(key, digest)


def set_others_aside(cells: Sequence[Run], store: Store) -> None:
    """Cells look alike in tables whose settings or plug-ins differ: only those of the present matrix stay.

    A folder that has seen another training schedule, or an older version of a plug-in, keeps those records
    under superseded/, and gets them back when the matrix is as it was.
    """
    present: dict[tuple, set[str]] = {}
    for r in cells:
        present.setdefault(_face(cell.names(r)), set()).add(r.key)
    store.restore(key for keys in present.values() for key in keys)
    others = [r["key"] for r in store.records() if r["key"] not in present.get(_face(r), (r["key"],))]
    for key in others:
        store.supersede(key)
    if others:
        logger.warning(
            "%d records of other settings or plug-in versions went to %s", len(others), store.folder / "superseded"
        )


def _face(record: Mapping[str, Any]) -> tuple:
    return tuple(
        record[n] for n in ("dataset", "architecture", "method", "units", "sparsity_target", "sparsity_auto", "seed")
    )
