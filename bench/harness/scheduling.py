"""Scheduling: a fit, then the cells that need it; dying workers and interrupts leave nothing behind.

The cells of a network come before the next network is trained, so that an interrupted run has rows to report.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..results.store import MachineFault, Store
from . import cell
from .provenance import provenance
from .workers import Setting, Task, closing, run_cells, train_fit

POLL_SECONDS = 0.5
MAX_CRASHES = 2


@dataclass
class Progress:
    """Counts of finished cells, and whoever wants to be told; `check` raises when the folder is lost to the run."""

    total: int
    keys: dict[str, Path]
    told: Callable[[int], None]
    check: Callable[[], None] = lambda: None
    done: int = 0
    before: dict[str, int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.before = {key: _modified(path) for key, path in self.keys.items()}

    def update(self) -> None:
        """Tell how many more records stand in the folder than at the last call."""
        self.check()
        new = [key for key, path in self.keys.items() if _modified(path) != self.before[key]]
        for key in new:
            del self.keys[key], self.before[key]
        if new:
            self.done += len(new)
            self.told(len(new))


def work_off(
    tasks: list[Task], setting: Setting, make: Callable[[], Executor], jobs: int, store: Store, watch: Progress
) -> None:
    """Run each fit, then the tasks that need it; survive dying workers; leave a resumable folder on interrupt."""
    waiting: dict[str, list[Task]] = {}
    for task in tasks:
        waiting.setdefault(task.fit, []).append(task)
    ready: deque[tuple[Callable, Task]] = deque((train_fit, _training(group)) for group in waiting.values())
    suspects: deque[tuple[Callable, Task]] = deque()
    while ready or suspects:
        alone = bool(suspects)  # after a crash, those that were running go one by one, so that the guilty one is found
        with closing(make()) as executor:
            crashed = _drain(
                suspects if alone else ready, ready, waiting, executor, 1 if alone else jobs, setting, store, watch
            )
        watch.update()
        for function, task, end in crashed:
            task.crashes += 1
            if function is run_cells:  # those that have a record by now are innocent
                task.runs = [r for r in task.runs if r.key in watch.keys]
            if not task.runs:
                continue
            if task.crashes < MAX_CRASHES:
                suspects.append((function, task))
            else:
                error = RuntimeError(f"the worker process died twice in this task: {end}")
                if function is train_fit:
                    ready.extendleft(_without_fit(task, error, waiting, setting, store))
                else:
                    _fail([task], error, setting, store)
        watch.update()


def _training(group: list[Task]) -> Task:
    """The training that a group shares, in the name of a method that comes with the package, if there is one.

    So the code of a plug-in, which may do anything, is not run in the name of others.
    """
    return Task(group[0].fit, min(group, key=lambda task: "method" in task.runs[0].sources).runs[:1])


def _without_fit(
    task: Task, error: BaseException, waiting: dict[str, list[Task]], setting: Setting, store: Store
) -> list[tuple[Callable, Task]]:
    """A fit has failed: its cells have too, or, if it was a plug-in that failed, others of the group try it."""
    group, name = waiting.pop(task.fit, []), task.runs[0].method
    own = "method" in task.runs[0].sources
    guilty = [t for t in group if not own or t.runs[0].method == name]
    _fail(guilty, error, setting, store)
    if not (rest := [t for t in group if t not in guilty]):
        return []
    waiting[task.fit] = rest
    return [(train_fit, _training(rest))]


def _drain(
    source: deque, ready: deque, waiting: dict[str, list[Task]], executor: Executor, window: int,
    setting: Setting, store: Store, watch: Progress,
) -> list[tuple[Callable, Task, BaseException]]:  # fmt: skip
    """Feed the executor from `source`, at most `window` tasks at a time; returns those lost in a crash, and its kind.

    Raises MachineFault as soon as the machine, and no method, is at fault.
    """
    running: dict[Future, tuple[Callable, Task]] = {}
    lost: list[tuple[Callable, Task, BaseException]] = []
    while (source and not lost) or running:
        while source and not lost and len(running) < window:
            function, task = source.popleft()
            try:
                running[executor.submit(function, task.runs, setting)] = (function, task)
            except BrokenExecutor as error:
                lost.append((function, task, error))
        finished, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED)
        for future in finished:
            function, task = running.pop(future)
            error = future.exception()
            if isinstance(error, MachineFault):
                raise error
            if isinstance(error, BrokenExecutor):
                lost.append((function, task, error))
            elif function is train_fit and error:
                ready.extendleft(_without_fit(task, error, waiting, setting, store))
            elif function is train_fit:
                ready.extendleft((run_cells, t) for t in reversed(waiting.pop(task.fit, [])))
            elif error:
                _fail([task], error, setting, store)
            elif rest := future.result():
                ready.appendleft((run_cells, Task(task.fit, rest)))
        watch.update()
    return lost


def _fail(tasks: Iterable[Task], error: BaseException, setting: Setting, store: Store) -> None:
    """Write a failed record for every cell of the tasks that has none yet."""
    for r in itertools.chain.from_iterable(task.runs for task in tasks):
        if (old := store.read_record(r.key)) is None or old["status"] == "failed":
            device = torch.device(setting.device)
            store.write_record(cell.identity(r) | provenance(r, device) | cell.outcome_of(error))


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
