"""Workers: what trains and prunes, and the two kinds of tasks it is given.

Tasks go through the standard `concurrent.futures.Executor`; whatever implements it can run a matrix, as long
as it reaches the results folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ...datasets import registry as datasets
from ...datasets.data import Data
from ...datasets.load import load
from ...datasets.seal import sealed
from ...methods import registry as methods
from ..isolation.isolated import Traces, isolated, spoiled, undone
from ..results.store import MachineFault, Store, logger
from ..spec.run import Choice, Run
from ..training.fits import fitted
from . import cell
from .interrupts import interrupted
from .pool import Plugins, WorkerPool
from .provenance import repeatable
from .workbench import Workbench


@dataclass(frozen=True)
class Setting:
    """What a worker needs to know beside its cells."""

    folder: Path
    device: str
    plugins: Plugins = ()


@dataclass(eq=False)
class Task:
    """Cells that one worker works off together, after the fit they share."""

    fit: str
    runs: list[Run]
    crashes: int = 0


class InlineExecutor(Executor):
    """The executor of one job: each task runs at once in this process.

    Only methods of plug-in files have a process of their own, as nothing else keeps what they do from the others.
    """

    def __init__(self, plugins: Plugins = ()):
        self._plugins = plugins
        self._pool: WorkerPool | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run the task now; the future that is returned is done."""
        if args and any(methods.is_of_plugin(r.method.name) for r in args[0]) and self._has_process():
            assert self._pool is not None
            return self._pool.submit(fn, *args, **kwargs)
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            if interrupted():
                raise
            future.set_exception(error)
        return future

    def _has_process(self) -> bool:
        """Whether there is a process for plug-ins; a script without a main guard can have none."""
        if self._plugins and self._pool is None:
            self._pool = WorkerPool(1, self._plugins)
            try:
                self._pool.submit(os.getpid).result()
            except MachineFault as error:
                logger.warning("plug-ins run in this process, where they may do harm: %s", error)
                self._pool, self._plugins = None, ()
        return self._pool is not None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process of plug-ins, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)


def train_fit(runs: list[Run], setting: Setting) -> None:
    """Task: train, or find in the store, the network that these cells share."""
    _refuse_if_spoiled()
    store, device = Store(setting.folder), torch.device(setting.device)
    data = frozen_data(runs[0], setting, store)
    traces = Traces()
    try:
        with repeatable(runs[0], device), isolated(data) as traces:
            fitted(runs[0], data, store, device)
    finally:
        if traces.data:
            forget_data()


def run_cells(runs: list[Run], setting: Setting) -> list[Run]:
    """Task: all cells of one method on one fit; returns those that a fresh process has to run."""
    _refuse_if_spoiled()
    store, device = Store(setting.folder), torch.device(setting.device)
    bench: Workbench | None = None
    with repeatable(runs[0], device):
        for i, r in enumerate(runs):
            if bench is None:
                data = frozen_data(runs[0], setting, store)
                with sealed(), isolated():
                    bench = Workbench(runs[0], data, store, device)
            traces = cell.execute(r, bench, store)
            if traces.data:
                forget_data()
            if traces:  # what the cells share was made when all was not as it should be
                bench = None
            if spoiled():
                return runs[i + 1 :]
    return []


def _refuse_if_spoiled() -> None:
    if what := spoiled():
        raise MachineFault(
            f"a method left {what} behind, which nothing can undo in this process: start it anew, and give methods of "
            "your own as --plugin FILE, which run in a process that can be replaced"
        )


def frozen_data(r: Run, setting: Setting, store: Store) -> Data:
    """The data of a cell; raises MachineFault if they are not those that the results in the folder are made of."""
    data = data_of(r, setting.device)
    if store.freeze_data(r.data_key, data.digest) != data.digest:
        raise MachineFault(_changed(r.dataset.label, f"that {store.folder} was begun with"))
    return data


def data_of(r: Run, device: str = "cpu") -> Data:
    """The data of a cell, kept in memory for the next cell that asks for it; raises MachineFault if they change."""
    return _cached_data(r.dataset.model_dump_json(), r.seed, device, r.sources.get("dataset"))


@lru_cache(maxsize=2)
def _cached_data(choice: str, seed: int, device: str, source: str | None) -> Data:
    dataset = Choice.model_validate_json(choice)  # a Choice holds a dict, which has no hash
    with undone() if source is not None else nullcontext():
        data = load(dataset.name, seed, **dataset.options).to(device)
    if datasets.source_digest(dataset.name) != source:
        raise MachineFault(_changed(dataset.label, "that this run was begun with"))
    return data


def _changed(label: str, which: str) -> str:
    return (
        f"the data of {label} are not those {which}: put them back and run the same command again, or choose another "
        "--out for the new ones"
    )


def forget_data() -> None:
    """Data that a method changed in place are loaded anew."""
    _cached_data.cache_clear()


def local_executor(jobs: int, setting: Setting) -> Executor:
    """Worker processes on this machine, or this process for one job."""
    return InlineExecutor(setting.plugins) if jobs == 1 else WorkerPool(jobs, setting.plugins)


@contextmanager
def closing(executor: Executor) -> Iterator[Executor]:
    """Shut the executor down; when interrupted, at once, without waiting for the tasks that run."""
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
