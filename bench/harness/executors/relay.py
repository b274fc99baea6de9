"""The task that a dask worker is given: have a process of its own do the work, and carry the answer back.

In that process nothing else runs: its one thread, its signals and its settings are those of a local worker, and so are
its results. It can die, be spoiled and be replaced without harm to dask's worker, and it ends with it, or at once when
nobody wants its answer any more. Bytes go both ways, so that dask's worker needs no torch and no plug-in.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as NotYet
from multiprocessing.util import Finalize
from pathlib import Path

from distributed import get_worker
from distributed.core import Status
from distributed.worker import Worker

from ...results.store import MachineFault
from ..calls import Answer, Seat
from ..pool import WorkerDied, WorkerPool

WATCH_SECONDS = 0.5
_pools: list[WorkerPool] = []


def relay(call: bytes, workers: Mapping[str, Sequence[str]]) -> Answer:
    """Do a packed call in a process of this worker's own; `workers` are those of each machine, in a fixed order.

    An answer in any case: what has to be raised is raised where it is read.
    """
    worker = get_worker()
    try:
        if worker.state.nthreads != 1:
            raise MachineFault(refusal(worker.address, worker.state.nthreads))
        pool = _pool()
        beside = workers.get(host_of(worker.address), ())
        rank = beside.index(worker.address) if worker.address in beside else 0
        pool.seat = Seat(max(1, len(beside)), rank)
        return _awaited(worker, pool, call)
    except WorkerDied as error:
        return Answer("error", pickle.dumps(WorkerDied(f"{error}, on {socket.gethostname()}{_log()}")))
    except MachineFault as error:
        return Answer("error", pickle.dumps(error))


def refusal(address: str, threads: int) -> str:
    """Why a worker with several threads is not taken."""
    return (
        f"the dask worker {address} has {threads} threads, among which torch's settings and GPUs cannot be kept apart: "
        "start workers with --nthreads 1, and more of them with --nworkers"
    )


def host_of(address: str) -> str:
    """The machine in the address of a worker."""
    return address.partition("://")[2].rpartition(":")[0]


def _pool() -> WorkerPool:
    """The one process of this worker. It is no daemon, as methods may have processes too; so neither is its parent."""
    if not _pools:
        multiprocessing.current_process()._config["daemon"] = False  # pyright: ignore[reportAttributeAccessIssue]
        _pools.append(WorkerPool(1))
        Finalize(None, _end, exitpriority=100)
    return _pools[0]


def _end() -> None:
    while _pools:
        _pools.pop().shutdown(wait=False)


def _awaited(worker: Worker, pool: WorkerPool, call: bytes) -> Answer:
    key, answer = worker.get_current_task(), pool.relay(call)
    while True:
        try:
            return answer.result(WATCH_SECONDS)
        except NotYet:
            task = worker.state.tasks.get(key)
            if task is None or task.state in ("cancelled", "resumed") or worker.status not in _AT_WORK:
                _end()
                raise MachineFault("nobody wants this task any more") from None


_AT_WORK = (Status.running, Status.paused, Status.init)


def _log() -> str:
    """Where this worker says what happens, if that is a file."""
    try:
        path = Path(os.readlink("/proc/self/fd/2"))
    except OSError:
        return ""
    return f"; its log is {path}" if path.is_file() else ""
