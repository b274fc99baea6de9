"""Calls and answers as bytes, which whoever carries them need not understand. Never imports torch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class RemoteError(RuntimeError):
    """An error of a task that cannot travel itself."""


@dataclass(frozen=True)
class Seat:
    """The place of a worker on its machine.

    Attributes:
        workers: on this machine, of this pool and others.
        rank: the number of this one, from 0, where each is to have a GPU of its own; None where all share one.
    """

    workers: int = 1
    rank: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a task gave, as bytes that only who asked for it needs to read."""

    kind: str
    content: bytes

    def value(self) -> Any:
        """What the task returned; its error is raised here."""
        value = pickle.loads(self.content)  # noqa: S301  (from a process of ours)
        if self.kind.endswith("error"):
            raise value
        return value


def packed(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    """A call as bytes, which `WorkerPool.relay` takes."""
    return pickle.dumps((fn, args, kwargs))
