"""A matrix on dask: the rows of a serial run, whatever plug-ins do to the process that they are in."""

import os

import pytest
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.lock import owners
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.methods import registry as methods

pytest.importorskip("distributed")
from bayesprune.bench.harness.executors import dask_engine
from bayesprune.bench.harness.executors.dask_engine import seated

from clusters import matrix, running, started, timeless, written  # isort: skip

PLUGIN = """\
import os, signal, threading
from bayesprune import MAP, Pruner, register

def magnitude(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})

@register("mine")
def mine():
    "Magnitude under another name."
    return Pruner(MAP, magnitude)

@register("kills")
def kills():
    "Takes its process down."
    return Pruner(MAP, lambda state: os.kill(os.getpid(), signal.SIGKILL))

@register("spoils")
def spoils():
    "Leaves a thread behind, which nobody can end."
    def score(state):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return magnitude(state)
    return Pruner(MAP, score)

@register("leaves")
def leaves():
    "Wants out."
    def score(state):
        raise SystemExit(3)
    return Pruner(MAP, score)
"""
CELLS = {"methods": ["kills", "magnitude", "mine", "spoils", "leaves", "snip"], "sparsity": [0.5, 0.9], "seeds": [0]}
HARMLESS = ["magnitude", "mine", "snip"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "wild.py"
    path.write_text(PLUGIN)
    return path


def run(folder, plugin, **more):
    """A run with its own workers, of which one will do: what is tested is not how many there are."""
    said = []
    m = Matrix(**matrix(**CELLS | more))
    harness.run(m, folder, executor="dask", jobs=1, plugins=[plugin], progress=lambda n: said.append)
    return results(folder).set_index("method"), said


def test_the_rows_are_those_of_a_serial_run(tmp_path, plugin):
    """A plug-in travels as source, and is loaded by the task that needs it."""
    methods.load_plugin(plugin)
    frame, said = run(tmp_path / "r", plugin, methods=HARMLESS)
    assert sum(said) == len(frame) == 6
    assert set(frame["status"]) == {"done"}
    assert frame.loc["mine", "mask_digest"].tolist() == frame.loc["magnitude", "mask_digest"].tolist()
    harness.run(Matrix(**matrix(**CELLS | {"methods": HARMLESS})), tmp_path / "serial", jobs=1, plugins=[plugin])
    assert timeless(tmp_path / "r") == timeless(tmp_path / "serial")
    assert owners(tmp_path / "r") == []


@pytest.mark.slow
def test_plugins_that_kill_their_process_are_failed_rows_and_the_rest_goes_on(tmp_path, plugin):
    methods.load_plugin(plugin)
    frame, said = run(tmp_path / "r", plugin)
    assert sum(said) == len(frame) == 12
    assert set(frame.loc[HARMLESS, "status"]) == {"done"}
    assert set(frame.loc[["kills", "spoils", "leaves"], "status"]) == {"failed"}
    reasons = frame["reason"].groupby("method").first()
    assert "the worker process died twice in this task" in reasons["kills"]
    assert "ended by SIGKILL" in reasons["kills"]
    assert "a thread that runs on" in reasons["spoils"]
    assert reasons["leaves"].startswith("SystemExit")


def test_seats_follow_the_names_of_workers_which_outlive_their_addresses():
    workers = {"tcp://a:5": "x-10", "tcp://a:9": "x-2", "tcp://b:1": "x-0", "tcp://a:7": "x-1"}
    assert seated(workers) == {"a": ["tcp://a:7", "tcp://a:9", "tcp://a:5"], "b": ["tcp://b:1"]}


def test_a_worker_whose_time_was_up_is_no_crash():
    left = {"action": "remove-worker", "expected": True}
    assert dask_engine._is_expected([(0.0, {"action": "add-worker"}), (1.0, left)])
    assert not dask_engine._is_expected([(0.0, {"action": "add-worker"}), (1.0, left | {"expected": False})])


SITE = """\
import os, pathlib
real = pathlib.Path.read_text
def read_text(self, *args, **kwargs):
    if str(self) == "/proc/cpuinfo":
        return f"model name : {os.environ['IMITATED_CPU']}"
    return real(self, *args, **kwargs)
pathlib.Path.read_text = read_text
"""


@pytest.mark.slow
@pytest.mark.parametrize("pin", [False, True])
def test_two_kinds_of_machines_are_told_apart_warned_of_and_pinned(tmp_path, monkeypatch, pin):
    import clusters

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    path = written(tmp_path, methods=["magnitude", "snip", "random", "opd"], seeds=[0, 1, 2, 3])
    paths = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in ("ONE", "TWO"):
        monkeypatch.setitem(clusters.ENVIRONMENT, "PYTHONPATH", paths)
        monkeypatch.setitem(clusters.ENVIRONMENT, "IMITATED_CPU", name)
        if name == "ONE":
            first = running(tmp_path, workers=1)
            port, processes = first.__enter__()
        else:
            processes.append(clusters.worker(tmp_path, port))
    try:
        more = ["--pin"] if pin else []
        process = started("run", path, "--out", tmp_path / "r", "--executor", f"dask://127.0.0.1:{port}", *more)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    finally:
        first.__exit__(None, None, None)
    frame = results(tmp_path / "r")
    assert set(frame["status"]) == {"done"}
    assert set(frame["host_cpu"]) == {"ONE", "TWO"}
    moved = frame["host_cpu"] != frame["fit_host_cpu"]
    assert moved.any() != pin
    report = started("report", tmp_path / "r", "--out", tmp_path / "page")
    report.communicate(timeout=200)
    page = (tmp_path / "page" / "index.html").read_text()
    assert "several processors" in page
    assert ("another kind of machine than their network was trained on" in page) != pin
