"""What tests of clusters share: matrices as files, the command in a process group of its own, dask's own processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pandas as pd

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMES = ("seconds", "speedup")


def matrix(**more):
    content = {
        "datasets": [{"name": "digits", "subset": 150}], "architectures": [{"name": "mlp", "widths": [16]}],
        "methods": ["magnitude", "snip"], "sparsity": [0.5, 0.9], "seeds": [0, 1], "training": {"epochs": 2},
        "finetune": {"epochs": 1}, "shift": False,
    }  # fmt: skip
    return content | more


def written(folder, **more):
    """The matrix as a file; JSON is YAML."""
    path = folder / "matrix.yaml"
    path.write_text(json.dumps(matrix(**more)))
    return path


def timeless(folder):
    """The bytes of results.csv without the columns that measure time."""
    frame = pd.read_csv(folder / "results.csv", dtype=str, keep_default_na=False)
    return frame[[c for c in frame.columns if not c.startswith(TIMES)]].to_csv(index=False).encode()


def command(*arguments):
    return [sys.executable, "-m", "bayesprune.bench.cli", *map(str, arguments)]


def heed_interrupts():
    """Undo what a shell does to jobs in the background, whose children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*arguments, **more):
    """The command, in a process group of its own, so that what it leaves behind can be found."""
    more = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True} | more
    return subprocess.Popen(command(*arguments), start_new_session=True, preexec_fn=heed_interrupts, **more)


def members(leader):
    """Living processes of a group: command line by number."""
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, _, own = file.read().rpartition(")")[2].split()[:4]
            with open(f"/proc/{name}/cmdline") as file:
                line = file.read().replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(own) == leader and state != "Z":
            found[int(name)] = line
    return found


def parent_of(process):
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def eventually(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def records(folder):
    return len(list(folder.glob("cells/*.json")))


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def dask(*arguments, log):
    """One of dask's own programs, in a process group of its own."""
    program = [sys.executable, "-m", "dask", *map(str, arguments)]
    with open(log, "wb") as out:
        return subprocess.Popen(program, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True)


def scheduler(folder, port):
    process = dask("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", log=folder / f"scheduler-{port}.log")  # fmt: skip
    assert eventually(lambda: answers(port)), (folder / f"scheduler-{port}.log").read_text()
    return process


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def worker(folder, port, *more):
    log = folder / f"worker-{time.monotonic_ns()}.log"
    return dask("worker", f"tcp://127.0.0.1:{port}", "--host", "127.0.0.1", "--nthreads", 1, "--no-dashboard", *more, log=log)  # fmt: skip


def kill_group(process):
    for number in members(process.pid):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


@contextmanager
def running(folder, workers=2, more=()):
    """A scheduler and its workers, each a process as a user starts it; gives the port, and the processes."""
    port = free_port()
    processes = [scheduler(folder, port)]
    try:
        processes += [worker(folder, port, *more) for _ in range(workers)]
        yield port, processes
    finally:
        for process in processes:
            kill_group(process)
