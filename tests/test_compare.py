"""compare, verify and submit on a small reference: an author's way from ten lines to a standing that others can check."""

import gzip
import json
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from bayesprune.bench.cli import main
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.integrity import canonical, sha256
from bayesprune.bench.spec.matrix import load_matrix
from bayesprune.datasets.errors import UsageError
from bayesprune.methods import registry as methods
from bayesprune.reports import commands
from bayesprune.reports.commands import entrants as entering
from bayesprune.reports.commands.among import reference_standings
from bayesprune.reports.commands.entrants import entrants, refuse_strangers
from bayesprune.reports.commands.recompute import chosen_by_hash, recompute, sample
from bayesprune.reports.commands.submission import CHECKED, load_submission
from bayesprune.reports.reference import packing, results, revisions
from bayesprune.reports.reference.results import Reference, joined
from bayesprune.reports.reference.tiers import TIERS
from click.testing import CliRunner

MATRIX = """datasets: [digits]
architectures: [mlp]
methods: [magnitude, opd, random]
sparsity: [0.8, 0.95]
seeds: [0, 1]
training: {epochs: 2, lr: 3.0e-3}
shift: false
protocol: equal-epochs
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tier of one small matrix, computed and packed."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "matrix").write_text(MATRIX)
    run(load_matrix(folder / "matrix"), folder / "results" / "tiny", jobs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TIERS, "core", ("tiny",))
        packing.pack(folder / "results", "core", folder)
    return joined([("core", folder / "core.jsonl.xz")])


@pytest.fixture
def author(made, tmp_path, monkeypatch):
    """An author's folder with the plug-in of the README, in which `tiny` is the matrix that decides."""
    readme = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    [plugin] = [block for block in blocks if '@bp.register("my-evidence")' in block]
    (tmp_path / "my_evidence.py").write_text(plugin)
    (tmp_path / "tiny").write_text(MATRIX)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TIERS, "core", ("tiny",))
    monkeypatch.setattr(entering, "MATRICES", {"weights": "tiny"})
    for module in ("compare", "submission"):
        monkeypatch.setattr(f"bayesprune.reports.commands.{module}.MATRICES", {"weights": "tiny"})
    monkeypatch.setattr(results, "shipped", lambda: made)
    return tmp_path


def invoke(*arguments):
    """A command in a process of its own, as far as plug-ins go."""
    from bayesprune.methods import registry

    registry._builders = {n: b for n, b in registry._builders.items() if b.__module__.startswith("bayesprune.")}
    for name in [name for name in sys.modules if name.startswith("bayesprune_plugin_")]:
        del sys.modules[name]
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_from_ten_lines_to_a_standing_that_others_can_check(author, coarse):
    said = invoke("compare", "my_evidence.py", "--jobs", 1)
    assert said.exit_code == 0, said.output
    assert "4 cells, about 1 minutes with 1 jobs" in said.output
    standing = r"my-evidence is in place [\d.]+ of 4, with 95 % between \d and \d, over 1 block of CORE: area [\d.]+ %"
    assert re.search(standing, said.output)
    page = (author / "comparison" / "index.html").read_text()
    assert "Standing among the reference results" in page
    table = (author / "comparison" / "tables" / "standing.md").read_text()
    assert "| **my-evidence** |" in table
    assert {"magnitude", "opd", "random"} <= set(re.findall(r"^\| (\w+) \|", table, re.M))

    packed = invoke("submit", "compared", "my_evidence.py", "--out", "mine.gz")
    assert "mine.gz: 4 cells" in packed.output, packed.output
    refused = invoke("verify", "mine.gz")
    assert refused.exit_code == 2
    assert "holds the source of a plug-in, my_evidence.py" in refused.output
    checked = invoke("verify", "mine.gz", "--execute-source", "--jobs", 1)
    assert "4 cells recomputed: 4 equal to the bit." in checked.output, checked.output
    assert checked.exit_code == 0

    forge(author / "mine.gz", lambda row: row | {"accuracy": row["accuracy"] + 0.01}, which=2)
    caught = invoke("verify", "mine.gz", "--execute-source", "--jobs", 1)
    assert caught.exit_code == 1
    assert "3 equal to the bit, 1 differs" in caught.output
    assert "differs: " in caught.output
    assert "accuracy" in caught.output


def forge(path, change, which=0):
    """Change one row, as somebody would who knows how the file is made."""
    first, _, body = gzip.decompress(path.read_bytes()).partition(b"\n")
    said = json.loads(body)
    said["rows"][which] = change(said["rows"][which])
    body = canonical(said).encode()
    path.write_bytes(gzip.compress(canonical(json.loads(first) | {"sha256": sha256(body)}).encode() + b"\n" + body))


