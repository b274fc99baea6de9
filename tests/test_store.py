"""The store: atomic files, checksums, damaged files set aside, deterministic tables."""

import json
import threading

import numpy as np
import pytest
from bayesprune.bench.results.columns import COSTS, IDENTITY, RESULTS, SECONDS
from bayesprune.bench.results.frames import costs_text, csv_text, results
from bayesprune.bench.results.store import SCHEMA, Store
from bayesprune.datasets import atomic
from bayesprune.datasets.atomic import write_atomically
from bayesprune.datasets.errors import UsageError


def record(key, status="done", **more):
    identity = {"dataset": "digits", "architecture": "mlp", "method": "magnitude", "units": "weights", "seed": 0}
    return {
        "key": key,
        "status": status,
        "reason": None,
        "sparsity_target": 0.5,
        "sparsity_auto": False,
        **identity,
        **more,
    }


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_records_survive_the_round_trip(store):
    store.write_record(record("a", accuracy=0.25, layer_density={"w": 0.5}))
    assert store.read_record("a")["layer_density"] == {"w": 0.5}
    assert store.read_record("b") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b.replace(b"0.25", b"0.35"),
        lambda b: b"[1]",
        lambda b: b"\xff\xfe",
    ],
    ids=["truncated", "empty", "altered", "not a record", "binary"],
)
def test_a_damaged_record_is_set_aside_and_missing(store, damage):
    store.write_record(record("a", accuracy=0.25))
    path = store.folder / "cells" / "a.json"
    path.write_bytes(damage(path.read_bytes()))
    assert store.read_record("a") is None
    assert not path.exists()
    assert (store.folder / "set-aside" / "cells" / "a.json").exists()


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"junk"])
def test_a_damaged_checkpoint_is_set_aside_and_missing(store, damage):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}
    store.write_tensors("fits", "k", arrays, {"cost": 1.5})
    read, notes = store.read_tensors("fits", "k")
    assert notes == {"cost": 1.5}
    np.testing.assert_array_equal(read["w"], arrays["w"])
    path = store.folder / "fits" / "k.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert store.read_tensors("fits", "k") is None
    assert (store.folder / "set-aside" / "fits" / "k.safetensors").exists()


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(atomic.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_never_see_a_part(tmp_path):
    path, stop = tmp_path / "file", threading.Event()
    write_atomically(path, b"0" * 100_000)
    seen = set()

    def read():
        while not stop.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(200):
        write_atomically(path, str(i % 10).encode() * 100_000)
    stop.set()
    reader.join()
    assert seen == {(100_000, 1)}


def test_another_schema_version_is_refused_and_untouched(tmp_path):
    (tmp_path / "store.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(UsageError, match=f"schema version {SCHEMA + 1}"):
        Store(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["store.json"]
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(UsageError, match="unreadable"):
        Store(tmp_path)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"no store\.json"):
        Store(tmp_path)
    with pytest.raises(UsageError, match="not a results folder"):
        results(tmp_path)
    with pytest.raises(UsageError, match="at least one"):
        results()


def test_the_frame_is_ordered_merged_and_keeps_failures(tmp_path):
    one, two = Store(tmp_path / "1"), Store(tmp_path / "2")
    one.write_record(record("b", seed=1))
    one.write_record(record("a", "failed", reason="boom", traceback="..."))
    two.write_record(record("a", accuracy=0.5))
    two.write_record(record("c", sparsity_target=None, sparsity_auto=True))
    frame = results(tmp_path / "1", tmp_path / "2")
    assert list(frame["key"]) == ["a", "b", "c"]
    assert frame["status"].tolist() == ["done"] * 3
    assert results(tmp_path / "1")["status"].tolist() == ["failed", "done"]
    assert results(tmp_path / "1")["reason"][0] == "boom"
    assert csv_text(frame) == csv_text(results(tmp_path / "2", tmp_path / "1"))
    header = csv_text(frame).splitlines()[0].split(",")
    assert header == [*IDENTITY, *RESULTS, *SECONDS]  # what hangs on the machine is in costs.csv
    assert not {*COSTS} & {*header}
    assert {*COSTS} <= {*costs_text(frame).splitlines()[0].split(",")}


def test_an_empty_store_gives_an_empty_frame_with_all_columns(store):
    frame = results(store.folder)
    assert len(frame) == 0
    assert {"status", "reason", "method", "accuracy", "seconds_train", "seconds_score"} <= set(frame.columns)
