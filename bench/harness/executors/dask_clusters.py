"""Clusters of dask: processes on this machine, and one that is running already."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.utils import LoopRunner

from ....datasets.errors import UsageError
from ..interrupts import interrupts_blocked, interrupts_deferred
from ..provenance import named_device, resolved_device

CONNECT_SECONDS = 10
CLOSING_SECONDS = 20
# Of a worker on this machine; it holds no data worth a limit, as the work is done in a process of its own.
WORKER = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False, "silence_logs": logging.CRITICAL}


class Cluster(ABC):
    """Where dask's workers are: what connects to them, brings them up, and ends them.

    Attributes:
        name: as messages call it.
        client: what is connected to it, once it is open.
    """

    name: str
    client: Client | None = None

    def open(self, cells: int) -> Client:
        """Connect, and have workers for so many cells. Ctrl-C leaves no client half made, which could not be closed."""
        with interrupts_deferred():
            self.client = self.connect()
        self.populate(cells)
        return self.client

    @abstractmethod
    def plan(self, cells: int) -> tuple[int | None, str]:
        """How many workers there would be, None if only time tells; and that in words."""

    def script(self) -> str:
        """What is submitted to have a worker, where something is."""
        return ""

    def check(self) -> None:  # noqa: B027  (what is begun by this run is there)
        """Raise UsageError where the cluster cannot be reached."""

    def check_device(self, device: str) -> None:  # noqa: B027  (only a worker knows)
        """Raise UsageError for a device that no worker will have."""

    @abstractmethod
    def connect(self) -> Client:
        """A client of it; of a cluster of this run, after its scheduler was started."""

    def populate(self, cells: int) -> None:  # noqa: B027  (others have their workers)
        """Bring workers up."""

    def tend(self, wanted: int, idle: Sequence[str]) -> None:  # noqa: B027  (most look after themselves)
        """Replace what has ended, as so many workers are wanted; the names of idle ones."""

    def advice(self) -> str:
        """Where to look when no worker comes."""
        return "start some with `dask worker`"

    def log_of(self, worker: object) -> str:
        """Where the log of a worker is, in words that follow its name; nothing where nobody knows."""
        return ""

    def close(self) -> None:
        """End what was brought up; a cluster that was there before stays."""
        client, self.client = self.client, None
        with suppress(Exception):  # of a cluster that may be gone
            if client is not None:
                client.close(CLOSING_SECONDS)


class Own(Cluster):
    """A cluster that begins and ends with the run; `make` gives it without workers, which `scale` brings."""

    def __init__(self) -> None:
        self._runner: LoopRunner | None = None
        self._cluster: SpecCluster | None = None

    @abstractmethod
    def make(self, loop: Any) -> SpecCluster:
        """The scheduler, in this process."""

    def connect(self) -> Client:
        """Start the scheduler. Ctrl-C is for this process alone, and not for what it starts."""
        self._runner = LoopRunner()
        with interrupts_blocked():
            self._runner.start()
        self._cluster = self.make(self._runner.loop)
        return Client(self._cluster, timeout=CONNECT_SECONDS, set_as_default=False)

    def scale(self, number: int) -> None:
        """Have at least so many processes, or jobs, those that ended replaced.

        Raises RuntimeError for what is refused, which dask's own `scale` would only log.
        """
        cluster = self._cluster
        assert cluster is not None
        while len(cluster.worker_spec) < number:
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(cluster._correct_state)

    def close(self) -> None:
        """End all of it; workers that do not hear are killed."""
        super().close()
        cluster, self._cluster = self._cluster, None
        runner, self._runner = self._runner, None
        with suppress(Exception):
            if cluster is not None:
                cluster.close()
        with suppress(Exception):
            if runner is not None:
                runner.stop()


class LocalWorkers(Own):
    """`jobs` processes on this machine, one for each GPU by default, or else for each core."""

    name = "of this run"

    def __init__(self, jobs: int | None, device: str):
        super().__init__()
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

    def check_device(self, device: str) -> None:
        """Every worker sees the one GPU that it has."""
        resolved_device(device)
        if (named := named_device(device)) is not None and named.index is not None:
            raise UsageError(f"device {device!r}: each worker has a GPU of its own; give --device {named.type}")

    def make(self, loop: Any) -> SpecCluster:
        """A scheduler that only this machine hears."""
        quiet: Any = logging.ERROR
        options = {"host": "127.0.0.1", "dashboard": True, "dashboard_address": ":0"}
        return SpecCluster(
            {}, {"cls": Scheduler, "options": options}, {"cls": Nanny, "options": WORKER}, silence_logs=quiet, loop=loop
        )

    def populate(self, cells: int) -> None:
        """Start the workers."""
        self.scale(self._size(cells))


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

    def check(self) -> None:
        """Whether anybody is there."""
        try:
            socket.create_connection(self._place, CONNECT_SECONDS).close()
        except OSError as error:
            what = f"no dask scheduler answers {self.name} ({error.strerror or error})"
            raise UsageError(f"{what}; start one with `dask scheduler`") from error

    def connect(self) -> Client:
        """Connect to it."""
        return Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
