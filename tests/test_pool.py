"""Worker processes that die, at any moment, cost what they were doing and nothing else."""

import os
import signal
import sys
import threading
from concurrent.futures import wait

import pytest
from bayesprune.bench.harness import pool as module
from bayesprune.bench.harness.pool import RemoteError, WorkerDied, WorkerPool
from bayesprune.bench.results.store import MachineFault


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(1) as workers:
        workers.submit(os.getpid).result()
        yield workers


def test_a_worker_that_ends_costs_its_task_and_is_replaced(pool):
    before = pool.submit(os.getpid).result()
    with pytest.raises(WorkerDied, match="exit code 7"):
        pool.submit(os._exit, 7).result()
    after = pool.submit(os.getpid).result()
    assert after not in (before, os.getpid())
    assert pool.submit(os.getpid).result() == after


def test_a_worker_that_is_killed_between_tasks_is_replaced(pool):
    os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
    (worker,) = pool._all
    worker.process.join()
    assert pool.submit(pow, 2, 3).result() == 8


def test_errors_travel_and_no_exception_ends_a_worker(pool):
    home = pool.submit(os.getpid).result()
    for function, arguments, error in ((int, ("x",), ValueError), (sys.exit, (3,), SystemExit), (divmod, (1, 0), ZeroDivisionError)):  # fmt: skip
        with pytest.raises(error):
            pool.submit(function, *arguments).result()
    with pytest.raises(RemoteError):
        pool.submit(threading.Lock).result()  # an answer that cannot travel
    assert pool.submit(os.getpid).result() == home


def test_a_worker_that_is_killed_while_it_starts_is_replaced(monkeypatch):
    started = []
    real = module._Worker.is_ready

    def is_ready(self):
        started.append(self.process.pid)
        if len(started) < 3:
            os.kill(self.process.pid, signal.SIGKILL)
        return real(self)

    monkeypatch.setattr(module._Worker, "is_ready", is_ready)
    with WorkerPool(1) as workers:
        assert workers.submit(os.getpid).result() == started[2]


def test_where_no_worker_can_start_the_machine_is_at_fault(monkeypatch):
    monkeypatch.setattr(module._Worker, "is_ready", lambda self: os.kill(self.process.pid, signal.SIGKILL))
    with WorkerPool(1) as workers, pytest.raises(MachineFault, match="cannot start"):
        workers.submit(os.getpid).result()


def test_shutting_down_at_once_leaves_no_process(pool):
    import time

    workers = WorkerPool(1)
    home = workers.submit(os.getpid).result()
    running = workers.submit(time.sleep, 1000)
    workers.shutdown(wait=False, cancel_futures=True)
    wait([running], 20)
    assert isinstance(running.exception(), WorkerDied)
    with pytest.raises(ProcessLookupError):
        os.kill(home, 0)
