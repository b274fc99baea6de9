"""Files that somebody damaged, swapped or forged, and machines that fail: told in one line, blamed on no method."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results import integrity
from bayesprune.bench.results import store as store_module
from bayesprune.bench.results.frames import csv_text, results
from bayesprune.bench.results.store import MachineFault, Store
from bayesprune.bench.results.verify import verify
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.datasets import atomic
from bayesprune.datasets.errors import UsageError
from forgery import mutated
from test_store import record

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def matrix(**more):
    content = {
        "datasets": [{"name": "digits", "subset": 100}], "architectures": [{"name": "mlp", "widths": [8]}],
        "methods": ["magnitude", "random"], "sparsity": [0.5, 0.9], "seeds": [0], "training": {"epochs": 1},
        "finetune": {"epochs": 0}, "shift": False,
    }  # fmt: skip
    return Matrix(**content | more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "r"
    harness.run(matrix(seeds=[0, 1]), folder, jobs=1)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "r")
    return tmp_path / "r"


def sealed_text(content):
    """A record's file with a checksum that agrees."""
    body = json.dumps(content, separators=(",", ":"))
    return json.dumps({"checksum": integrity.sha256(body.encode()), "record": content})


# ---------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": float("nan")}, {"accuracy": float("inf")}, {"accuracy": "0.9"}, {"accuracy": 10**400},
        {"seed": "0"}, {"seed": None}, {"seed": True}, {"sparsity_target": "a"}, {"status": "splendid"}, {"method": 7},
        {"dataset": None}, {"layer_density": 3}, {"reports": {}}, {"reason": ["x"]}, {"traceback": {"a": 1}},
        {"sparsity_auto": 1}, {"key": "another"}, {"shift": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_forged_records_are_set_aside(change, tmp_path):
    store = Store(tmp_path / "r")
    path = store.folder / "cells" / "a.json"
    path.write_text(sealed_text(record("a") | change))
    store.write_record(record("b", accuracy=0.5))
    assert list(results(store.folder)["key"]) == ["b"]
    assert store.read_record("a") is None
    assert (store.folder / "set-aside" / "cells" / "a.json").exists()


@pytest.mark.parametrize("text", ["NaN", "1e999", "[" * 100_000, '{"record": NaN, "checksum": ""}', '{"record": 1e999}', '"x"', "null", '{"record": [], "checksum": 3}'])  # fmt: skip
def test_what_is_no_record_is_set_aside(text, tmp_path):
    store = Store(tmp_path / "r")
    (store.folder / "cells" / "a.json").write_text(text)
    assert results(store.folder).empty
    assert store.read_record("a") is None


def test_a_record_that_cannot_be_read_is_set_aside(tmp_path, monkeypatch):
    """Permissions do not stop root: the read itself is made to fail."""
    store = Store(tmp_path / "r")
    for key in "ab":
        store.write_record(record(key))
    real = type(store.folder).read_bytes

    def read(self):
        if self.name == "a.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self)

    monkeypatch.setattr(type(store.folder), "read_bytes", read)
    assert list(results(store.folder)["key"]) == ["b"]
    assert store.read_record("a") is None
    assert (store.folder / "set-aside" / "cells" / "a.json").exists()


def test_surrogates_reach_no_file(tmp_path):
    store = Store(tmp_path / "r")
    store.write_record(record("a", "failed", reason="\ud800 boom", traceback="\udfff", learned={"\ud801": ["\ud802"]}))
    path = store.folder / "cells" / "b.json"
    path.write_text(sealed_text(record("b", "failed", reason="old \ud800 text")))  # as it was written before
    frame = results(store.folder)
    csv_text(frame).encode()
    assert frame["reason"].tolist() == ["\\ud800 boom", "old \\ud800 text"]


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    import torch

    store = Store(tmp_path / "r")
    store.write_record(record("a", accuracy=np.float32(0.5), learned={"n": torch.tensor(3), "f": [np.int64(2)]}))
    found = store.read_record("a")
    assert found["accuracy"] == 0.5
    assert found["learned"] == {"n": 3, "f": [2]}
    with pytest.raises(TypeError):
        store.write_record(record("b", learned={"t": torch.ones(2)}))
    with pytest.raises(ValueError, match="characters"):
        store.write_record(record("b", learned={"t": "x" * (1 << 25)}))


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_no_cell_of_the_tables_is_a_formula(text, tmp_path):
    import csv
    import io

    store = Store(tmp_path / "r")
    store.write_record(record("a", "failed", reason=text, method=text, layer_density={"=x": -1.0}))
    store.write_record(record("b", nll=-1.5, reason="-1.5"))
    rows = list(csv.DictReader(io.StringIO(csv_text(results(store.folder)), newline="")))
    assert rows[0]["reason"] == rows[0]["method"] == f"'{text}".replace("\r", " ")
    assert (rows[1]["nll"], rows[1]["reason"]) == ("-1.5", "-1.5")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"cells": 5}', b'{"cells": [1]}', b"\xff", b'{"cells": [[]]}', b"null"]
)
def test_a_damaged_note_of_the_matrix_is_told_and_written_anew(content, folder):
    (folder / "matrix.json").write_bytes(content)
    assert any("matrix.json is damaged" in gap for gap in Store(folder).gaps())
    assert any("matrix.json" in problem for problem in verify(folder).problems)
    harness.run(matrix(seeds=[0, 1]), folder, jobs=1)
    assert not Store(folder).gaps()


