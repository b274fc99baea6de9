"""Engines that run tasks: which is meant, what the scheduling asks of them, and what their workers must find."""

import json
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import pytest
import torch
from bayesprune.bench.harness import provenance, scheduling, surroundings, workers
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.harness.arrivals import Arrivals
from bayesprune.bench.harness.calls import Seat
from bayesprune.bench.harness.executors import chosen as module
from bayesprune.bench.harness.executors.chosen import chosen
from bayesprune.bench.harness.executors.custom import CustomEngine, shut_down
from bayesprune.bench.harness.executors.engine import Engine
from bayesprune.bench.harness.executors.local import LocalEngine
from bayesprune.bench.harness.pool import WorkerDied
from bayesprune.bench.harness.tasks import Fitted, Setting, Worked
from bayesprune.bench.results import visibility
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.lock import owned, this_run
from bayesprune.bench.results.store import MachineFault, Store
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.datasets.errors import UsageError

from clusters import matrix, timeless, written  # isort: skip


def from_spawned():
    return ProcessPoolExecutor(2, get_context("spawn"))


# ------------------------------------------------------------------ which is meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dusk", "unknown executor 'dusk'; did you mean 'dask'?; choose local, dask, dask://HOST:PORT"),
        ("dask://nowhere", "give dask://HOST:PORT"),
        ("no/such.yaml", "executor file no/such.yaml does not exist"),
        ("no_such_module:make", "no_such_module:make cannot be found"),
        ("os:sep", "is not a function"),
    ],
)
def test_what_no_executor_is_called_is_refused(tmp_path, text, message):
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        chosen(text, None, "auto", tmp_path)


@pytest.mark.parametrize(("text", "module"), [("dask", "distributed"), ("dask://h:1", "distributed"), ("x.yaml", "dask_jobqueue")])  # fmt: skip
def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch, text, module):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"--executor {text} needs {module}: pip install 'bayesprune\[cluster\]'"):
        harness.run(written(tmp_path), tmp_path / "r", executor=text)
    assert not (tmp_path / "r").exists()


def test_importing_dask_jobqueue_leaves_ctrl_c_alone():
    import signal

    pytest.importorskip("dask_jobqueue")
    before = signal.getsignal(signal.SIGINT)
    sys.modules.pop("dask_jobqueue.runner", None)
    sys.modules.pop("dask_jobqueue", None)
    module._import("dask_jobqueue", "x.yaml")
    assert signal.getsignal(signal.SIGINT) is before


# ------------------------------------------------------------------ executors of one's own


@pytest.mark.slow
def test_an_executor_of_the_standard_library_gives_the_same_rows(tmp_path):
    m = Matrix(**matrix(seeds=[0], methods=["magnitude"]))
    harness.run(m, tmp_path / "local", jobs=1)
    harness.run(m, tmp_path / "own", executor=from_spawned)
    assert timeless(tmp_path / "own") == timeless(tmp_path / "local")
    assert set(results(tmp_path / "own")["status"]) == {"done"}


def test_threads_and_what_is_no_executor_are_refused(tmp_path):
    m = Matrix(**matrix(seeds=[0], methods=["magnitude"]))
    for make in (lambda: ThreadPoolExecutor(2), lambda: 3):
        with pytest.raises(UsageError, match="whose workers are processes"):
            harness.run(m, tmp_path / "r", executor=make)


def test_shutting_down_asks_only_for_what_an_executor_knows():
    said = []

    class Old:
        def shutdown(self, wait=True):
            said.append({"wait": wait})

    shut_down(Old(), at_once=True)
    assert said == [{"wait": False}]


def test_the_window_is_what_the_executor_says_of_itself():
    engine = CustomEngine(from_spawned)
    engine.start(100, print)
    assert engine.window(9) == 2
    engine.close(at_once=True)
    assert LocalEngine(3).plan(100)[0] == 3
    assert LocalEngine(3).plan(1)[0] == 1


