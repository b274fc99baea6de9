"""Workers of dask: one process on this machine, a cluster that is running, or jobs of a batch system.

dask runs a task again by itself when its worker has died, up to four times; what has killed them all comes back as
KilledWorker, and counts as one crash. All else that differs from one cluster to another is in `dask_clusters`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from distributed import Client, KilledWorker

from ....datasets.errors import UsageError, one_line
from ...results.store import MachineFault
from ..calls import Answer, packed
from ..provenance import class_of, machine, resolved_device
from ..tasks import Setting, Task
from .dask_clusters import Cluster
from .engine import Engine
from .relay import host_of, refusal, relay

REFRESH_SECONDS = 2.0
SILENCE_SECONDS = 60.0  # without a worker, until the user is told


@dataclass(eq=False)
class _Call:
    """A task that dask has, the future that the scheduling holds, and the machines it is confined to."""

    content: bytes
    place: str | None
    outer: Future = field(default_factory=Future)
    inner: Future | None = None
    hosts: frozenset[str] = frozenset()

    def settle(self, inner: Future) -> None:
        """Hand on what dask says, unless the call has been sent anew."""
        if inner is not self.inner or self.outer.done():
            return
        if inner.cancelled():
            self.outer.cancel()
            self.outer.set_running_or_notify_cancel()
        elif error := inner.exception():
            self.outer.set_exception(error)
        else:
            hand_over(inner.result(), self.outer)


class DaskEngine(Engine):
    """The workers of a cluster, at most `jobs` of them at once."""

    patience = 300.0

    def __init__(self, cluster: Cluster, jobs: int | None):
        self._cluster, self._jobs = cluster, jobs
        self._workers: dict[str, str] = {}
        self._classes: dict[str, Future] = {}
        self._calls: list[_Call] = []
        self._read = self._seen = 0.0
        self._told: Callable[[str], object] = print
        self._device = "auto"

    @property
    def _client(self) -> Client:
        assert self._cluster.client is not None
        return self._cluster.client

    def plan(self, cells: int) -> tuple[int | None, str]:
        """What the cluster says."""
        return self._cluster.plan(cells)

    def place(self, device: str) -> torch.device | None:
        """Each worker finds its own device."""
        self._device = device
        self._cluster.check_device(device)
        return super().place(device)

    def script(self) -> str:
        """The job, where the cluster is made of jobs."""
        return self._cluster.script()

    def check(self) -> None:
        """Whether the cluster can be reached, or jobs submitted."""
        self._cluster.check()

    def start(self, cells: int, told: Callable[[str], object]) -> None:
        """Bring the cluster up, or connect to it."""
        self._told, self._seen = told, time.monotonic()
        with self._reached():
            client = self._cluster.open(cells)
        if link := client.dashboard_link:
            told(f"dashboard: {link}")

    def submit(self, function: Callable[..., Any], /, task: Task, setting: Setting) -> Future:
        """Give it to dask, for workers of the class that it is to stay with."""
        call = _Call(packed(function, task, setting), task.place)
        self._send(call)
        self._calls = [c for c in self._calls if not c.outer.done()] + [call]
        return call.outer

    def _send(self, call: _Call) -> None:
        call.hosts = frozenset(self._hosts(call.place)) if call.place else frozenset()
        call.inner = self._sent(call.content, sorted(call.hosts) or None)
        call.inner.add_done_callback(call.settle)

    def _sent(self, content: bytes, workers: list[str] | None) -> Future:
        with self._reached():
            return self._client.get_executor(pure=False, workers=workers).submit(relay, content, seats(self._workers))

    def window(self) -> int:
        """The workers that there are now, or are to come when there is work."""
        if time.monotonic() - self._read >= REFRESH_SECONDS:
            self._refresh()
        there = max(len(self._workers), self._cluster.on_demand())
        return min(there, self._jobs or there)

    def _refresh(self) -> None:
        with self._reached():
            self._cluster.tend()
            self._workers = _named(self._client.scheduler_info()["workers"])
        self._read = time.monotonic()
        if self._workers:
            self._seen = self._read
        elif self._read - self._seen > SILENCE_SECONDS:
            self._seen = self._read + 9 * SILENCE_SECONDS
            self._told(f"no worker is there: {self._cluster.advice()}")
        here = set(map(host_of, self._workers))
        for call in self._calls:  # confined to machines that have left
            if call.hosts and not call.outer.done() and not call.hosts & here and self.takes(call.place):
                old = call.inner
                self._send(call)
                assert old is not None
                old.cancel()

    def takes(self, place: str | None) -> bool:
        """Whether a machine of that class is there; machines are asked when somebody wants to know."""
        return place is None or bool(self._hosts(place))

    def _hosts(self, place: str) -> set[str]:
        here = set(map(host_of, self._workers))
        for host in here - self._classes.keys():
            content = packed(class_here, self._device)
            self._classes[host] = self._sent(content, [host])
        answers = {h: f for h, f in self._classes.items() if h in here and f.done() and not f.cancelled()}
        return {h for h, f in answers.items() if f.exception() is None and f.result().value() == place}

    def death(self, error: BaseException) -> str | None:
        """A worker's own process has died, or so have the workers that dask tried."""
        if isinstance(error, KilledWorker):
            worker, tries = error.last_worker, error.allowed_failures + 1
            return f"{tries} dask workers died in it, the last at {worker.address}{self._cluster.log_of(worker.name)}"
        return super().death(error)

    def gone(self) -> str:
        """The scheduler does not answer, or has forgotten what it was given."""
        return (
            f"the dask scheduler {self._cluster.name} is gone; finished cells are safe, run the same command again "
            "when there is one"
        )

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except (OSError, TimeoutError, RuntimeError, CancelledError) as error:
            raise MachineFault(f"{self.gone()} ({one_line(error)})") from error

    def close(self, at_once: bool) -> None:
        """Take back what has not ended, then let go of the cluster, or end it if it is of this run."""
        with _hushed():
            with suppress(Exception):  # of a cluster that may be gone
                for call in self._calls:
                    if call.inner is not None and not call.inner.done():
                        call.inner.cancel()
            self._cluster.close()


@contextmanager
def _hushed() -> Iterator[None]:
    """What is broken off in the middle complains, and nobody needs to hear it."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _named(workers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The names of workers by address; raises MachineFault for one of several threads."""
    for address, told in workers.items():
        if told["nthreads"] != 1:
            raise MachineFault(refusal(address, told["nthreads"]))
    return {address: str(told["name"]) for address, told in workers.items()}


def seats(workers: Mapping[str, str]) -> dict[str, list[str]]:
    """The workers of each machine, by address, in the order of their names, which they keep when they start anew."""
    found: dict[str, list[str]] = {}
    for address in sorted(workers, key=lambda address: (len(workers[address]), workers[address])):
        found.setdefault(host_of(address), []).append(address)
    return found


def class_here(device: str) -> str | None:
    """The class of machine of the process that is asked."""
    return class_of(machine(resolved_device(device)))


def hand_over(answer: Answer, future: Future) -> None:
    """What an answer holds, as the outcome of a future."""
    try:
        future.set_result(answer.value())
    except BaseException as error:
        future.set_exception(error)
