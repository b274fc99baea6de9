"""The lease of a results folder across machines, imitated by processes that take each other for strangers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
from bayesprune.bench.results import lock
from bayesprune.bench.results.lock import InUse, Lease, owned, owners, this_run
from bayesprune.bench.results.owner import birth_of, owner_in, this_machine
from bayesprune.bench.results.store import MachineFault, Store

# folder, name of the machine, matrix, part: says whether it has the folder, and checks its lease at each line it reads.
HOST = """
import sys
from pathlib import Path
from bayesprune.bench.results import lock, owner
folder, machine, matrix, i, n = sys.argv[1:]
owner.this_machine = lambda: machine
lock.HEARTBEAT_SECONDS, lock.LEASE_SECONDS = 0.1, 2.0
input()
try:
    with lock.owned(Path(folder), owner.this_run(matrix, (int(i), int(n)))) as lease:
        print("mine", flush=True)
        for line in sys.stdin:
            lease.check()
            print("still", flush=True)
except lock.MachineFault as fault:
    print("lost", flush=True)
except lock.InUse:
    print("refused", flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    return Store(tmp_path / "r").folder


@pytest.fixture
def host(folder):
    """Starts processes on machines of such names; they try for the folder when they are told to."""
    processes = []

    def start(machine, matrix="m", part=(1, 1)):
        command = [sys.executable, "-c", HOST, str(folder), machine, matrix, *map(str, part)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def tell(process):
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process):
    return process.stdout.readline().strip()


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_a_living_run_on_another_host_keeps_the_folder_and_a_dead_one_loses_it_when_its_time_is_up(
    folder, host, monkeypatch
):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 2.0)
    there = host("there")
    tell(there)
    assert hear(there) == "mine"
    time.sleep(2.5)  # longer than a lease without a heartbeat would last
    with pytest.raises(InUse, match=f"process {there.pid}"), owned(folder, this_run("m", (1, 1))):
        pass
    there.kill()
    there.wait()
    with pytest.raises(InUse), owned(folder, this_run("m", (1, 1))):  # nobody here can know
        pass

    def taken():
        try:
            with owned(folder, this_run("m", (1, 1))):
                return True
        except InUse:
            return False

    assert eventually(taken)
    assert owners(folder) == []


def test_a_run_whose_heartbeat_stops_loses_the_folder_and_hears_of_it(folder, host):
    frozen, other = host("there"), host("elsewhere")
    tell(frozen)
    assert hear(frozen) == "mine"
    os.kill(frozen.pid, signal.SIGSTOP)
    path = folder / "lock" / "1-of-1.json"
    assert eventually(lambda: time.time() - path.stat().st_mtime > 2.2)
    tell(other)
    assert hear(other) == "mine"
    os.kill(frozen.pid, signal.SIGCONT)
    tell(frozen)
    assert hear(frozen) == "lost"
    frozen.stdin.close()
    frozen.wait()
    assert owner_in(path.read_bytes()).process == other.pid  # what is another's is neither touched nor removed
    tell(other)
    assert hear(other) == "still"


@pytest.mark.parametrize("stale", [False, True])
def test_of_hosts_that_want_the_folder_at_once_one_gets_it(folder, host, stale):
    if stale:
        (folder / "lock").mkdir()
        path = folder / "lock" / "1-of-1.json"
        path.write_text(json.dumps(asdict(replace(this_run("m", (1, 1)), machine="gone"))))
        os.utime(path, (1, 1))
    rivals = [host(f"machine {i % 2}") for i in range(4)]
    for process in rivals:
        tell(process)
    assert sorted(map(hear, rivals)) == ["mine", "refused", "refused", "refused"]


def test_of_parts_that_cannot_share_the_folder_one_gets_it(folder):
    """Their leases are files of different names, none of which keeps the other from being created."""
    for _ in range(10):
        gate, said, over = threading.Barrier(2), [], threading.Event()

        def take(matrix, part, gate=gate, said=said, over=over):
            gate.wait()
            try:
                with owned(folder, this_run(matrix, part)):
                    said.append("mine")
                    over.wait(10)
            except InUse:
                said.append("refused")
                over.set()

        threads = [threading.Thread(target=take, args=args) for args in (("m", (1, 2)), ("other", (1, 3)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(said) == ["mine", "refused"]


def test_whoever_died_in_the_act_of_taking_over_is_no_obstacle(folder):
    (folder / "lock").mkdir()
    path = folder / "lock" / "1-of-1.json"
    dead = replace(this_run("m", (1, 1)), machine="gone")
    path.write_text(json.dumps(asdict(dead)))
    claim = path.with_name(f".{path.name}.{lock.sha256(path.read_bytes()).hexdigest()[:16]}.claim")
    claim.write_text(json.dumps(asdict(replace(dead, token="claimant"))))
    for file in (path, claim):
        os.utime(file, (1, 1))
    with owned(folder, mine := this_run("m", (1, 1))) as lease:
        assert owner_in(lease.path.read_bytes()) == mine
    assert not list((folder / "lock").glob(".*.claim"))


def test_a_number_that_was_given_to_another_process_is_not_the_owner(folder):
    path = folder / "lock" / "1-of-1.json"
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(replace(this_run("m", (1, 1)), birth="1"))))  # this process, born at another time
    ((_, _, is_alive),) = owners(folder)
    assert not is_alive
    path.write_text(json.dumps(asdict(this_run("m", (1, 1)))))
    os.utime(path, (1, 1))  # no heartbeat for long, and yet it is seen to live
    ((_, _, is_alive),) = owners(folder)
    assert is_alive


def test_a_zombie_does_not_live():
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    process.stdout.read()
    assert eventually(lambda: birth_of(process.pid) is None)  # ended, and not waited for
    process.wait()
    process.stdout.close()
    assert birth_of(os.getpid()).isdecimal()
    assert this_machine() == this_machine() != ""


def test_no_lock_of_the_operating_system_is_needed(folder, monkeypatch):
    """Neither flock, which NFS may not have, nor links, which other file systems lack."""
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    with owned(folder, this_run("m", (1, 1))) as lease:
        assert isinstance(lease, Lease)
        with pytest.raises(InUse), owned(folder, this_run("m", (1, 1))):
            pass
        lease.path.unlink()
        with pytest.raises(MachineFault, match="removed or taken over"):
            lease.check()
    assert "fcntl" not in vars(lock)
