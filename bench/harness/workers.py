"""Workers: the processes that train and prune, and the two kinds of tasks they are given.

Tasks go through the standard `concurrent.futures.Executor`; whatever implements it can run a matrix, as long
as it reaches the results folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ...datasets.data import Data
from ...datasets.errors import UsageError
from ...datasets.load import load
from ...methods import registry as methods
from ..results.store import Store
from ..spec.run import Choice, Run
from ..training.fits import fitted
from . import cell
from .provenance import repeatable
from .workbench import Workbench

WATCH_SECONDS = 0.5


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


def train_fit(runs: list[Run], setting: Setting) -> None:
    """Task: train, or find in the store, the network that these cells share."""
    device = torch.device(setting.device)
    with repeatable(runs[0], device):
        fitted(runs[0], data_of(runs[0], setting.device), Store(setting.folder), device)


def run_cells(runs: list[Run], setting: Setting) -> None:
    """Task: all cells of one method on one fit."""
    store, device = Store(setting.folder), torch.device(setting.device)
    with repeatable(runs[0], device):
        bench = Workbench(runs[0], data_of(runs[0], setting.device), store, device)
        for r in runs:
            cell.execute(r, bench, store)


def data_of(r: Run, device: str = "cpu") -> Data:
    """The data of a cell, kept in memory for the next cell that asks for it."""
    return _cached_data(r.dataset.model_dump_json(), r.seed, device)  # a Choice holds a dict, which has no hash


@lru_cache(maxsize=2)
def _cached_data(choice: str, seed: int, device: str) -> Data:
    dataset = Choice.model_validate_json(choice)
    return load(dataset.name, seed, **dataset.options).to(device)


def local_executor(jobs: int, setting: Setting) -> Executor:
    """Worker processes on this machine, or this process for one job; raises UsageError if none can start."""
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
        pause.wait(WATCH_SECONDS)
    os._exit(1)


@contextmanager
def closing(executor: Executor) -> Iterator[Executor]:
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
