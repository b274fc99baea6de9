"""Workers of dask: one process on this machine, a cluster that is running, or jobs of a batch system.

Each worker has one task, which is sent to it alone, once its process is ready. When it has gone, another has the task;
four that have died with it count as one crash, those whose time was up do not. All else that differs from one cluster
to another is in `dask_clusters`.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from distributed import Client, KilledWorker

from ....datasets.errors import UsageError, one_line, text_of
from ...results.store import MachineFault
from ..calls import Answer, packed
from ..pool import WorkerDied
from ..provenance import class_of, machine, resolved_device
from ..tasks import Setting, Task
from .dask_clusters import Cluster
from .engine import Engine
from .relay import host_of, refusal, relay

REFRESH_SECONDS = 1.0
LOSSES = 4  # as dask itself counts
ASKS = 3
SILENCE_SECONDS = 60.0  # without a worker, until the user is told


@dataclass(eq=False)
class _Call:
    """A task that a worker of dask has, and the future that the scheduling holds."""

    content: bytes
    place: str | None
    outer: Future = field(default_factory=Future)
    inner: Future | None = None
    losses: int = 0
    homeless_since: float | None = None

    def settle(self, inner: Future) -> None:
        """Hand on what dask says, unless the call has been sent to another worker."""
        if inner is not self.inner or self.outer.done():
            return
        if inner.cancelled():
            self.outer.cancel()
            self.outer.set_running_or_notify_cancel()
        elif error := inner.exception():
            self.outer.set_exception(error)
        else:
            hand_over(inner.result(), self.outer)


@dataclass(eq=False)
class _Worker:
    """A worker of dask: its name, the question of what it is, and the task that it has."""

    name: str
    asked: Future | None = None
    asks: int = 0
    call: _Call | None = None

    def answer(self) -> Answer | None:
        """What it has answered; None while its process starts, or if it died at it."""
        done = self.asked is not None and self.asked.done() and not self.asked.cancelled()
        return self.asked.result() if done and self.asked and not self.asked.exception() else None

    def is_ready(self) -> bool:
        """Whether its process has answered: one that is still starting, or dies at it, is given no task."""
        return (answer := self.answer()) is not None and answer.kind == "value"

    def place(self) -> str | None:
        """The class of machine that it is."""
        return answer.value() if (answer := self.answer()) else None

    def is_idle(self) -> bool:
        """Whether it can take a task."""
        return self.is_ready() and (self.call is None or self.call.outer.done())


class DaskEngine(Engine):
    """The workers of a cluster, at most `jobs` of them at once, each with one task that is chosen here."""

    patience = 300.0

    def __init__(self, cluster: Cluster, jobs: int | None):
        self._cluster, self._jobs = cluster, jobs
        self._workers: dict[str, _Worker] = {}
        self._homeless: list[_Call] = []
        self._read = self._seen = 0.0
        self._told: Callable[[str], object] = print
        self._device = "auto"
        self._hush = ExitStack()

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
        self._hush.enter_context(_hushed())
        with self._reached():
            client = self._cluster.open(cells)
            services = client.scheduler_info(n_workers=0).get("services", {})
        if "dashboard" in services:
            told(f"dashboard: {client.dashboard_link}")

    def submit(self, function: Callable[..., Any], /, task: Task, setting: Setting) -> Future:
        """Give it to an idle worker, of the class that it is to stay with."""
        call = _Call(packed(function, task, setting), task.place)
        self._send(call)
        return call.outer

    def _send(self, call: _Call) -> None:
        address = next(iter(self._idle(call.place)), None)
        if address is None:
            call.homeless_since = call.homeless_since or time.monotonic()
            self._homeless.append(call)
            return
        call.homeless_since = None
        self._workers[address].call = call
        call.inner = self._sent(call.content, address)
        call.inner.add_done_callback(call.settle)

    def _sent(self, content: bytes, address: str) -> Future:
        seats = seated({a: w.name for a, w in self._workers.items()})
        with self._reached():
            return self._client.get_executor(pure=False, workers=[address]).submit(relay, content, seats)

    def _idle(self, place: str | None) -> list[str]:
        found = [address for address, w in self._workers.items() if w.is_idle()]
        return [a for a in found if place in (None, self._workers[a].place())]

    def takes(self, place: str | None) -> bool:
        """Whether a worker of that class of machine is idle."""
        return bool(self._idle(place))

    def window(self, wanted: int) -> int:
        """The workers that are ready now."""
        if time.monotonic() - self._read >= REFRESH_SECONDS:
            self._refresh(wanted)
        ready = sum(w.is_ready() for w in self._workers.values())
        return min(ready, self._jobs or ready)

    def _refresh(self, wanted: int) -> None:
        """Ask who is there; tasks of those who have gone are given to others."""
        with self._reached():
            idle = [w.name for w in self._workers.values() if w.is_idle()]
            self._cluster.tend(min(wanted, self._jobs or wanted), idle)
            told = self._client.scheduler_info()
            if "workers" not in told:  # what a client remembers of a scheduler that it cannot reach
                raise ConnectionError("it does not answer")
            there = _named(told["workers"])
        self._read = time.monotonic()
        gone = {a: self._workers.pop(a) for a in self._workers.keys() - there.keys()}
        self._workers |= {a: _Worker(there[a]) for a in there.keys() - self._workers.keys()}
        for address, worker in self._workers.items():
            if worker.asked is None or (worker.asked.done() and not worker.is_ready()):
                self._ask(address, worker)
        waiting, self._homeless = self._homeless, []
        for address, worker in gone.items():
            if worker.asked is not None:
                worker.asked.cancel()
            if worker.call is not None and not worker.call.outer.done():
                self._lose(worker.call, address, worker.name)
                waiting.append(worker.call)
        for call in waiting:
            if not call.outer.done():
                self._send(call)
        self._give_up_on_places()
        self._tell_of_silence()

    def _give_up_on_places(self) -> None:
        """Tasks that were to stay with a class of machine of which none is left, and none has come for long."""
        there = {w.place() for w in self._workers.values() if w.is_ready()}
        for call in self._homeless:
            waited = self._read - (call.homeless_since or self._read)
            if call.place is not None and call.place not in there and waited > self.patience:
                call.outer.set_exception(MachineFault(f"no worker is {call.place} any more; run without --pin"))

    def _ask(self, address: str, worker: _Worker) -> None:
        """What a worker is; its process starts on the way. Raises MachineFault for one that cannot say it."""
        worker.asks += 1
        if worker.asks > ASKS and (answer := worker.answer()) is not None:
            try:
                answer.value()
            except Exception as error:
                raise MachineFault(f"the dask worker {address} cannot be used: {text_of(error)}") from error
        worker.asked = self._sent(packed(class_here, self._device), address)

    def _lose(self, call: _Call, address: str, name: str) -> None:
        """A worker has gone with a task: by itself, as its time was up, or not, which counts."""
        inner, call.inner = call.inner, None
        with self._reached():
            if inner is not None:
                inner.cancel()
            events: Any = self._client.get_events(address)
            call.losses += not _is_expected(events)
        if call.losses >= LOSSES:
            what = f"{call.losses} dask workers died in it, the last at {address}{self._cluster.log_of(name)}"
            call.outer.set_exception(WorkerDied(what))

    def _tell_of_silence(self) -> None:
        if self._workers:
            self._seen = self._read
        elif self._read - self._seen > SILENCE_SECONDS:
            self._seen = self._read + 9 * SILENCE_SECONDS
            self._told(f"no worker is there: {self._cluster.advice()}")

    def death(self, error: BaseException) -> str | None:
        """A worker's own process has died, or so have several workers that had the task."""
        if isinstance(error, KilledWorker):
            worker = error.last_worker
            return f"a dask worker died in it, at {worker.address}{self._cluster.log_of(worker.name)}"
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
        with self._hush:
            for worker in self._workers.values():
                for future in (worker.asked, worker.call and worker.call.inner):
                    with suppress(Exception):  # of a cluster that may be gone
                        if future is not None:
                            future.cancel()
            self._cluster.close()
            self._workers.clear()
            gc.collect()  # what nobody has asked for complains when it is found


@contextmanager
def _hushed() -> Iterator[None]:
    """What goes wrong is raised here, in one line; the complaints of all the parts that it reaches are not needed."""
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("distributed", "tornado")]
    loggers = [logging.getLogger(name) for name in (*known, "asyncio")]
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


def _is_expected(events: Sequence[tuple[float, Mapping[str, Any]]]) -> bool:
    """Whether a worker has left of itself, as its time was up."""
    return any(event.get("action") == "remove-worker" and event.get("expected") for _, event in events)


def seated(workers: Mapping[str, str]) -> dict[str, list[str]]:
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