def test_reference_cells_are_recomputed_to_the_bit(author, made):
    said = invoke("verify", "--sample", 4, "--seed", 0, "--jobs", 1)
    assert "4 cells recomputed: 4 equal to the bit." in said.output, said.output
    row = made.rows[0]
    one = invoke("verify", "--cell", row["key"][:12], "--jobs", 1)
    assert "1 cells recomputed: 1 equal to the bit." in one.output
    none = invoke("verify", "--cell", "0000")
    assert "a reference cell whose key begins with '0000' was asked for, and there is none" in none.output


def test_what_the_reference_has_is_not_run_again(author, coarse):
    said = invoke("compare", "opd")
    assert said.exit_code == 0, said.output
    assert "cells, about" not in said.output
    assert "opd is in place" in said.output
    assert not (author / "compared").exists()


def test_another_machine_is_allowed_rounding_and_the_same_one_is_not(author, made):
    rows = sample(made.rows, 2, 0)
    moved = [row | {"logits_digest": "f" * 64, "host_cpu": "another"} for row in rows]
    assert [c.outcome for c in recompute(moved, author / "again", 1)] == ["within rounding"] * 2
    same = [row | {"logits_digest": "f" * 64} for row in rows]
    assert [c.outcome for c in recompute(same, author / "again", 1)] == ["differs"] * 2
    far = [row | {"accuracy": row["accuracy"] - 0.3, "host_cpu": "another"} for row in rows]
    assert [c.outcome for c in recompute(far, author / "again", 1)] == ["differs"] * 2


def test_rows_of_other_revisions(author, made):
    row = made.rows[0]
    older = row | {"key": "0" * 64}
    assert [c.outcome for c in recompute([older], author / "again", 1)] == ["another revision"]
    newer = row | {"revisions": {"method": {row["method"]: 7}}}
    with pytest.raises(
        UsageError, match=r"is of revision 7 of method .*, this program has revision 1: update bayesprune"
    ):
        recompute([newer], author / "again", 1)


def test_a_report_shows_its_methods_among_the_reference_results_ranked_anew(author, made, coarse):
    run(author / "tiny", author / "results", jobs=1)
    assert invoke("report", "results").exit_code == 0
    assert "bayesprune ledger --run" in (author / "report" / "ledger.html").read_text()
    assert '<a href="ledger.html">Ledger of published claims</a>' in (author / "report" / "index.html").read_text()
    table = (author / "report" / "tables" / "reference-tiny.md").read_text()
    assert set(re.findall(r"^\| ([\w-]+) \|", table, re.MULTILINE)) >= {"magnitude", "opd", "random"}
    [found] = reference_standings(["opd", "random"], made)
    assert {row[0].text: row[1].text for row in found.rows} == {"opd": "1", "random": "2"}
    assert "CORE, 2 + 2 epochs" in found.title
    assert reference_standings(["opd", "nobody's"], made) == []


# ---------------------------------------------------------------------- forging


def test_forty_four_cells_of_three_hundred_find_a_tenth_that_is_forged():
    """The forger knows the rule, but what it chooses follows from the file that the forging changes."""
    rng, found, forgings = random.Random(0), 0, 3000
    rows = [{"key": f"{i:064x}", "accuracy": 0.9} for i in range(300)]
    for i in range(forgings):
        forged = set(rng.sample(range(300), 30))
        digest = f"file {i}"
        found += any(int(row["key"], 16) in forged for row in chosen_by_hash(rows, digest, CHECKED))
    expected = 1 - math.comb(270, CHECKED) / math.comb(300, CHECKED)
    assert expected >= 0.99
    assert found / forgings == pytest.approx(expected, abs=0.006)
    assert chosen_by_hash(rows, "a", CHECKED) == chosen_by_hash(rows[::-1], "a", CHECKED)


# ---------------------------------------------------------------------- the command line