# ---------------------------------------------------------------------------------- tensors


def swap(one, other):
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1])
    other.write_bytes(content[0])


@pytest.mark.parametrize("kind", ["fits", "logits"])
def test_swapped_files_are_noticed_and_computed_again(kind, folder, finished):
    expected = csv_text(results(finished).filter(regex="^(?!seconds)").reindex(columns=results(finished).columns))
    one, other = sorted((folder / kind).iterdir())[:2]
    swap(one, other)
    store = Store(folder)
    assert len(verify(folder).problems) == 2
    if kind == "logits":
        assert any("2 cells are without the intact outputs" in gap for gap in store.gaps())
    else:
        for path in (folder / "cells").iterdir():
            path.unlink()
    harness.run(matrix(seeds=[0, 1]), folder, jobs=1)
    assert not verify(folder).problems
    assert len(list((folder / "set-aside" / kind).iterdir())) == 2
    found = results(folder)
    assert csv_text(found.filter(regex="^(?!seconds)").reindex(columns=found.columns)) == expected


def test_damaged_logits_are_computed_again(folder):
    path = next((folder / "logits").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    harness.run(matrix(seeds=[0, 1]), folder, jobs=1)
    assert (folder / "set-aside" / "logits" / path.name).exists()
    assert not verify(folder).problems


def test_files_from_before_do_not_say_what_they_are_and_are_read(folder, monkeypatch):
    """Without kind, key and digest of the data among the metadata, as they were written before."""
    from safetensors.numpy import save

    store = Store(folder)
    for kind in ("fits", "logits"):
        for path in (folder / kind).iterdir():
            tensors, notes = store.read_tensors(kind, path.stem)
            notes.pop("dataset_digest")
            text = json.dumps(notes, separators=(",", ":"))
            checksum = integrity.tensor_digest(tensors, text)
            path.write_bytes(save(tensors, {"metadata": text, "checksum": checksum}))
    shutil.rmtree(folder / "data")
    from bayesprune.bench.harness import cell

    monkeypatch.setattr(cell, "execute", lambda *a: pytest.fail("computed again"))
    harness.run(matrix(seeds=[0, 1]), folder, jobs=1)
    assert not verify(folder).problems
    one, other = sorted((folder / "logits").iterdir())[:2]
    swap(one, other)  # the record knows what its outputs were
    assert len(verify(folder).problems) == 2


def test_verify_finds_what_is_mixed_and_changes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    found = verify(folder)
    assert found.counts == {"records": 8, "outputs": 8, "fits": 2, "data sets": 2}
    assert found.problems == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    store = Store(folder)
    twin = store.records()[0] | {"key": "f" * 64, "dataset_digest": "of other data"}
    store.write_record(twin)
    problems = " ".join(verify(folder).problems)
    assert "look alike" in problems
    assert "different contents" in problems
    with pytest.raises(UsageError, match="not a results folder"):
        verify(folder.parent)


def test_the_command_names_what_is_wrong_and_exits_with_1(folder):
    from bayesprune.bench.cli import main
    from click.testing import CliRunner

    done = CliRunner().invoke(main, ["verify-folder", str(folder)])
    assert (done.exit_code, "0 problems" in done.output) == (0, True)
    path = next((folder / "cells").iterdir())
    path.write_text(path.read_text()[:100])
    (folder / "cells" / ".half.tmp").write_text("")
    done = CliRunner().invoke(main, ["verify-folder", str(folder)])
    assert done.exit_code == 1
    assert f"cells/{path.name} is damaged" in done.output
    assert "never finished" in done.output
    assert CliRunner().invoke(main, ["verify-folder", str(folder.parent)]).exit_code == 2


# ---------------------------------------------------------------------------------- machines that fail


def test_a_full_disk_ends_the_run_and_blames_no_method(tmp_path, monkeypatch):
    real, left = os.fsync, [6]

    def fsync(number):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with pytest.raises(MachineFault, match="No space left on device; finished cells are safe"):
        harness.run(matrix(), tmp_path / "r", jobs=1)
    monkeypatch.undo()
    assert not (results(tmp_path / "r")["status"] == "failed").any()
    harness.run(matrix(), tmp_path / "r", jobs=1)
    assert list(results(tmp_path / "r")["status"]) == ["done"] * 4


LIMITED = """
import resource, signal, sys
from bayesprune.bench.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["bayesprune", *sys.argv[2:]]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_files_that_the_system_refuses_are_one_line_and_exit_code_2(jobs, tmp_path):
    (tmp_path / "m.yaml").write_text(
        json.dumps(
            json.loads(matrix().model_dump_json())
            | {"datasets": ["digits"], "architectures": ["mlp"], "methods": ["magnitude", "random"]}
        )
    )
    command = ["run", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "r"), "--jobs", jobs]
    done = subprocess.run([sys.executable, "-c", LIMITED, "20000", *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    again = subprocess.run([sys.executable, "-c", LIMITED, "-1", *command], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "4 done, 0 failed" in again.stdout


def test_a_folder_that_is_removed_while_it_is_in_use_is_told(tmp_path, monkeypatch):
    from bayesprune.bench.harness import cell

    real = cell.execute

    def execute(*args):
        found = real(*args)
        shutil.rmtree(tmp_path / "r", ignore_errors=True)
        return found

    monkeypatch.setattr(cell, "execute", execute)
    with pytest.raises(MachineFault, match="removed"):
        harness.run(matrix(), tmp_path / "r", jobs=1)


def test_a_store_that_cannot_move_a_damaged_file_says_so(tmp_path, monkeypatch):
    store = Store(tmp_path / "r")
    (store.folder / "cells" / "a.json").write_text("{")
    monkeypatch.setattr(
        store_module.os, "replace", lambda *a: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system"))
    )
    with pytest.raises(MachineFault, match="Read-only"):
        store.read_record("a")


# ---------------------------------------------------------------------------------- data


NPZ = "npz:{}"


def write_data(path, scale=1.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)) * scale
    np.savez(path, x=x, y=(x[:, 0] > 0).astype(int))


def test_data_that_are_replaced_during_a_run_end_it(tmp_path, monkeypatch):
    """Under the old key no number of the new file is stored, and none of the old one under the new key."""
    from bayesprune.bench.harness import cell, workers

    path = tmp_path / "d.npz"
    write_data(path)
    own = matrix(datasets=[NPZ.format(path)], seeds=[0, 1])
    keys = [r.key for r in own.cells()]
    real = cell.execute

    def execute(*args):
        write_data(path, 2.0)
        return real(*args)

    monkeypatch.setattr(cell, "execute", execute)
    workers.forget_data()
    with pytest.raises(MachineFault, match="are not those that this run was begun with"):
        harness.run(own, tmp_path / "r", jobs=1)
    monkeypatch.undo()
    frame = results(tmp_path / "r")
    assert 0 < len(frame) < 8
    assert set(frame["key"]) <= set(keys)
    assert set(frame["status"]) == {"done"}
    write_data(path)
    workers.forget_data()
    harness.run(own, tmp_path / "r", jobs=1)
    assert set(results(tmp_path / "r")["key"]) == set(keys)
    assert not verify(tmp_path / "r").problems


def test_data_that_a_function_returns_otherwise_than_before_are_refused_on_resuming(tmp_path, monkeypatch):
    """The source of the function is the same, and so is the key; what it reads is not."""
    from bayesprune.bench.harness import workers

    (tmp_path / "from_a_file.py").write_text(
        "import numpy as np\ndef data():\n    f = np.load('d.npz')\n    return f['x'], f['y']\n"
    )
    monkeypatch.chdir(tmp_path)
    write_data("d.npz")
    own = matrix(datasets=["from_a_file:data"])
    workers.forget_data()
    harness.run(own, "r", jobs=1)
    next((tmp_path / "r" / "cells").iterdir()).unlink()
    write_data("d.npz", 3.0)
    workers.forget_data()
    with pytest.raises(MachineFault, match=r"are not those that .*r was begun with"):
        harness.run(own, tmp_path / "r", jobs=1)
    shutil.rmtree(tmp_path / "r" / "data")  # of a folder from before, the records say what they were made of
    with pytest.raises(MachineFault, match=r"are not those that .*r was begun with"):
        harness.run(own, tmp_path / "r", jobs=1)
    sys.modules.pop("from_a_file")


def test_files_are_read_once_and_cells_are_cheap(tmp_path, monkeypatch):
    from bayesprune.bench.harness.planned import pending, planned, tasks_of
    from bayesprune.datasets import registry

    path = tmp_path / "d.npz"
    write_data(path)
    home, read = sys.modules[type(registry).__module__], []
    real = home._file_digest
    monkeypatch.setattr(home, "_file_digest", lambda p: read.append(p) or real(p))
    many = matrix(
        datasets=[NPZ.format(path)],
        methods=["magnitude", "opd", "snip", "random"],
        sparsity=[i / 101 for i in range(25)],
        seeds=list(range(100)),
    )
    start = time.process_time()
    plan = planned(many, (1, 1))
    store = Store(tmp_path / "r")
    harness.set_others_aside(plan.every, store)
    tasks, broken = tasks_of(pending(plan.cells, store))
    assert time.process_time() - start < 4  # about one second on an idle machine
    assert (len(plan.every), len(tasks), broken) == (10_000, 400, {})
    assert len(read) <= 2  # for the keys, and to see that what was loaded is the same


# ---------------------------------------------------------------------------------- fuzz


@pytest.mark.parametrize("rounds", [100, pytest.param(2500, marks=pytest.mark.slow)])
def test_no_record_stops_a_table(rounds, finished, tmp_path):
    """Mutated records, with checksums that agree or not, are in the table or missing from it."""
    rng = random.Random(0)
    genuine = Store(finished).records()[0]
    store = Store(tmp_path / "r")
    path = store.folder / "cells" / f"{genuine['key']}.json"
    sizes = set()
    for _ in range(rounds):
        changed = mutated(genuine, rng)
        text = sealed_text(changed) if rng.random() < 0.8 else json.dumps({"record": changed, "checksum": "0"})
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text))]
        path.write_text(text, "utf-8", "surrogatepass")
        frame = results(store.folder)
        csv_text(frame).encode()
        store.gaps()
        verify(store.folder)
        sizes.add(len(frame))
    assert sizes == {0, 1}
