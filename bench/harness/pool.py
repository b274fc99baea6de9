"""A pool of worker processes, each of which may die without harm to the others.

A worker that ends, of itself, by a signal or because a method spoiled it, costs the task that it was at; the next task
finds a fresh one.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ...datasets.errors import one_line
from ...methods import registry as methods
from ..isolation.isolated import spoiled
from ..results.store import MachineFault

WATCH_SECONDS = 0.5
PATIENCE_SECONDS = 2  # between asking a process to end and ending it
STARTS = 5  # tries to start a worker that somebody kills meanwhile
Plugins = tuple[tuple[str, bytes], ...]
_SPAWN = multiprocessing.get_context("spawn")


class WorkerDied(BrokenExecutor):
    """The process ended in the middle of a task."""


class RemoteError(RuntimeError):
    """An error of a task that cannot travel itself."""


class WorkerPool(Executor):
    """At most `jobs` processes, started when there is work for them. Raises MachineFault where none can start."""

    def __init__(self, jobs: int, plugins: Plugins = ()):
        self._plugins = plugins
        self._threads = ThreadPoolExecutor(jobs, "bayesprune-pool")
        self._slots: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._all: set[_Worker] = set()
        self._stopping = False
        for _ in range(jobs):
            self._slots.put(None)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run a function of a module in a worker; the future raises WorkerDied if the worker does not survive it."""
        return self._threads.submit(self._run, fn, args, kwargs)

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

    def _run(self, fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        worker = self._slots.get()
        try:
            if worker is None or not worker.is_alive():
                worker = self._started()
            return worker.call(fn, args, kwargs)
        finally:
            if worker is not None and not worker.is_alive():
                self._all.discard(worker)
                worker.end()
                worker = None
            self._slots.put(worker)

    def _started(self) -> _Worker:
        """A worker that is ready; one that is killed on its way is replaced."""
        for _ in range(STARTS):
            worker = _Worker(self._plugins)
            self._all.add(worker)
            if worker.is_ready():
                return worker
            self._all.discard(worker)
            if self._stopping or (worker.process.exitcode or 0) > 0:
                break
        raise MachineFault(
            "worker processes cannot start; in a script, call run() under `if __name__ == '__main__':`, or use jobs=1"
        )


class _Worker:
    """One process, and the pipe through which it gets tasks and gives answers."""

    def __init__(self, plugins: Plugins):
        self._pipe, other = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(other, os.getpid(), plugins), name="bayesprune worker")
        self.process.start()
        other.close()

    def is_ready(self) -> bool:
        """Wait for the process to be ready; False if it ends before."""
        try:
            return self._answer()[0] == "ready"
        except WorkerDied:
            return False

    def is_alive(self) -> bool:
        """Whether the process can take a task."""
        return self.process.is_alive() and not self._pipe.closed and not self._pipe.poll()

    def call(self, fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the function gives there; its error is raised here, and WorkerDied if there is no answer."""
        try:
            self._pipe.send((fn, args, kwargs))
        except OSError as error:
            raise WorkerDied(self._end()) from error
        kind, value = self._answer()
        if kind.startswith("last"):  # the worker is spoiled, and ends
            self.process.join(PATIENCE_SECONDS)
        if kind.endswith("error"):
            raise value
        return value

    def _answer(self) -> tuple[str, Any]:
        wait([self._pipe, self.process.sentinel])
        try:
            if self._pipe.poll():
                return pickle.loads(self._pipe.recv_bytes())  # noqa: S301  (from a process of ours)
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


def _serve(pipe: Connection, parent: int, plugins: Plugins) -> None:
    """The life of a worker: it leaves Ctrl-C to its parent, and ends when the parent has died, even by SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    for path, source in plugins:
        methods.load_plugin(path, source)
    pipe.send_bytes(pickle.dumps(("ready", None)))
    while not spoiled():
        try:
            fn, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        kind, value = _outcome(fn, args, kwargs)
        pipe.send_bytes(_packed(f"last {kind}" if spoiled() else kind, value))
    os._exit(0)  # whatever was left running


def _outcome(fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", fn(*args, **kwargs)
    except BaseException as error:  # no way out of a method is a way out of its worker
        return "error", error


def _packed(kind: str, value: Any) -> bytes:
    """The answer as bytes that the parent can read; errors of classes that it lacks are told in words."""
    try:
        content = pickle.dumps((kind, value))
        pickle.loads(content)  # noqa: S301
        return content
    except BaseException as problem:
        told = value if isinstance(value, BaseException) else problem
        return pickle.dumps((kind.replace("value", "error"), RemoteError(one_line(told))))


def _end_with(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(WATCH_SECONDS)
    os._exit(1)
