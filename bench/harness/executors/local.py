"""Workers on this machine: a pool of processes, or this very process for one job."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from ....methods import registry as methods
from ...results.store import MachineFault, logger
from ..interrupts import interrupted
from ..pool import WorkerPool
from ..provenance import class_of, machine, resolved_device
from ..tasks import Setting, Task
from .engine import Engine


class LocalEngine(Engine):
    """`jobs` processes on this machine, as many as there are cores by default."""

    def __init__(self, jobs: int | None = None, device: str = "auto"):
        self._jobs, self._device = jobs, device
        self._pool: WorkerPool | None = None
        self._size = 1
        self._is_startable = True

    def plan(self, cells: int) -> tuple[int, str]:
        """The jobs, and the device they share."""
        size = _size(self._jobs, cells)
        return size, f"{size} jobs on {resolved_device(self._device)}"

    def place(self, device: str) -> torch.device:
        """The device of this machine."""
        return resolved_device(device)

    def start(self, cells: int, told: Callable[[str], object]) -> None:
        """Processes start when there is a task for them."""
        self._size = _size(self._jobs, cells)
        if self._size > 1:
            self._pool = WorkerPool(self._size)

    def submit(self, function: Callable[..., Any], /, task: Task, setting: Setting) -> Future:
        """Have a process do it; the only job is done here and now, unless it is of a plug-in."""
        if self._size > 1 or (any(methods.is_of_plugin(r.method.name) for r in task.runs) and self._has_process()):
            assert self._pool is not None
            return self._pool.submit(function, task, setting)
        return _done(function, task, setting)

    def _has_process(self) -> bool:
        """Whether there is a process for plug-ins; a script without a main guard can have none.

        What plug-ins do can be kept from other methods in no other way.
        """
        if self._pool is None and self._is_startable:
            self._pool = WorkerPool(1)
            try:
                self._pool.submit(os.getpid).result()
            except MachineFault as error:
                logger.warning("plug-ins run in this process, where they may do harm: %s", error)
                self._pool, self._is_startable = None, False
        return self._pool is not None

    def window(self, wanted: int) -> int:
        """The jobs."""
        return self._size

    def takes(self, place: str | None) -> bool:
        """Whether this machine is of that class."""
        return place in (None, class_of(machine(resolved_device(self._device))))

    def close(self, at_once: bool) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=not at_once, cancel_futures=at_once)


def _size(jobs: int | None, cells: int) -> int:
    return min(jobs or os.cpu_count() or 1, max(1, cells))


def _done(function: Callable[..., Any], *args: Any) -> Future:
    """The future of a call that is over; an interrupt ends the run, and no task."""
    future: Future = Future()
    try:
        future.set_result(function(*args))
    except BaseException as error:
        if interrupted():
            raise
        future.set_exception(error)
    return future
