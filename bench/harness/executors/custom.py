"""Any `concurrent.futures.Executor` of the user's own."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from ....datasets.errors import UsageError
from .engine import Engine


class CustomEngine(Engine):
    """What a function of the user's returns; called again for a new one when the last is broken.

    The executor must run tasks in processes that reach the results folder. How many at once is said by the executor
    (`_max_workers`, as those of the standard library have it) or else by `jobs`.
    """

    def __init__(self, make: Callable[[], Executor], jobs: int | None = None):
        self._make, self._jobs = make, jobs
        self._executor: Executor | None = None

    def plan(self, cells: int) -> tuple[int | None, str]:
        """What the user's function returns is not asked before it is needed."""
        return self._jobs, "on an executor of your own"

    def start(self, cells: int, told: Callable[[str], object]) -> None:
        """Make the executor; raises UsageError for what is none, or has threads for workers, which share settings."""
        self._executor = self._made()

    def _made(self) -> Executor:
        executor = self._make()
        threads = isinstance(executor, ThreadPoolExecutor) and executor._max_workers > 1
        if threads or not isinstance(executor, Executor):
            raise UsageError(
                f"the executor is {type(executor).__name__}, which will not do: return one whose workers are "
                "processes, such as concurrent.futures.ProcessPoolExecutor"
            )
        return executor

    def submit(self, function: Callable[..., Any], /, task: Any, setting: Any) -> Future:
        """As the executor does it."""
        assert self._executor is not None
        return self._executor.submit(function, task, setting)

    def window(self, wanted: int) -> int:
        """What the executor says of itself, and no more than `jobs`."""
        own = getattr(self._executor, "_max_workers", None) or self._jobs or os.cpu_count() or 1
        return min(own, self._jobs or own)

    def renew(self) -> None:
        """Another executor in the place of the broken one."""
        self.close(at_once=True)
        self._executor = self._made()

    def close(self, at_once: bool) -> None:
        """Shut it down, as far as it understands that."""
        if self._executor is not None:
            shut_down(self._executor, at_once)
            self._executor = None


def shut_down(executor: Executor, at_once: bool) -> None:
    """Shut an executor down; those of other libraries have their own ideas of how that is called."""
    known = inspect.signature(executor.shutdown).parameters
    wanted = {"wait": not at_once, "cancel_futures": at_once}
    executor.shutdown(**{name: value for name, value in wanted.items() if name in known})