def test_commands_run_in_a_process_that_has_imported_nothing(tmp_path):
    """No command may have the name under which its package holds a module."""
    command = [sys.executable, "-m", "bayesprune.bench.cli", "compare", "opt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "unknown method 'opt'" in done.stderr
    names = {path.stem for path in Path(commands.__file__).parent.glob("*.py")}
    assert not names & {name for name, value in vars(commands).items() if isinstance(value, click.Command)}


# ---------------------------------------------------------------------- bad input


def test_a_method_that_fits_no_block_is_told_so(author):
    said = invoke("compare", "lstm-w", "--jobs", 1)
    assert said.exit_code == 2
    assert "'lstm-w' fits none of the blocks it would be compared on" in said.output


def test_missing_seeds_and_another_protocol(author):
    assert invoke("compare", "lamp", "--jobs", 1).exit_code == 0
    for path in (author / "compared" / "cells").glob("*.json"):
        if json.loads(path.read_text())["record"]["seed"] == 1:
            path.unlink()
    said = invoke("submit", "compared", "lamp")
    assert "2 of 4 cells are missing, of seeds 1: `bayesprune compare` computes them" in said.output
    other = MATRIX.replace("epochs: 2", "epochs: 1").replace("[magnitude, opd, random]", "[lamp]")
    (author / "other").write_text(other)
    run(author / "other", author / "elsewhere", jobs=1)
    said = invoke("submit", "elsewhere", "lamp")
    assert "was computed under another protocol (1 epochs, cosine, then 1)" in said.output


def test_a_plug_in_that_takes_the_name_of_a_reference_row(author, made, monkeypatch):
    rows = tuple(row | {"method": "my-evidence"} if row["method"] == "random" else row for row in made.rows)
    monkeypatch.setattr(results, "shipped", lambda: Reference(rows, made.made))
    said = invoke("compare", "my_evidence.py")
    assert "the method name 'my-evidence' is taken by a reference row; register it under another" in said.output


def revised(made, revision, method="opd"):
    """The reference, with the rows of one method of another revision."""
    changed = {"revisions": {"method": {method: revision}}}
    return Reference(
        tuple(r | changed | {"key": r["key"][::-1]} if r["method"] == method else r for r in made.rows), made.made
    )


def test_reference_rows_that_are_ahead_of_the_code(author, made, monkeypatch):
    monkeypatch.setattr(results, "shipped", lambda: revised(made, 2))
    said = invoke("compare", "opd")
    assert "is of revision 2 of method 'opd', this program has revision 1: update bayesprune" in said.output


def test_reference_rows_that_the_code_has_left_behind_are_left_out(author, made, monkeypatch, coarse):
    entries = {n: replace(e, revision=2) if n == "opd" else e for n, e in methods._source_entries().items()}
    monkeypatch.setattr(methods, "_source_entries", lambda: entries)
    revisions._revisions.cache_clear()
    kept, note = revisions.current(made)
    assert note == "Reference rows of an older revision are left out: opd."
    assert {row["method"] for row in kept.rows} == {"magnitude", "random"}
    said = invoke("compare", "magnitude")
    assert "magnitude is in place" in said.output
    assert note in (author / "comparison" / "index.html").read_text()
    monkeypatch.undo()
    revisions._revisions.cache_clear()


def test_without_reference_results_there_is_nothing_to_compare_with(author, monkeypatch):
    monkeypatch.setattr(results, "shipped", lambda: Reference((), ()))
    assert "there are no reference results for weights yet" in invoke("compare", "opd").output


def test_an_unknown_method_and_a_file_without_one(author):
    assert "unknown method 'opt'" in invoke("compare", "opt").output
    (author / "empty.py").write_text("")
    assert "registers no method" in invoke("compare", "empty.py").output


def test_a_file_that_is_no_submission_is_refused(author):
    (author / "bad.gz").write_bytes(b"what")
    assert "bad.gz is no submission, or damaged" in invoke("verify", "bad.gz").output
    assert "there is no file" in invoke("verify", "absent.gz").output
    (author / "new.gz").write_bytes(gzip.compress(b'{"submission": 9, "sha256": ""}\n{}'))
    assert "of schema 9, this program reads 1: update bayesprune" in invoke("verify", "new.gz").output


def test_a_submission_cannot_name_code_to_import(author, made):
    entrants("magnitude", {})
    run_of = made.rows[0]["run"]
    harmful = run_of | {"architecture": {"name": "os:getcwd", "options": {}}}
    with pytest.raises(UsageError, match="is no cell of CORE"):
        refuse_strangers([made.rows[0] | {"run": harmful}])
    refuse_strangers(made.rows)


def test_reading_a_submission_executes_nothing(author, made):
    source = "import pathlib\n\npathlib.Path('executed').touch()\n"
    said = {"plugin": {"name": "x.py", "source": source}, "environment": {}, "rows": list(made.rows)}
    body = canonical(said).encode()
    head = canonical({"submission": 1, "sha256": sha256(body)}).encode()
    (author / "mine.gz").write_bytes(gzip.compress(head + b"\n" + body))
    assert load_submission(author / "mine.gz").plugin == ("x.py", source)
    refused = invoke("verify", "mine.gz")
    assert "holds the source of a plug-in, x.py" in refused.output
    assert not (author / "executed").exists()
    invoke("verify", "mine.gz", "--execute-source", "--sample", 1, "--jobs", 1)
    assert (author / "executed").exists()
