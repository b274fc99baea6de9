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

from ..results.store import Store
from . import cell
from .provenance import provenance
from .workers import Setting, Task, closing, run_cells, train_fit

POLL_SECONDS = 0.5
MAX_CRASHES = 2


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


def work_off(
    tasks: list[Task], setting: Setting, make: Callable[[], Executor], jobs: int, store: Store, watch: Progress
) -> None:
    """Run each fit, then the tasks that need it; survive dying workers; leave a resumable folder on interrupt."""
    waiting: dict[str, list[Task]] = {}
    for task in tasks:
        waiting.setdefault(task.fit, []).append(task)
    ready: deque[tuple[Callable, Task]] = deque(
        (train_fit, Task(fit, group[0].runs[:1])) for fit, group in waiting.items()
    )
    suspects: deque[tuple[Callable, Task]] = deque()
    while ready or suspects:
        alone = bool(suspects)  # after a crash, those that were running go one by one, so that the guilty one is found
        with closing(make()) as executor:
            crashed = _drain(
                suspects if alone else ready, ready, waiting, executor, 1 if alone else jobs, setting, store, watch
            )
        for function, task in crashed:
            task.crashes += 1
            if task.crashes < MAX_CRASHES:
                suspects.append((function, task))
            else:
                error = RuntimeError("the worker process died twice in this task (out of memory, or killed)")
                _fail(waiting.pop(task.fit, []) if function is train_fit else [task], error, setting, store)
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
            elif function is train_fit:
                group = waiting.pop(task.fit, [])
                if error:
                    _fail(group, error, setting, store)
                ready.extendleft((run_cells, t) for t in reversed(group) if not error)
            elif error:
                _fail([task], error, setting, store)
        watch.update()
    return lost


def _fail(tasks: Iterable[Task], error: BaseException, setting: Setting, store: Store) -> None:
    """Write a failed record for every cell of the tasks that has none yet."""
    for r in itertools.chain.from_iterable(task.runs for task in tasks):
        if (old := store.read_record(r.key)) is None or old["status"] == "failed":
            device = torch.device(setting.device)
            store.write_record(cell.identity(r) | provenance(r, device) | cell.failure(error))


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
