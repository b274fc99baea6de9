"""Scheduling: a fit, then the cells that need it; dying workers and interrupts leave nothing behind.

The cells of a network come before the next network is trained, so that an interrupted run has rows to report. A task
whose worker died is tried once more when all others are done, with nothing beside it; if its worker dies again, its
cells have failed.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field, replace

import torch

from ..results.store import MachineFault, Store, logger
from ..spec.run import Run
from . import cell
from .arrivals import Arrivals
from .executors.engine import Engine, closing
from .provenance import provenance
from .tasks import Fitted, Setting, Task, Worked
from .workers import Function, run_cells, train_fit

POLL_SECONDS = 0.5
MAX_CRASHES = 2
MAX_LOSSES = 2
PLACE_SECONDS = 300.0  # how long pinned cells wait for a worker of their class, when there is nothing else to do
Job = tuple[Function, Task]


@dataclass
class Schedule:
    """The tasks of a run, and what has become of them so far.

    Attributes:
        place: the device that records written here name; None where only workers know theirs.
        pin: whether cells stay with the class of machine that made their fit.
        waiting: tasks, by the fit that has to be there first.
        ready, suspects: what can be worked off; the latter have lost a worker.
    """

    engine: Engine
    setting: Setting
    store: Store
    arrivals: Arrivals
    place: torch.device | None
    pin: bool = False
    waiting: dict[str, list[Task]] = field(default_factory=dict)
    ready: deque[Job] = field(default_factory=deque)
    suspects: deque[Job] = field(default_factory=deque)
    _cells: dict[str, tuple[str, Run]] = field(default_factory=dict)
    _running: dict[Future, Job] = field(default_factory=dict)
    _lost: dict[str, int] = field(default_factory=dict)
    _idle_since: float | None = None

    def work_off(self, tasks: Iterable[Task]) -> None:
        """Run each fit, then the tasks that need it.

        Raises MachineFault as soon as the machine, and no method, is at fault; every task ends with this call.
        """
        for task in tasks:
            self.waiting.setdefault(task.fit, []).append(task)
            self._cells |= {r.key: (task.fit, r) for r in task.runs}
        self.ready.extend((train_fit, _training(group)) for group in self.waiting.values())
        if not self.ready:
            return
        with closing(self.engine, len(self._cells), logger.warning):
            while self.ready or self.suspects:
                if self.ready:
                    self._drain(self.ready)
                else:  # one by one, with nothing beside it that could be at fault
                    self._drain(self.suspects, most=1)
        self.arrivals.update()

    def _drain(self, source: deque[Job], most: int | None = None) -> None:
        """Feed the engine from `source`, as many tasks at a time as it has workers for; wait for the last of them."""
        is_broken = False
        while True:
            is_broken = is_broken or not self._feed(source, most)
            if not self._running and not self.arrivals.are_awaited() and (is_broken or not source):
                break
            self._wait([] if is_broken else [task.place for _, task in source])
            self.arrivals.update()
            self._seek(self.arrivals.lost())
        if is_broken:
            self.engine.renew()

    def _feed(self, source: deque[Job], most: int | None) -> bool:
        """Submit what can be taken now; False if the executor is broken, and has to be replaced."""
        window = self.engine.window(len(self._running) + len(source))
        while len(self._running) < (window if most is None else min(window, most)):
            at = next((i for i, (_, task) in enumerate(source) if self.engine.takes(task.place)), None)
            if at is None:
                break
            function, task = source[at]
            try:
                future = self.engine.submit(function, task, self.setting)
            except BrokenExecutor:
                return False
            del source[at]
            self._running[future] = (function, task)
        return True

    def _wait(self, places: Sequence[str | None]) -> None:
        """Until a task ends, but no longer than it takes to notice what else has changed."""
        if not self._running:
            threading.Event().wait(POLL_SECONDS)
            self._refuse_to_wait_forever(places)
            return
        self._idle_since = None
        finished, _ = wait(self._running, POLL_SECONDS, FIRST_COMPLETED)
        for future in finished:
            self._end(*self._running.pop(future), future)

    def _refuse_to_wait_forever(self, places: Sequence[str | None]) -> None:
        """Workers are there, and none of the class that the rest is pinned to."""
        absent = sorted({place for place in places if place and not self.engine.takes(place)})
        if not absent or len(absent) < len(set(places)) or not self.engine.window(len(places)):
            self._idle_since = None
            return
        self._idle_since = self._idle_since or time.monotonic()
        if time.monotonic() - self._idle_since >= min(PLACE_SECONDS, self.engine.patience):
            raise MachineFault(
                f"no worker is {' or '.join(absent)}, where the networks of the cells that are left were trained: run "
                "the same command where there is one, or without --pin"
            )

    def _end(self, function: Function, task: Task, future: Future) -> None:
        """What becomes of a task that has ended."""
        if future.cancelled():
            raise MachineFault(self.engine.gone())
        error = future.exception()
        if isinstance(error, MachineFault):
            raise error
        if error is not None and (death := self.engine.death(error)):
            self._crashed(function, task, death)
        elif error is not None:
            self._failed(function, task, error)
        elif isinstance(done := future.result(), Fitted):
            place = done.place if self.pin else None
            group = [replace(t, made=done.checksum, place=place) for t in self.waiting.pop(task.fit, [])]
            self.ready.extendleft((run_cells, t) for t in reversed(group))
        elif isinstance(done, Worked):
            self.arrivals.announce(done.checksums)
            if done.rest:
                self.ready.appendleft((run_cells, replace(task, runs=done.rest, crashes=0)))

    def _crashed(self, function: Function, task: Task, death: str) -> None:
        self.arrivals.update()
        if function is run_cells:  # those that have a record by now are innocent, and it was another that died before
            left = [r for r in task.runs if r.key in self.arrivals.missing]
            task.crashes = task.crashes if len(left) == len(task.runs) else 0
            task.runs = left
        task.crashes += 1
        if not task.runs:
            return
        if task.crashes < MAX_CRASHES:
            self.suspects.append((function, task))
        else:
            self._failed(function, task, RuntimeError(f"the worker process died twice in this task: {death}"))

    def _failed(self, function: Function, task: Task, error: BaseException) -> None:
        if function is train_fit:
            self.ready.extendleft(self._without_fit(task, error))
        else:
            self._fail([task], error)

    def _without_fit(self, task: Task, error: BaseException) -> list[Job]:
        """A fit has failed: its cells have too, or, if it was a plug-in that failed, others of the group try it."""
        group, name = self.waiting.pop(task.fit, []), task.runs[0].method
        own = "method" in task.runs[0].sources
        guilty = [t for t in group if not own or t.runs[0].method == name]
        self._fail(guilty, error)
        if not (rest := [t for t in group if t not in guilty]):
            return []
        self.waiting[task.fit] = rest
        return [(train_fit, _training(rest))]

    def _fail(self, tasks: Iterable[Task], error: BaseException) -> None:
        """Write a failed record for every cell of the tasks that has none yet."""
        for r in itertools.chain.from_iterable(task.runs for task in tasks):
            if (old := self.store.read_record(r.key)) is None or old["status"] == "failed":
                self.store.write_record(cell.identity(r) | provenance(r, self.place) | cell.outcome_of(error))

    def _seek(self, keys: Sequence[str]) -> None:
        """Records that a worker has written and nobody sees here are computed again, once."""
        for key in keys:
            self._lost[key] = self._lost.get(key, 0) + 1
            if self._lost[key] >= MAX_LOSSES:
                raise MachineFault(
                    f"records that workers have written do not appear in {self.store.folder}: choose an --out on a "
                    "file system that all machines share"
                )
            fit, r = self._cells[key]
            self.ready.append((run_cells, Task(fit, [r])))


def _training(group: list[Task]) -> Task:
    """The training that a group shares, in the name of a method that comes with the package, if there is one.

    So the code of a plug-in, which may do anything, is not run in the name of others.
    """
    return Task(group[0].fit, min(group, key=lambda task: "method" in task.runs[0].sources).runs[:1])
