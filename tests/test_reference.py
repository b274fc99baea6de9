"""Reference results: what a run leaves goes into a file and comes back; every way in which a file can be wrong."""

import gc
import hashlib
import json
import lzma
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from bayesprune.bench.cli import main
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.lock import InUse
from bayesprune.bench.results.scores import folder_scores, scored
from bayesprune.bench.results.store import MachineFault, Store
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.laplace.map import MAP
from bayesprune.reports.leaderboard.standings import leaderboard
from bayesprune.reports.ledger.records import shipped_entries
from bayesprune.reports.records.blocks import field
from bayesprune.reports.records.frame import prepare
from bayesprune.reports.records.ranking import rankings
from bayesprune.reports.reference import packing, revisions
from bayesprune.reports.reference.coverage import coverage
from bayesprune.reports.reference.files import FACE, read, write
from bayesprune.reports.reference.results import FOLDER, Reference, joined, shipped
from bayesprune.reports.reference.rows import row_of
from bayesprune.reports.reference.tiers import TIERS
from bayesprune.reports.topics.standing import reference_standing, standing_table
from click.testing import CliRunner

MATRIX = {
    "datasets": ["digits"], "architectures": ["mlp"], "methods": ["magnitude", "random", "snip"],
    "sparsity": [0.5, 0.9], "seeds": [0, 1], "training": {"epochs": 2, "lr": 3e-3}, "finetune": {"epochs": 2},
    "shift": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder of results, of which a tier `tiny` is made."""
    out = tmp_path_factory.mktemp("reference")
    run(Matrix.model_validate(MATRIX), out / "tiny", jobs=1)
    return out


@pytest.fixture
def packed(computed, tmp_path, monkeypatch):
    monkeypatch.setitem(TIERS, "tiny", ("tiny",))
    return packing.pack(computed, "tiny", tmp_path)[0]


def test_rows_hold_what_the_records_say_and_what_recomputes_them(computed, packed):
    head, rows = read(packed)
    records = {r["key"]: r for r in Store(computed / "tiny", create=False).records()}
    assert len(rows) == len(records) == 12
    assert head["made"] == max(r["started"] for r in records.values())[:10]
    for row in rows:
        for name in ("accuracy", "nll", "logits_digest", "mask_digest", "host_cpu", "version_torch", "started", "run"):
            assert row[name] == records[row["key"]][name]
    frame, own = joined([("tiny", packed)]).frame(), results(computed / "tiny")
    assert list(frame["key"]) == list(own["key"])
    np.testing.assert_array_equal(frame["accuracy"], own["accuracy"])


def test_scores_are_those_of_the_stored_outputs(computed, packed):
    store, reference = Store(computed / "tiny", create=False), joined([("tiny", packed)])
    found = folder_scores(store, {r["key"]: r for r in store.records()})
    assert found.keys() == reference.scores.keys()
    for key, scores in found.items():
        np.testing.assert_array_equal(scores.values, reference.scores[key].values)
        assert scores.test == reference.scores[key].test
        assert scores.values.mean() == pytest.approx(reference.by_key[key]["accuracy"], abs=0.002)


def test_packing_twice_gives_the_same_bytes_and_keeps_what_is_not_computed_again(
    computed, packed, monkeypatch, tmp_path
):
    before = packed.read_bytes()
    packing.pack(computed, "tiny", packed.parent)
    assert packed.read_bytes() == before
    packing.pack(tmp_path / "nothing", "tiny", packed.parent)
    assert packed.read_bytes() == before


def test_packing_lets_go_of_rows_whose_arithmetic_has_been_revised(computed, packed, monkeypatch):
    before = {row["method"] for row in read(packed)[1]}
    monkeypatch.setattr(revisions, "_revisions", lambda kind, name: {name: 2} if name == "magnitude" else {})
    packing.pack(computed, "tiny", packed.parent)
    assert {row["method"] for row in read(packed)[1]} == before - {"magnitude"} != before


def test_packing_lets_go_of_rows_whose_inference_has_been_revised(computed, packed, monkeypatch):
    monkeypatch.setattr(MAP, "revision", 2)  # of magnitude and random; nothing is trained before snip
    packing.pack(computed, "tiny", packed.parent)
    left = {row["method"] for row in read(packed)[1]}
    assert "magnitude" not in left


def test_computing_goes_seed_by_seed_and_resumes(monkeypatch, tmp_path):
    monkeypatch.setitem(TIERS, "tiny", ("one", "two"))
    parts = {name: Matrix.model_validate(MATRIX | {"seeds": seeds}) for name, seeds in (("one", [0, 1]), ("two", [0]))}
    monkeypatch.setattr("bayesprune.bench.spec.matrix.load_matrix", parts.__getitem__)
    ran = []
    monkeypatch.setattr(
        "bayesprune.bench.harness.run_matrix.run",
        lambda cells, out, **_: ran.append((out.name, {cell.seed for cell in cells}, len(cells))),
    )
    packing.compute(tmp_path, ["tiny"], Reference((), ()))
    assert ran == [("one", {0}, 6), ("two", {0}, 6), ("one", {1}, 6)]


def test_only_what_the_package_lacks_is_computed(packed, monkeypatch, tmp_path):
    monkeypatch.setitem(TIERS, "tiny", ("tiny",))
    monkeypatch.setattr("bayesprune.bench.spec.matrix.load_matrix", lambda name: Matrix.model_validate(MATRIX))
    whole = joined([("tiny", packed)])
    some = Reference(tuple(row for row in whole.rows if (row["seed"], row["method"]) != (1, "snip")), ())
    said = []
    packing.compute(tmp_path / "out", ["tiny"], some, jobs=1, said=said.append)
    assert said == ["tiny, seed 1: 2 of 6 cells"]
    write(tmp_path / "tiny.jsonl.xz", some.rows, "2026-01-31")
    path, count = packing.pack(tmp_path / "out", "tiny", tmp_path)
    assert count == len(whole.rows)
    again = joined([("tiny", path)]).by_key
    assert {key: row.get("logits_digest") for key, row in again.items()} == {
        key: row.get("logits_digest") for key, row in whole.by_key.items()
    }
    packing.compute(tmp_path / "nothing", ["tiny"], whole, said=said.append)
    assert len(said) == 1
    assert not (tmp_path / "nothing").exists()


def test_a_matrix_without_its_data_does_not_stop_the_others(monkeypatch, tmp_path):
    monkeypatch.setitem(TIERS, "tiny", ("one", "two"))
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path))
    small = {"training": {"epochs": 1}, "finetune": {"epochs": 0}, "methods": ["magnitude"], "sparsity": [0.5]}
    parts = {
        name: Matrix.model_validate(MATRIX | small | {"datasets": [data], "seeds": [0, 1]})
        for name, data in (("one", "mnist"), ("two", {"name": "digits", "subset": 100}))
    }
    monkeypatch.setattr("bayesprune.bench.spec.matrix.load_matrix", parts.__getitem__)
    said = []
    with pytest.raises(UsageError, match=r"^left out: one, as data set 'mnist' cannot be read"):
        packing.compute(tmp_path / "out", ["tiny"], Reference((), ()), jobs=1, said=said.append)
    assert said == [f"{name}, seed {seed}: 1 of 1 cells" for name, seed in (("one", 0), ("two", 0), ("two", 1))]
    assert len(list((tmp_path / "out" / "two" / "cells").iterdir())) == 2


@pytest.mark.parametrize("fault", [MachineFault("the disk is full"), InUse("another run owns the folder")])
def test_what_would_keep_the_others_from_running_too_ends_it(fault, monkeypatch, tmp_path):
    monkeypatch.setitem(TIERS, "tiny", ("one", "two"))
    monkeypatch.setattr("bayesprune.bench.spec.matrix.load_matrix", lambda name: Matrix.model_validate(MATRIX))

    def run(cells, out, **_):
        raise fault

    monkeypatch.setattr("bayesprune.bench.harness.run_matrix.run", run)
    said = []
    with pytest.raises(type(fault)):
        packing.compute(tmp_path, ["tiny"], Reference((), ()), said=said.append)
    assert said == ["one, seed 0: 6 of 6 cells"]


def test_what_is_missing_is_counted_by_cell_and_by_seed(packed, monkeypatch):
    monkeypatch.setattr("bayesprune.bench.spec.matrix.load_matrix", lambda name: Matrix.model_validate(MATRIX))
    reference = joined([("tiny", packed)])
    (whole,) = coverage(reference, ["tiny"])
    assert (whole.there, whole.planned, whole.whole, whole.seeds) == (12, 12, 2, 2)
    assert whole.texts() == ("tiny", "tiny", "12 of 12", "2 of 2", reference.rows[0]["started"][:10])
    some = Reference(tuple(row for row in reference.rows if (row["seed"], row["method"]) != (1, "snip")), ())
    assert next(coverage(some, ["tiny"])).texts()[2:4] == ("10 of 12", "1 of 2")
    monkeypatch.setattr(MAP, "revision", 2)  # rows of an older arithmetic count for nothing
    assert next(coverage(reference, ["tiny"])).there < 12
    assert next(coverage(Reference((), ()), ["tiny"])).texts()[2:] == ("0 of 12", "0 of 2", "–")


def test_a_dry_run_says_what_is_missing_and_computes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(main, ["reference", "--dry-run", "--tier", "mission", "--tier", "given"])
    assert said.exit_code == 0, said.output
    assert [line.split()[1] for line in said.output.splitlines()[1:]] == [*TIERS["mission"], *TIERS["given"]]
    assert re.search(r"mission +mission +[\d,]+ of [\d,]+ +\d of 2 ", said.output)
    assert not list(tmp_path.iterdir())


def test_shipped_matrices_of_the_tiers_are_there():
    for name in (name for names in TIERS.values() for name in names):
        assert load_matrix(name).cells()


def test_what_decides_the_ledger_is_in_a_tier():
    needs_data_of_the_user = {"ledger-lbbnn-adult"}
    asked = {entry.matrix for entry in shipped_entries()}
    assert asked - {name for names in TIERS.values() for name in names} == needs_data_of_the_user


# ---------------------------------------------------------------------- what can be wrong with a file


def rewritten(path, head=None, rows=None):
    """The file with another head, or other rows and a head that fits them."""
    old, body = read(path)
    if rows is not None:
        write(path, rows(body), old["made"])
    if head is not None:
        first, _, rest = lzma.decompress(path.read_bytes()).partition(b"\n")
        path.write_bytes(lzma.compress(json.dumps(json.loads(first) | head).encode() + b"\n" + rest))


def test_a_damaged_file_is_named(packed):
    content = packed.read_bytes()
    for bad in (content[:-30], content[:200] + b"?" + content[201:], b"", b"not xz", lzma.compress(b"[]\n")):
        packed.write_bytes(bad)
        with pytest.raises(UsageError, match=r"tiny.jsonl.xz is damaged .*make reference"):
            read(packed)


def test_a_row_that_was_edited_by_hand_is_found(packed):
    text = lzma.decompress(packed.read_bytes())
    packed.write_bytes(lzma.compress(text.replace(b'"accuracy":0.', b'"accuracy":0.9', 1)))
    with pytest.raises(UsageError, match="its checksum is of something else"):
        read(packed)


def test_another_schema_and_a_newer_version_are_told_apart(packed):
    rewritten(packed, {"schema": 2})
    with pytest.raises(UsageError, match="of schema 2, this program reads schema 1: update bayesprune"):
        read(packed)
    rewritten_old = json.loads(lzma.decompress(packed.read_bytes()).partition(b"\n")[0])["bayesprune"]
    text = lzma.decompress(packed.read_bytes()).replace(b'"schema": 2', b'"schema": 1', 1)
    packed.write_bytes(lzma.compress(text.replace(f'"{rewritten_old}"'.encode(), b'"99.0.1"', 1)))
    with pytest.raises(UsageError, match=r"was written by bayesprune 99.0.1, this is .*: update it"):
        read(packed)


def test_two_rows_that_look_alike_are_refused(packed):
    rewritten(packed, rows=lambda rows: [*rows, rows[0] | {"key": "0" * 64}])
    with pytest.raises(UsageError, match=r"holds two rows of .*another revision, or two methods share a name"):
        read(packed)


def test_a_row_that_is_none_is_refused(packed):
    rewritten(packed, rows=lambda rows: [rows[0] | {"accuracy": "much"}, *rows[1:]])
    with pytest.raises(UsageError, match="its accuracy is none"):
        read(packed)
    with pytest.raises(UsageError, match="there are no reference results"):
        read(packed.with_name("absent.jsonl.xz"))


# ---------------------------------------------------------------------- leaderboards of records


def test_scores_average_to_the_areas_by_which_everything_else_ranks(computed, packed):
    reference = joined([("tiny", packed)])
    records = prepare(reference.frame())
    found = field(records, reference.scores, "weights")
    assert found is not None
    board, ranked = leaderboard(found.blocks), rankings(records)[0]
    assert [s.label for s in ranked.standings] == list(board.entrants)
    rows = {s.entrant: s for s in board.standings}
    means = {n: records[records["label"] == n]["accuracy"].mean() for n in rows}
    for name, mean in means.items():  # of two sparsities the area is the plain mean
        assert rows[name].score == pytest.approx(mean, abs=0.002)
    table = standing_table(board, found, "standings", "Standings", ["snip"])
    assert [row[0].text for row in table.rows] == list(board.entrants)
    assert [row[0].text for row in table.rows if row[0].bold] == ["snip"]


def test_a_standing_is_of_one_budget_that_of_the_headline_or_of_most_results(packed):
    equal = joined([("tiny", packed)])
    table = reference_standing(equal, "tiny", "TIER, tiny")
    assert table is not None
    assert table.title == "TIER, tiny, 2 + 2 epochs"
    assert {row[0].text for row in table.rows} == {"magnitude", "random", "snip"}
    longer = tuple(row | {"key": row["key"][::-1], "epochs_finetune": 8, "accuracy": 0.99} for row in equal.rows)
    assert reference_standing(Reference((*equal.rows, *longer), ()), "tiny", "TIER, tiny") == table
    part = Reference(tuple(row for row in longer if row["method"] != "snip"), ())
    alone = reference_standing(part, "tiny", "TIER, tiny")
    assert alone is not None
    assert (alone.title, len(alone.rows)) == ("TIER, tiny, 2 + 8 epochs", 2)
    one = Reference(tuple(row for row in equal.rows if row["method"] == "snip"), ())
    for few in (one, Reference((), ())):
        assert reference_standing(few, "tiny", "TIER, tiny") is None


def test_an_entrant_that_must_stay_decides_what_counts(packed):
    reference = joined([("tiny", packed)])
    frame = reference.frame()
    frame = frame[~((frame["method"] == "snip") & (frame["seed"] == 1))]
    frame = frame[~((frame["method"] == "random") & (frame["sparsity_target"] == 0.9) & (frame["seed"] == 0))]
    found = field(prepare(frame), reference.scores, "weights", must=["snip"])
    assert found is not None
    assert found.seeds == ((0,),)
    assert found.blocks[0].entrants == ("magnitude", "snip")
    assert found.left_out == ("random",)
    assert "seeds 1" in found.notes[0]


def test_a_block_with_one_seed_does_not_spoil_the_tests_of_the_others(packed):
    reference = joined([("tiny", packed)])
    frame, again = reference.frame(), reference.frame()
    alone = again[again["seed"] == 0].assign(architecture="vit")
    found = field(prepare(pd.concat([frame, alone], ignore_index=True)), reference.scores, "weights")
    assert found is not None
    assert [block.name for block in found.blocks] == ["digits · mlp"]
    assert found.notes[0] == "Blocks not compared, for lack of common results or of a second seed: digits · vit."


def test_scores_of_every_likelihood():
    outputs = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    assert list(scored(outputs, np.array([0, 0, 0]), "categorical").values) == [True, False, True]
    labels = np.array([[1, 0], [1, 1], [1, 1]])
    assert list(scored(outputs - 0.5, labels, "bernoulli").values) == [1.0, 0.5, 1.0]
    y = np.array([[0.0], [1.0], [2.0]])
    found = scored(np.array([[0.5], [1.0], [1.0]]), y, "gaussian")
    assert found.values.mean() == pytest.approx(1 - ((0.25 + 0 + 1) / 3) / y.var())
    assert scored(np.zeros((2, 3, 4)), np.zeros((2, 3)), "categorical") is None


def test_a_row_that_is_no_mapping_is_damage(packed):
    first, body = lzma.decompress(packed.read_bytes()).split(b"\n", 1)
    lines = body.splitlines()
    for spoilt in (b"[]", b"1,2", b"{", b"null"):
        new = b"".join(line + b"\n" for line in (spoilt, *lines[1:]))
        told = json.loads(first) | {"sha256": hashlib.sha256(new).hexdigest()}
        packed.write_bytes(lzma.compress(json.dumps(told).encode() + b"\n" + new))
        with pytest.raises(UsageError, match="damaged"):
            read(packed)
        assert gc.isenabled()


def test_regressions_keep_half_precision(packed):
    scores = scored(np.array([[0.5], [1.0]]), np.array([[0.0], [1.0]]), "gaussian")
    from bayesprune.reports.reference.rows import scores_in

    _, rows = read(packed)
    again = scores_in(row_of(rows[0], "tiny", scores))
    np.testing.assert_allclose(again.values, scores.values, rtol=1e-3)


# ---------------------------------------------------------------------- what is shipped


@pytest.mark.skipif(not shipped().rows, reason="no reference results are in this checkout")
def test_the_shipped_files_are_small_fast_and_say_where_each_row_is_from():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.jsonl.xz")) <= 5_000_000
    shipped.cache_clear()
    start = time.process_time()
    reference = shipped()
    assert len(reference.scores) > 0
    assert time.process_time() - start <= 1.0
    names = {name for names in TIERS.values() for name in names}
    for row in reference.rows:
        assert row["matrix"] in names
        assert row["status"] in ("done", "skipped")
        if row["status"] == "done":
            assert {"version_torch", "version_python", "version_bayesprune", "host_cpu", "started"} <= row.keys()
            assert not row["git_revision"].endswith("-dirty")
    assert len({tuple(row.get(n) for n in FACE) for row in reference.rows}) == len(reference.rows)


def test_reading_them_never_imports_torch():
    code = (
        "import sys; from bayesprune.reports.reference.results import shipped; shipped().scores; "
        "import bayesprune.reports.topics.standing; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
