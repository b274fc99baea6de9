"""A pool of worker processes, each of which may die without harm to the others. Never imports torch.

A worker that ends, of itself, by a signal or because a method spoiled it, costs the task that it was at; the next task
finds a fresh one. What the worker does is in `serving`.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

from ..results.store import MachineFault
from .calls import Answer, RemoteError, Seat, packed
from .interrupts import interrupts_blocked

__all__ = ["RemoteError", "WorkerDied", "WorkerPool"]

PATIENCE_SECONDS = 2  # between asking a process to end and ending it
STARTS = 5  # tries to start a worker that somebody kills meanwhile
_SPAWN = multiprocessing.get_context("spawn")


class WorkerDied(BrokenExecutor):
    """The process ended in the middle of a task."""


class WorkerPool(Executor):
    """At most `jobs` processes, started when there is work for them. Raises MachineFault where none can start.

    Attributes:
        seat: what its workers are told of their place on this machine.
    """

    def __init__(self, jobs: int):
        self.seat = Seat(jobs)
        self._threads = ThreadPoolExecutor(jobs, "bayesprune-pool")
        self._slots: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._all: set[_Worker] = set()
        self._stopping = False
        for _ in range(jobs):
            self._slots.put(None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run a function of a module in a worker; the future raises WorkerDied if the worker does not survive it."""
        return self._threads.submit(lambda: self._run(packed(fn, *args, **kwargs)).value())

    def relay(self, call: bytes) -> Future[Answer]:
        """Run a packed call; what it gives, or raises, comes back packed too."""
        return self._threads.submit(self._run, call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; without `wait` at once, whatever they are doing."""
        self._stopping = True
        if not wait:
            self._end_all()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        self._end_all()

    def _end_all(self) -> None:
        for worker in list(self._all):
            worker.end()
        self._all.clear()

    def _run(self, call: bytes) -> Answer:
        worker = self._slots.get()
        try:
            if worker is None or not worker.is_alive():
                worker = self._started()
            return worker.ask(call, self.seat)
        finally:
            if worker is not None and not worker.is_alive():
                self._all.discard(worker)
                worker.end()
                worker = None
            self._slots.put(worker)

    def _started(self) -> _Worker:
        """A worker that is ready; one that is killed on its way is replaced."""
        for _ in range(STARTS):
            if self._stopping:
                break
            worker = _Worker()
            self._all.add(worker)
            if worker.is_ready():
                return worker
            self._all.discard(worker)
            if (worker.process.exitcode or 0) > 0:
                break
        raise MachineFault(
            "worker processes cannot start; in a script, call run() under `if __name__ == '__main__':`, or use jobs=1"
        )


class _Worker:
    """One process, and the pipe through which it gets tasks and gives answers."""

    def __init__(self) -> None:
        self._pipe, other = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(other, os.getpid()), name="bayesprune worker")
        with interrupts_blocked():
            self.process.start()
        other.close()

    def is_ready(self) -> bool:
        """Wait for the process to be ready; False if it ends before."""
        try:
            return self._answer().kind == "ready"
        except WorkerDied:
            return False

    def is_alive(self) -> bool:
        """Whether the process can take a task."""
        return self.process.is_alive() and not self._pipe.closed and not self._pipe.poll()

    def ask(self, call: bytes, seat: Seat) -> Answer:
        """What the call gives there; raises WorkerDied if there is no answer."""
        try:
            self._pipe.send((seat, call))
        except OSError as error:
            raise WorkerDied(self._end()) from error
        answer = self._answer()
        if answer.kind.startswith("last"):  # the worker is spoiled, and ends
            self.process.join(PATIENCE_SECONDS)
        return answer

    def _answer(self) -> Answer:
        wait([self._pipe, self.process.sentinel])
        try:
            if self._pipe.poll():
                return Answer(*self._pipe.recv())
        except (EOFError, OSError):
            pass
        raise WorkerDied(self._end())

    def _end(self) -> str:
        """How the process ended."""
        self.process.join(PATIENCE_SECONDS)
        code = self.process.exitcode
        if code is None:
            return "it does not answer"
        if code >= 0:
            return f"it ended with exit code {code}"
        known = -code in list(signal.Signals)
        why = "; perhaps out of memory" if code == -signal.SIGKILL else ""
        return f"it was ended by {signal.Signals(-code).name if known else f'signal {-code}'}{why}"

    def end(self) -> None:
        """End the process; the pipe is closed last, as another thread may be waiting at it."""
        self.process.terminate()
        self.process.join(PATIENCE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._pipe.close()


def _serve(pipe: Connection, parent: int) -> None:
    """The life of a worker; what it needs is imported there alone."""
    from .serving import serve

    serve(pipe, parent)
