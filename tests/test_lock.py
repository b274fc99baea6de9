"""One run owns a results folder, and loses it with its life."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from bayesprune.bench.harness import cell
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results import lock
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.lock import InUse, owned, owners, this_run
from bayesprune.bench.results.store import MachineFault, Store
from bayesprune.bench.spec.matrix import Matrix

HOLDER = """
import sys
from pathlib import Path
from bayesprune.bench.results.lock import owned, this_run
with owned(Path(sys.argv[1]), this_run(sys.argv[2], (int(sys.argv[3]), int(sys.argv[4])))):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    return Store(tmp_path / "r").folder


@pytest.fixture
def holder(folder):
    """Starts processes that own the folder, and ends them."""
    started = []

    def start(matrix="m", part=(1, 1)):
        command = [sys.executable, "-c", HOLDER, str(folder), matrix, *map(str, part)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_run_is_refused_in_one_line(folder, holder):
    process = holder()
    with (
        pytest.raises(InUse, match=rf"in use by process {process.pid} on .* \(--wait\)") as error,
        owned(folder, this_run("m", (1, 1))),
    ):
        pass
    assert "\n" not in str(error.value)
    process.stdin.close()
    process.wait()
    with owned(folder, this_run("m", (1, 1))):
        assert len(owners(folder)) == 1
    assert owners(folder) == []


def test_the_lock_of_a_killed_run_is_taken_over(folder, holder):
    process = holder()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ((path, owner, is_alive),) = owners(folder)
    assert (owner.process, is_alive) == (process.pid, False)
    with owned(folder, mine := this_run("m", (1, 1))):
        assert lock._owner_of(path) == mine


@pytest.mark.parametrize(
    ("held", "wanted", "together"),
    [
        (("m", (1, 2)), ("m", (2, 2)), True),
        (("m", (1, 2)), ("m", (1, 2)), False),
        (("m", (1, 2)), ("m", (2, 3)), False),
        (("m", (1, 2)), ("m", (1, 1)), False),
        (("m", (1, 2)), ("another", (2, 2)), False),
    ],
)
def test_parts_of_one_matrix_may_run_at_once_and_nothing_else(folder, held, wanted, together):
    with owned(folder, this_run(*held)):
        if together:
            with owned(folder, this_run(*wanted)):
                assert len(owners(folder)) == 2
        else:
            with pytest.raises(InUse), owned(folder, this_run(*wanted)):
                pass
    assert owners(folder) == []


def test_whoever_waits_gets_the_folder_when_the_other_has_ended(folder, monkeypatch):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)
    said, order, begun = [], [], threading.Event()

    def wait():
        with owned(folder, this_run("other", (1, 1)), wait=True, told=lambda text: (said.append(text), begun.set())):
            order.append("second")

    with owned(folder, this_run("m", (1, 1))):
        thread = threading.Thread(target=wait)
        thread.start()
        assert begun.wait(10)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert len(said) == 1


def from_elsewhere(folder, age):
    """The lease of a run on another machine, touched so many seconds ago."""
    path = folder / "lock" / "1-of-1.json"
    path.parent.mkdir(exist_ok=True)
    owner = replace(this_run("m", (1, 1)), host="elsewhere")
    path.write_text(json.dumps({**vars(owner), "machine": "another boot"}))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_from_another_machine_a_lease_counts_while_it_is_touched(folder):
    from_elsewhere(folder, 10)
    with pytest.raises(InUse, match="on elsewhere"), owned(folder, this_run("m", (1, 1))):
        pass
    from_elsewhere(folder, lock.LEASE_SECONDS + 10)
    with owned(folder, this_run("m", (1, 1))):
        pass


def test_an_owner_touches_its_lease_and_notices_its_loss(folder, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with owned(folder, this_run("m", (1, 1))) as lease:
        lease.check()
        os.utime(lease.path, (1, 1))
        deadline = time.monotonic() + 10
        while lease.path.stat().st_mtime < 100 and time.monotonic() < deadline:
            os.sched_yield()
        assert lease.path.stat().st_mtime > 100
        from_elsewhere(folder, 0)
        with pytest.raises(MachineFault, match="taken over"):
            lease.check()
    assert lock._owner_of(lease.path).host == "elsewhere"  # what is another's is not removed


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"part": 3}', "\x00"])
def test_a_damaged_lease_of_nobody_is_taken_over(folder, content):
    (folder / "lock").mkdir()
    (folder / "lock" / "1-of-1.json").write_text(content)
    os.utime(folder / "lock" / "1-of-1.json", (1, 1))
    with owned(folder, this_run("m", (1, 1))):
        pass


def test_of_many_that_want_the_folder_at_once_one_gets_it(folder):
    got, refused, gate = [], [], threading.Barrier(8)
    done = threading.Event()

    def take():
        gate.wait()
        try:
            with owned(folder, this_run("m", (1, 1))):
                got.append(1)
                done.wait(10)
        except InUse:
            refused.append(1)
            if len(refused) == 7:
                done.set()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def matrix(**more):
    content = {
        "datasets": [{"name": "digits", "subset": 100}], "architectures": [{"name": "mlp", "widths": [8]}],
        "methods": ["magnitude"], "sparsity": [0.5], "seeds": [0], "training": {"epochs": 1},
        "finetune": {"epochs": 0}, "shift": False,
    }  # fmt: skip
    return Matrix(**content | more)


def test_two_matrices_do_not_mix_and_two_shards_may(tmp_path, monkeypatch):
    real, tried = cell.execute, []

    def execute(*args):
        monkeypatch.setattr(cell, "execute", real)
        with pytest.raises(InUse):
            harness.run(matrix(training={"epochs": 2}), tmp_path / "r", jobs=1)
        with pytest.raises(InUse):
            harness.run(matrix(seeds=[0, 1]), tmp_path / "r", jobs=1)
        harness.run(matrix(seeds=[0, 1]), tmp_path / "r", jobs=1, shard=(2, 2))
        tried.append(1)
        return real(*args)

    monkeypatch.setattr(cell, "execute", execute)
    harness.run(matrix(seeds=[0, 1]), tmp_path / "r", jobs=1, shard=(1, 2))
    assert tried
    frame = results(tmp_path / "r")
    assert frame["seed"].tolist() == [0, 1]
    assert set(frame["status"]) == {"done"}
    assert owners(tmp_path / "r") == []
