"""Clusters of dask: processes on this machine, and one that is running already."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

import torch
from dask import config
from distributed import Client, Nanny, Scheduler, SpecCluster

from ....datasets.errors import UsageError
from ..provenance import named_device, resolved_device

CONNECT_SECONDS = 30
# A worker has one task, which nobody moves to another, and that takes as long as it takes.
SCHEDULER = {
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.unknown-task-duration": "1h",
}


class Cluster(ABC):
    """Where dask's workers are: what connects to them, brings them up, and ends them.

    Attributes:
        name: as messages call it.
    """

    name: str

    @abstractmethod
    def plan(self, cells: int) -> tuple[int | None, str]:
        """How many workers there would be, None if only time tells; and that in words."""

    @abstractmethod
    def check(self, device: str) -> None:
        """Raise UsageError for what cannot be, before anything is written."""

    @abstractmethod
    def connect(self, cells: int) -> Client:
        """A client of it; for a cluster of this run, after it was brought up."""

    def tend(self) -> None:  # noqa: B027  (most look after themselves)
        """Replace what has ended, now and then."""

    def on_demand(self) -> int:
        """Workers that come when there is work for them."""
        return 0

    def advice(self) -> str:
        """Where to look when no worker comes."""
        return "start some with `dask worker`"

    def log_of(self, worker: object) -> str:
        """Where the log of a worker is, in words that follow its name; nothing where nobody knows."""
        return ""

    def close(self) -> None:  # noqa: B027  (a cluster that was there before stays)
        """End what was brought up."""


class Own(Cluster):
    """A cluster that begins and ends with the run."""

    _cluster: SpecCluster | None = None

    def close(self) -> None:
        """End all of it; workers that do not hear are killed."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            with suppress(Exception):
                cluster.close()


class LocalWorkers(Own):
    """`jobs` processes on this machine, one for each GPU by default, or else for each core."""

    name = "of this run"

    def __init__(self, jobs: int | None, device: str):
        self._jobs, self._device = jobs, device

    def _size(self, cells: int) -> int:
        most = self._jobs or (torch.cuda.device_count() if self._is_gpu() else os.cpu_count()) or 1
        return min(most, max(1, cells))

    def _is_gpu(self) -> bool:
        return resolved_device(self._device).type == "cuda"

    def plan(self, cells: int) -> tuple[int, str]:
        """As many as are started."""
        size = self._size(cells)
        return size, f"{size} dask workers on this machine, {'one GPU each' if self._is_gpu() else 'on cpu'}"

    def check(self, device: str) -> None:
        """Every worker sees the one GPU that it has."""
        resolved_device(device)
        if (named := named_device(device)) is not None and named.index is not None:
            raise UsageError(f"device {device!r}: each worker has a GPU of its own; give --device {named.type}")

    def connect(self, cells: int) -> Client:
        """Start scheduler and workers."""
        workers = {i: _worker() for i in range(self._size(cells))}
        options: dict[str, Any] = {"host": "127.0.0.1", "dashboard": True, "dashboard_address": ":0"}
        with config.set(SCHEDULER):
            quiet: Any = logging.ERROR
            self._cluster = SpecCluster(workers, {"cls": Scheduler, "options": options}, silence_logs=quiet)
        return Client(self._cluster, timeout=CONNECT_SECONDS, set_as_default=False)


def _worker() -> dict[str, Any]:
    options = {
        "nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False, "silence_logs": logging.ERROR,
    }  # fmt: skip
    return {"cls": Nanny, "options": options}


class Running(Cluster):
    """A scheduler that is running; what it has of workers is used."""

    def __init__(self, address: str):
        host, colon, port = address.partition("://")[2].rpartition(":")
        if not (host and colon and port.isdecimal()):
            raise UsageError(
                f"executor {address!r} is not an address; give dask://HOST:PORT, such as dask://login1:8786"
            )
        self.name, self._address, self._place = f"at {host}:{port}", address, (host, int(port))

    def plan(self, cells: int) -> tuple[None, str]:
        """Nobody is asked before there is work."""
        return None, f"on the dask cluster {self.name}"

    def check(self, device: str) -> None:
        """Whether anybody is there."""
        try:
            socket.create_connection(self._place, CONNECT_SECONDS).close()
        except OSError as error:
            what = f"no dask scheduler answers {self.name} ({error.strerror or error})"
            raise UsageError(f"{what}; start one with `dask scheduler`") from error

    def connect(self, cells: int) -> Client:
        """Connect to it."""
        return Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
