"""Clusters of dask under fire: workers and schedulers that are killed, Ctrl-C at any moment; and the same bits."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.lock import owners
from bayesprune.bench.spec.matrix import load_matrix

from clusters import (  # isort: skip
    eventually, free_port, kill_group, members, parent_of, records, running, scheduler, started, timeless, worker,
    written,
)  # fmt: skip

pytestmark = pytest.mark.slow
pytest.importorskip("distributed")
LARGE = {
    "methods": ["magnitude", "snip", "random", "opd", "synflow"], "seeds": list(range(6)),
    "sparsity": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97], "training": {"epochs": 5},
    "finetune": {"epochs": 10},
}  # fmt: skip
LONG = {"training": {"epochs": 2000}, "methods": ["magnitude", "snip", "random"]}


def serial(path, folder):
    harness.run(load_matrix(path), folder, jobs=1)
    return timeless(folder)


def dask_workers(processes):
    """Processes that are dask's workers: children of the nannies that were started as commands."""
    nannies = {p.pid for p in processes}
    children = {n: line for p in processes for n, line in members(p.pid).items() if n not in nannies}
    return [n for n, line in children.items() if "spawn_main" in line and parent_of(n) in nannies]


class Killer(threading.Thread):
    """Kills one of the workers, of which it asks anew each time, every so many seconds."""

    def __init__(self, victims, seconds, seed=0):
        super().__init__(daemon=True)
        self.victims, self.seconds, self.rng = victims, seconds, random.Random(seed)
        self.killed, self.over = 0, threading.Event()

    def run(self):
        while not self.over.wait(self.seconds):
            try:
                if there := sorted(self.victims()):
                    os.kill(self.rng.choice(there), signal.SIGKILL)
                    self.killed += 1
            except (ProcessLookupError, FileNotFoundError):
                continue


def start_seconds():
    """What a worker's process takes to start, on this machine as busy as it is."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import bayesprune.bench.harness.workers"], check=True)
    return time.monotonic() - begun


def test_three_hundred_cells_survive_workers_and_a_scheduler_that_are_killed(tmp_path):
    """One of two workers every five seconds, or where that is less than they need to start, one and a half of it."""
    path = written(tmp_path, **LARGE)
    expected = serial(path, tmp_path / "serial")
    out = tmp_path / "killed"
    with running(tmp_path) as (port, processes):
        killer = Killer(lambda: dask_workers(processes[1:]), max(5, 1.5 * start_seconds()))
        killer.start()
        process = started("run", path, "--out", out, "--executor", f"dask://127.0.0.1:{port}")
        assert eventually(lambda: records(out) >= 60, 600)
        processes[0].kill()  # the scheduler
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2, errors
        assert "Traceback" not in errors
        assert "run the same command again" in errors.splitlines()[-1]
        before = records(out)
        assert 60 <= before < 300
        assert eventually(lambda: not any(dask_workers(processes[1:])), 90), "workers outlive their scheduler"
        processes[0] = scheduler(tmp_path, port)
        for each in processes[1:]:
            kill_group(each)
        processes[1:] = [worker(tmp_path, port) for _ in range(2)]
        process = started("run", path, "--out", out, "--executor", f"dask://127.0.0.1:{port}")
        _, errors = process.communicate(timeout=1500)
        killer.over.set()
        assert process.returncode == 0, errors
        assert killer.killed >= 5
    assert timeless(out) == expected
    assert len(results(out)) == 300
    assert owners(out) == []


def test_a_command_with_its_own_cluster_is_killed_and_goes_on(tmp_path):
    """Its scheduler dies with it, and so must all of its workers."""
    path = written(tmp_path, **LARGE | {"seeds": [0]})
    expected = serial(path, tmp_path / "serial")
    out = tmp_path / "killed"
    process = started("run", path, "--out", out, "--executor", "dask", "--jobs", 2)
    assert eventually(lambda: records(out) >= 20, 120)
    process.kill()
    process.communicate()
    assert eventually(lambda: not members(process.pid)), members(process.pid)
    process = started("run", path, "--out", out, "--executor", "dask", "--jobs", 2)
    assert eventually(lambda: records(out) >= 40, 120)
    victims = [n for n in members(process.pid) if n != process.pid and parent_of(n) == process.pid]
    os.kill(random.Random(0).choice(victims), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert timeless(out) == expected


@pytest.mark.parametrize("moment", ["start", "planning", "connecting", "fit", "cells"])
def test_ctrl_c_at_any_moment_leaves_no_process(tmp_path, moment):
    path = written(tmp_path, **LONG)
    out = tmp_path / "r"
    process = started("run", path, "--out", out, "--executor", "dask", "--jobs", 2)
    conditions = {
        "start": lambda: True,
        "planning": lambda: (out / "store.json").exists(),
        "connecting": lambda: len(members(process.pid)) > 2,
        "fit": lambda: list(out.glob("data/*.json")),
        "cells": lambda: records(out),
    }
    assert eventually(conditions[moment], 120)
    if moment == "start":
        time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if moment != "start":  # when the libraries are imported, it is theirs to answer
        assert process.returncode == 130, errors
        assert "Traceback" not in errors, errors
        assert "run the same command again" in errors
        assert owners(out) == []
    assert eventually(lambda: not members(process.pid)), members(process.pid)


def test_ctrl_c_leaves_no_task_on_a_cluster_that_goes_on(tmp_path):
    from distributed import Client

    path = written(tmp_path, **LONG)
    out = tmp_path / "r"
    with running(tmp_path) as (port, processes):
        process = started("run", path, "--out", out, "--executor", f"dask://127.0.0.1:{port}")
        assert eventually(lambda: list(out.glob("data/*.json")), 120)
        served = [n for n in _offspring(processes[1:]) if parent_of(n) in dask_workers(processes[1:])]
        assert served
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        with Client(f"tcp://127.0.0.1:{port}", set_as_default=False) as client:
            idle = lambda: not any(client.run(lambda dask_worker: dask_worker.state.executing_count).values())  # noqa: E731
            assert eventually(idle)
        assert not set(served) & set(_offspring(processes[1:]))
        before = records(out)
        time.sleep(3)
        assert records(out) == before


def _offspring(processes):
    return [n for p in processes for n, line in members(p.pid).items() if "spawn_main" in line]


def test_a_worker_of_several_threads_is_refused(tmp_path):
    with running(tmp_path, workers=1, more=("--nthreads", 2)) as (port, _):
        process = started("run", written(tmp_path), "--out", tmp_path / "r", "--executor", f"dask://127.0.0.1:{port}")
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 2
    assert "has 2 threads" in errors.splitlines()[-1]


def test_nobody_at_the_address_is_said_in_one_line_and_nothing_is_written(tmp_path):
    process = started(
        "run", written(tmp_path), "--out", tmp_path / "r", "--executor", f"dask://127.0.0.1:{free_port()}"
    )
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert "no dask scheduler answers" in errors
    assert not (tmp_path / "r").exists()
