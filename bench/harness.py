"""Running a matrix: which cells are still to do, in which order, and what became of them.

Work is cut in two kinds of tasks: training a network that several cells share (a fit), then all sparsities
of one method on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..architectures.discovery.units_of import units as units_of
from ..datasets.atomic import write_atomically
from ..datasets.errors import NotApplicable, UsageError
from ..datasets.registry import plugin_source
from ..methods import registry as methods
from . import cell
from .fits import fit_key, inference_of, initial_network
from .matrix import Matrix, load_matrix
from .run import Choice, Run
from .scheduling import Progress, work_off
from .select import keep_count
from .store import Store, logger
from .workers import Setting, Task, data_of, local_executor


def run(
    matrix: str | Path | Matrix,
    out: str | Path,
    *,
    jobs: int | None = None,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    device: str = "auto",
    plugins: Sequence[str | Path] = (),
    executor: Callable[[], Executor] | None = None,
    progress: Callable[[int], Callable[[int], None]] | None = None,
) -> Path:
    """Run a matrix into a results folder and return the path of its results.csv.

    Cells whose record stands in the folder are not run again, so that calling this twice resumes.

    Args:
        matrix: a matrix file, the name of a shipped matrix, or a Matrix.
        out: the results folder, created if need be.
        jobs: worker processes; as many as there are cores by default.
        shard: (i, n) runs the i-th of n parts, for n machines; a fit is never split between parts.
        retry_failed: run cells anew whose record says failed.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: files that register further methods.
        executor: makes the executor, instead of `jobs` local processes.
        progress: called with the number of cells to run; the function it returns with each advance.

    Raises:
        UsageError: before anything is written, for whatever the user can mend.
    """
    place = resolved_device(device)
    loaded = load_plugins(plugins)
    if not isinstance(matrix, Matrix):
        matrix = load_matrix(matrix)
    every = matrix.cells()
    cells = sharded(every, shard)
    senseless = preflight(cells)
    store = Store(out)
    note = {"matrix": matrix.model_dump(mode="json"), "cells": [r.key for r in every]}
    write_atomically(store.folder / "matrix.json", json.dumps(note, indent=1).encode() + b"\n")
    set_others_aside(every, store)
    todo = pending(cells, store, retry_failed)
    setting = Setting(store.folder.resolve(), str(place), loaded)
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(todo)))
    told = progress(len(todo)) if progress else lambda n: None
    watch = Progress(len(todo), {r.key: store.folder / "cells" / f"{r.key}.json" for r in todo}, told)
    for r in todo:
        if r.key in senseless:
            store.write_record(cell.identity(r) | cell.provenance(r, place) | cell.skip(senseless[r.key]))
    watch.update()
    tasks = _tasks([r for r in todo if r.key not in senseless])
    try:
        work_off(tasks, setting, executor or (lambda: local_executor(jobs, setting)), jobs, store, watch)
    finally:
        path = store.write_tables()
    return path


def load_plugins(paths: Sequence[str | Path]) -> tuple[tuple[str, bytes], ...]:
    """Import plug-in files; what they hold now is what every worker of the run will execute."""
    loaded = tuple((str(Path(p).resolve()), plugin_source(Path(p).resolve())) for p in paths)
    for path, source in loaded:
        methods.load_plugin(path, source)
    return loaded


def set_others_aside(cells: Sequence[Run], store: Store) -> None:
    """Cells look alike in tables whose settings or plug-ins differ: only those of the present matrix stay.

    A folder that has seen another training schedule, or an older version of a plug-in, keeps those records
    under superseded/, and gets them back when the matrix is as it was.
    """
    present = {_face(cell.identity(r)): r.key for r in cells}
    for key in present.values():
        store.restore(key)
    others = [r["key"] for r in store.records() if present.get(_face(r), r["key"]) != r["key"]]
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


def pending(cells: Iterable[Run], store: Store, retry_failed: bool = False, mend: bool = True) -> list[Run]:
    """The cells without an intact record and logits, and with `retry_failed` those whose record says failed."""

    def is_pending(key: str) -> bool:
        record = store.read_record(key, mend)
        if record is None or (record["status"] == "done" and not store.complete(key)):
            return True
        return retry_failed and record["status"] == "failed"

    return [r for r in cells if is_pending(r.key)]


def sharded(cells: Sequence[Run], shard: tuple[int, int]) -> list[Run]:
    """The i-th of n parts, counted from 1; cells that share a trained network stay together."""
    index, parts = shard
    if not 1 <= index <= parts:
        raise UsageError(f"shard {index}/{parts} does not exist; give i/n with 1 <= i <= n")
    numbers: dict[str, int] = {}
    for r in cells:
        numbers.setdefault(_fit_of(r), len(numbers))
    return [r for r in cells if numbers[_fit_of(r)] % parts == index - 1]


def preflight(cells: Sequence[Run]) -> dict[str, NotApplicable]:
    """Load every data set and build every network once.

    Returns the reasons of cells that make no sense, by key; raises UsageError for what cannot run at all.
    """
    senseless: dict[str, NotApplicable] = {}
    for _, group in _grouped(cells, lambda r: _json(r.dataset, r.architecture)):
        data = data_of(group[0])
        network = initial_network(group[0], data)
        weights = units_of(network, "weights")
        for _, alike in _grouped(group, lambda r: (_json(r.method), r.units, str(r.sparsity))):
            try:
                cell.applicable(alike[0], network, data.train.x[:2])
            except NotApplicable as reason:
                senseless |= {r.key: reason for r in alike}
        for _, alike in _grouped(group, lambda r: (_json(r.method), r.units)):
            try:
                cell.attachable(alike[0], network, data.train)
            except NotApplicable as reason:
                senseless = {r.key: reason for r in alike} | senseless
        for sparsity in {r.sparsity for r in group if r.sparsity != "auto" and r.units == "weights"}:
            try:
                keep_count(weights.n, sparsity)
            except UsageError as error:
                place = f"{group[0].architecture.label} on {group[0].dataset.label}"
                raise UsageError(f"{place}: {error}") from error
    return senseless


def _json(*choices: Choice) -> tuple[str, ...]:
    """Choices as text: labels may round numbers, these do not."""
    return tuple(choice.model_dump_json() for choice in choices)


def resolved_device(device: str) -> torch.device:
    """The device a name stands for; raises UsageError if it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} does not exist; choose auto, cpu, cuda or cuda:0") from error
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; choose auto, cpu, cuda or cuda:0")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {device!r} is not there: {torch.cuda.device_count()} CUDA devices are visible; try --device cpu"
        )
    return place


def _tasks(todo: Sequence[Run]) -> list[Task]:
    groups = _grouped(todo, lambda r: (_fit_of(r), r.units, _json(r.method)))
    return [Task(fit, group) for (fit, _, _), group in groups]


def _grouped(runs: Sequence[Run], by: Callable[[Run], Any]) -> list[tuple[Any, list[Run]]]:
    groups: dict[Any, list[Run]] = {}
    for r in runs:
        groups.setdefault(by(r), []).append(r)
    return list(groups.items())


def _fit_of(r: Run) -> str:
    return _fit_key(r.model_copy(update={"sparsity": "auto"}).model_dump_json())


@lru_cache(maxsize=65536)
def _fit_key(text: str) -> str:
    r = Run.model_validate_json(text)
    return fit_key(r, inference_of(r))