# ------------------------------------------------------------------ scheduling, on an engine that does as it is told


class Scripted(Engine):
    """Runs tasks here and now; what `script` returns for a task, an exception or None, comes in its place."""

    def __init__(self, script=lambda function, task: None, size=2, places=(None,)):
        self.script, self.size, self.places = script, size, places
        self.log, self.renewed, self.closed = [], 0, []

    def plan(self, cells):
        return self.size, "scripted"

    def start(self, cells, told):
        pass

    def submit(self, function, /, task, setting):
        self.log.append((function.__name__, [r.method.name for r in task.runs], task.place))
        future = Future()
        outcome = self.script(function.__name__, task)
        if isinstance(outcome, BrokenProcessPool):
            raise outcome
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        elif outcome == "cancelled":
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_result(function(task, setting) if outcome is None else outcome)
        return future

    def window(self, wanted):
        return self.size() if callable(self.size) else self.size

    def takes(self, place):
        return place in self.places

    def renew(self):
        self.renewed += 1

    def close(self, at_once):
        self.closed.append(at_once)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs a small matrix on a scripted engine; gives its table."""

    def run(engine, more=None, **options):
        monkeypatch.setattr(harness, "chosen", lambda *_: engine)
        harness.run(Matrix(**matrix(**{"seeds": [0], "sparsity": [0.5], **(more or {})})), tmp_path / "r", **options)
        return results(tmp_path / "r").set_index("method")

    return run


def dies(names, times=99):
    """A script in which workers die in the cells of these methods, so many times."""
    left = dict.fromkeys(names, times)

    def script(function, task):
        name = task.runs[0].method.name
        if function == "run_cells" and left.get(name):
            left[name] -= 1
            return WorkerDied("it was ended by SIGKILL")
        return None

    return script


def test_a_task_that_kills_two_workers_has_failed_and_all_others_go_on_before_its_second_try(ran):
    engine = Scripted(dies(["snip"]))
    frame = ran(engine, {"methods": ["snip", "magnitude", "random"]})
    assert frame["status"].to_dict() == {"snip": "failed", "magnitude": "done", "random": "done"}
    assert "died twice in this task: WorkerDied: it was ended by SIGKILL" in frame.loc["snip", "reason"]
    assert [names[0] for function, names, _ in engine.log if function == "run_cells"] == ["snip", "magnitude", "random", "snip"]  # fmt: skip
    assert engine.closed == [False]


def test_a_task_whose_worker_died_once_is_no_failure(ran):
    assert set(ran(Scripted(dies(["snip", "magnitude"], times=1)))["status"]) == {"done"}


def test_an_executor_that_is_broken_is_replaced_and_blames_nobody(ran):
    left = [BrokenProcessPool("all dead")] * 3
    engine = Scripted(lambda function, task: left.pop() if left and function == "run_cells" else None)
    assert set(ran(engine)["status"]) == {"done"}
    assert engine.renewed == 3


def test_the_window_is_read_anew_as_workers_come_and_go(ran, monkeypatch):
    monkeypatch.setattr(scheduling, "POLL_SECONDS", 0.01)
    sizes = iter([0, 0, 0])
    asked = []
    engine = Scripted(size=lambda: asked.append(1) or next(sizes, 1))
    assert set(ran(engine)["status"]) == {"done"}
    assert len(asked) > 4


def test_tasks_that_nobody_here_has_cancelled_mean_that_the_scheduler_is_gone(ran):
    engine = Scripted(lambda function, task: "cancelled" if function == "run_cells" else None)
    with pytest.raises(MachineFault, match="cancelled tasks of its own"):
        ran(engine)
    assert engine.closed == [True]


def here():
    return provenance.class_of(provenance.machine(torch.device("cpu")))


def test_pinned_cells_go_where_their_network_was_trained_and_to_nobody_else(ran, monkeypatch):
    engine = Scripted(places=(None, here()))
    assert set(ran(engine, pin=True)["status"]) == {"done"}
    assert {place for function, _, place in engine.log if function == "run_cells"} == {here()}
    assert {place for function, _, place in engine.log if function == "train_fit"} == {None}


def test_pinned_cells_whose_machine_is_gone_end_the_run_with_its_name(ran, monkeypatch):
    monkeypatch.setattr(scheduling, "POLL_SECONDS", 0.01)
    with pytest.raises(MachineFault, match=f"no worker is {here()}.*without --pin"):
        ran(Scripted(places=(None,)), pin=True)


def test_a_fit_of_before_that_names_no_machine_pins_nothing(ran):
    engine = Scripted(lambda function, task: None if function == "run_cells" else Fitted(None, None))
    assert set(ran(engine, pin=True)["status"]) == {"done"}


def test_a_task_that_is_tried_again_keeps_the_cells_that_have_a_record(ran, monkeypatch):
    """dask runs a task anew from its start when its worker has died."""
    executed = []
    real = workers.cell.execute
    monkeypatch.setattr(workers.cell, "execute", lambda r, *rest: executed.append(r.sparsity) or real(r, *rest))

    def twice(function, task):
        if function == "run_cells":
            workers.run_cells(task, setting[0])
        return

    setting = []
    engine = Scripted(twice)
    submit = engine.submit
    engine.submit = lambda function, task, s: setting.append(s) or submit(function, task, s)
    frame = ran(engine, {"methods": ["magnitude"], "sparsity": [0.5, 0.9]})
    assert set(frame["status"]) == {"done"}
    assert executed == [0.5, 0.9]


def test_failed_cells_are_tried_again_although_their_record_stands(ran):
    failing = Scripted(lambda function, task: ValueError("broken") if function == "run_cells" else None)
    assert set(ran(failing)["status"]) == {"failed"}
    assert set(ran(Scripted(), retry_failed=True)["status"]) == {"done"}


# ------------------------------------------------------------------ shared folders


def test_a_record_that_is_seen_late_is_waited_for_and_then_computed_again(ran, monkeypatch, tmp_path):
    monkeypatch.setattr(scheduling, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(visibility, "VISIBLE_SECONDS", 0.05)
    lied = []

    def script(function, task):
        if function == "run_cells" and task.runs[0].method.name == "snip" and not lied:
            lied.append(task.runs[0].key)
            return Worked({task.runs[0].key: "a checksum that is never seen"})
        return None

    engine = Scripted(script)
    assert set(ran(engine)["status"]) == {"done"}
    assert [names for function, names, _ in engine.log if function == "run_cells"].count(["snip"]) == 2


def test_records_that_never_appear_end_the_run(ran, monkeypatch):
    monkeypatch.setattr(scheduling, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(visibility, "VISIBLE_SECONDS", 0.05)
    elsewhere = lambda function, task: Worked({r.key: "x" for r in task.runs}) if function == "run_cells" else None  # noqa: E731
    with pytest.raises(MachineFault, match=r"do not appear in .*that all machines share"):
        ran(Scripted(elsewhere))


def test_waiting_ends_as_soon_as_the_file_is_there(tmp_path):
    looked = []
    assert visibility.seen(lambda: looked.append(1) or len(looked) > 3, tmp_path, 30)
    assert len(looked) == 4
    assert not visibility.seen(lambda: False, tmp_path / "gone", 0.01)


def test_arrivals_tell_what_is_new_once(tmp_path):
    store = Store(tmp_path / "r")
    told = []
    for key in ("a", "b"):
        (store.folder / "cells" / f"{key}.json").write_text("old")
    arrivals = Arrivals(store, ["a", "b", "c"], told.append)
    arrivals.update()
    (store.folder / "cells" / "c.json").write_text("new")
    os.utime(store.folder / "cells" / "a.json", (1, 1))
    arrivals.update()
    arrivals.update()
    assert told == [["a", "c"]]
    assert arrivals.missing == {"b"}


# ------------------------------------------------------------------ what a worker must find


@pytest.fixture
def setting(tmp_path):
    folder = Store(tmp_path / "r").folder
    with owned(folder, this_run("m", (1, 1))) as lease:
        yield Setting(folder, "cpu", (), lease.sign)


def cells(**more):
    return Matrix(**matrix(**more)).cells()


def test_a_folder_of_the_same_name_on_another_disk_is_found_out(setting, monkeypatch):
    monkeypatch.setattr(visibility, "VISIBLE_SECONDS", 0.05)
    assert surroundings.surroundings(setting, cells())[0].folder == setting.folder
    for wrong in (Setting(setting.folder, "cpu", (), (setting.lease[0], "another")),
                  Setting(setting.folder / "gone", "cpu", (), setting.lease)):  # fmt: skip
        with pytest.raises(MachineFault, match="does not see the results folder"):
            surroundings.surroundings(wrong, cells())
    assert not (setting.folder / "gone").exists()


def test_a_plugin_that_does_not_load_on_a_worker_is_no_methods_fault(setting):
    wrong = Setting(setting.folder, "cpu", (("/x/mine.py", b"import no_such_module"),), setting.lease)
    with pytest.raises(MachineFault, match=r"on \S+: plug-in /x/mine.py failed to load: .*no_such_module"):
        surroundings.surroundings(wrong, cells())


def test_a_device_that_only_the_worker_lacks_is_no_methods_fault(setting):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(MachineFault, match="'cuda' is not there"):
        surroundings.surroundings(Setting(setting.folder, "cuda", (), setting.lease), cells())


def test_another_version_of_the_package_is_refused(setting):
    with pytest.raises(MachineFault, match=r"this run was begun with 0\.0\.7"):
        surroundings.surroundings(Setting(setting.folder, "cpu", (), setting.lease, "0.0.7"), cells())


def test_code_that_is_another_on_the_worker_is_refused(setting, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "import torch\ndef build(shape, outputs): return torch.nn.Linear(64, 10)\n"
    )
    (run, *_) = cells(architectures=["my_networks:build"])
    assert run.sources
    surroundings.surroundings(setting, [run])
    monkeypatch.setattr(surroundings, "_found", set())
    (tmp_path / "my_networks.py").write_text("changed = True\n")
    with pytest.raises(MachineFault, match="the source of my_networks:build is not that which this run"):
        surroundings.surroundings(setting, [run])


def test_each_worker_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(provenance, "_seat", [Seat()])
    assert provenance.resolved_device("auto") == torch.device("cuda")
    found = []
    for rank in range(5):
        provenance.take(Seat(5, rank))
        found.append(provenance.resolved_device("auto").index)
    assert found == [0, 1, 2, 3, 0]
    assert provenance.resolved_device("cuda:2") == torch.device("cuda", 2)
    assert provenance.resolved_device("cpu") == torch.device("cpu")


# ------------------------------------------------------------------ what records say


def test_records_name_the_machine_of_the_cell_and_of_its_network(tmp_path):
    m = Matrix(**matrix(seeds=[0], methods=["magnitude"], sparsity=[0.5]))
    harness.run(m, tmp_path / "r", jobs=1)
    (record,) = Store(tmp_path / "r").records()
    assert (record["fit_host_cpu"], record["fit_device"]) == (record["host_cpu"], record["device"])
    assert record["host_cores"] == os.cpu_count()
    assert record["host_workers"] == 1
    (path,) = (tmp_path / "r" / "fits").iterdir()
    checksum, notes = Store(tmp_path / "r").tensors_head("fits", path.stem)
    assert notes["host_cpu"] == record["host_cpu"]
    assert len(checksum) == 64
    assert json.loads(json.dumps(record)) == record
