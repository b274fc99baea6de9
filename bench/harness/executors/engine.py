"""What the scheduling knows of whatever runs its tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from typing import Any

import torch

from ....datasets.errors import one_line
from ..provenance import named_device


class Engine(ABC):
    """Workers, wherever they are. Made without a cost; `start` brings them up, `close` ends what it has started.

    Attributes:
        patience: seconds after which workers of another class of machine may still join.
        is_open: whether `start` has been called, and `close` has not.
    """

    patience: float = 0.0
    is_open = False

    @abstractmethod
    def plan(self, cells: int) -> tuple[int | None, str]:
        """How many workers there would be for so many cells, None if only time tells; and that in words."""

    def script(self) -> str:
        """What is submitted to have a worker, where something is."""
        return ""

    def check(self) -> None:  # noqa: B027  (what is on this machine needs no check)
        """Raise UsageError, before anything is written, where no worker can come."""

    def place(self, device: str) -> torch.device | None:
        """The device, where all workers have that of this machine; None where each finds its own.

        Raises UsageError for one that is not there, or that no machine has.
        """
        named_device(device)
        return None

    @abstractmethod
    def start(self, cells: int, told: Callable[[str], object]) -> None:
        """Bring the workers up for so many cells; `told` hears what the user should know."""

    @abstractmethod
    def submit(self, function: Callable[..., Any], /, task: Any, setting: Any) -> Future:
        """Have a worker do the task; raises BrokenExecutor where all workers have to be replaced first."""

    @abstractmethod
    def window(self, wanted: int) -> int:
        """How many tasks can be worked on at once, now; 0 while no worker is there, though so many are wanted."""

    def takes(self, place: str | None) -> bool:
        """Whether there is a worker of this class of machine; None is any."""
        return place is None

    def death(self, error: BaseException) -> str | None:
        """How the worker died, for an error that says so; None for an error of the task."""
        return one_line(error) if isinstance(error, BrokenExecutor) else None

    def gone(self) -> str:
        """What to tell the user when tasks are cancelled that nobody here has cancelled."""
        return "the executor has cancelled tasks of its own; finished cells are safe, run the same command again"

    def renew(self) -> None:  # noqa: B027  (most need no renewal)
        """Replace workers that are broken as a whole."""

    @abstractmethod
    def close(self, at_once: bool) -> None:
        """End whatever was started; `at_once` without waiting for tasks that run, of which none goes on."""


@contextmanager
def closing(engine: Engine, cells: int, told: Callable[[str], object]) -> Iterator[None]:
    """Workers for the block; when it is interrupted they end at once, also while they start."""
    try:
        engine.start(cells, told)
        yield
    except BaseException:
        engine.close(at_once=True)
        raise
    engine.close(at_once=False)
