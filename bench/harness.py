"""Running a matrix: which cells are still to do, in which order, on which workers, and what became of them.

Work is cut in two kinds of tasks: training a network that several cells share (a fit), then all
sparsities of one method on it. Tasks go through the standard `concurrent.futures.Executor`; whatever
implements it can run a matrix, as long as it reaches the results folder.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..architectures.units import units as units_of
from ..datasets.atomic import write_atomically
from ..datasets.data import Data
from ..datasets.load import load
from ..datasets.registry import NotApplicable, UsageError, plugin_source
from ..methods import registry as methods
from . import cell
from .fits import fit_key, fitted, inference_of, initial_network
from .matrix import Matrix, load_matrix
from .run import Choice, Run
from .select import keep_count
from .store import Store, logger

POLL_SECONDS = 0.5
MAX_CRASHES = 2


@dataclass(frozen=True)
class Setting:
    """What a worker needs to know beside its cells."""

    folder: Path
    device: str
    plugins: tuple[tuple[str, bytes], ...] = ()


@dataclass(eq=False)
class Task:
    """Cells that one worker works off together, after the fit they share."""

    fit: str
    runs: list[Run]
    crashes: int = 0


@dataclass
class Progress:
    """Counts of finished cells, and whoever wants to be told."""

    total: int
    keys: dict[str, Path]
    told: Callable[[int], None]
    done: int = 0
    before: dict[str, int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.before = {key: _modified(path) for key, path in self.keys.items()}

    def update(self) -> None:
        """Tell how many more records stand in the folder than at the last call."""
        new = [key for key, path in self.keys.items() if _modified(path) != self.before[key]]
        for key in new:
            del self.keys[key], self.before[key]
        if new:
            self.done += len(new)
            self.told(len(new))


class InlineExecutor(Executor):
    """Runs each task at once in this process: the executor of one job."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run the task now; the future that is returned is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


# ---------------------------------------------------------------------- what is to do


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
        _work_off(tasks, setting, executor or (lambda: _local_executor(jobs, setting)), jobs, store, watch)
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
        data = _data(group[0])
        weights = units_of(initial_network(group[0], data), "weights")
        for _, alike in _grouped(group, lambda r: (_json(r.method), r.units, r.sparsity == "auto")):
            try:
                cell.applicable(alike[0], data)
            except NotApplicable as reason:
                senseless |= {r.key: reason for r in alike}
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


# ---------------------------------------------------------------------- scheduling


def _work_off(
    tasks: list[Task], setting: Setting, make: Callable[[], Executor], jobs: int, store: Store, watch: Progress
) -> None:
    """Run fits, then the tasks that need them; survive dying workers; leave a resumable folder on interrupt."""
    waiting: dict[str, list[Task]] = {}
    for task in tasks:
        waiting.setdefault(task.fit, []).append(task)
    ready: deque[tuple[Callable, Task]] = deque((_fit, Task(fit, group[0].runs[:1])) for fit, group in waiting.items())
    suspects: deque[tuple[Callable, Task]] = deque()
    while ready or suspects:
        alone = bool(suspects)  # after a crash, those that were running go one by one, so that the guilty one is found
        with _closing(make()) as executor:
            crashed = _drain(
                suspects if alone else ready, ready, waiting, executor, 1 if alone else jobs, setting, store, watch
            )
        for function, task in crashed:
            task.crashes += 1
            if task.crashes < MAX_CRASHES:
                suspects.append((function, task))
            else:
                error = RuntimeError("the worker process died twice in this task (out of memory, or killed)")
                _fail(waiting.pop(task.fit, []) if function is _fit else [task], error, setting, store)
        watch.update()


def _drain(
    source: deque, ready: deque, waiting: dict[str, list[Task]], executor: Executor, window: int,
    setting: Setting, store: Store, watch: Progress,
) -> list[tuple[Callable, Task]]:  # fmt: skip
    """Feed the executor from `source`, at most `window` tasks at a time; returns those lost in a crash."""
    running: dict[Future, tuple[Callable, Task]] = {}
    lost: list[tuple[Callable, Task]] = []
    while (source and not lost) or running:
        while source and not lost and len(running) < window:
            function, task = source.popleft()
            try:
                running[executor.submit(function, task.runs, setting)] = (function, task)
            except BrokenExecutor:
                lost.append((function, task))
        finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
        for future in finished:
            function, task = running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenExecutor):
                lost.append((function, task))
            elif function is _fit:
                group = waiting.pop(task.fit, [])
                if error:
                    _fail(group, error, setting, store)
                ready.extend((_cells, t) for t in group if not error)
            elif error:
                _fail([task], error, setting, store)
        watch.update()
    return lost


def _fail(tasks: Iterable[Task], error: BaseException, setting: Setting, store: Store) -> None:
    """Write a failed record for every cell of the tasks that has none yet."""
    for r in itertools.chain.from_iterable(task.runs for task in tasks):
        if (old := store.read_record(r.key)) is None or old["status"] == "failed":
            device = torch.device(setting.device)
            store.write_record(cell.identity(r) | cell.provenance(r, device) | cell.failure(error))


# ---------------------------------------------------------------------- in the workers


def _fit(runs: list[Run], setting: Setting) -> None:
    """Task: train, or find in the store, the network that these cells share."""
    device = torch.device(setting.device)
    with cell.repeatable(runs[0], device):
        fitted(runs[0], _data(runs[0], setting.device), Store(setting.folder), device)


def _cells(runs: list[Run], setting: Setting) -> None:
    """Task: all cells of one method on one fit."""
    store, device = Store(setting.folder), torch.device(setting.device)
    with cell.repeatable(runs[0], device):
        bench = cell.Workbench(runs[0], _data(runs[0], setting.device), store, device)
        for r in runs:
            cell.execute(r, bench, store)


def _data(r: Run, device: str = "cpu") -> Data:
    return _cached_data(r.dataset.model_dump_json(), r.seed, device)  # a Choice holds a dict, which has no hash


@lru_cache(maxsize=2)
def _cached_data(choice: str, seed: int, device: str) -> Data:
    dataset = Choice.model_validate_json(choice)
    return load(dataset.name, seed, **dataset.options).to(device)


def _local_executor(jobs: int, setting: Setting) -> Executor:
    if jobs == 1:
        return InlineExecutor()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (os.getpid(), setting.plugins))
    try:
        pool.submit(os.getpid).result()
    except BrokenExecutor as error:
        raise UsageError(
            "worker processes cannot start; in a script, call run() under `if __name__ == '__main__':`, or use jobs=1"
        ) from error
    return pool


def _start_worker(parent: int, plugins: tuple[tuple[str, bytes], ...]) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when the parent has died, even by SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    for path, source in plugins:
        methods.load_plugin(path, source)


def _end_with(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(POLL_SECONDS)
    os._exit(1)


@contextmanager
def _closing(executor: Executor) -> Iterator[Executor]:
    """Shut the executor down; when interrupted, at once, without waiting for the tasks that run."""
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process.name.startswith("SpawnProcess"):
                process.terminate()
        raise
    executor.shutdown()


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
