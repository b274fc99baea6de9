"""The ledger: shipped entries name cells that exist; rules decide as they say; files are read strictly."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bayesprune.bench.cli import main
from bayesprune.bench.harness.cell import names
from bayesprune.bench.results.frames import frame_of
from bayesprune.bench.spec.matrix import load_matrix
from bayesprune.datasets.errors import UsageError
from bayesprune.reports.ledger.entry import Check, Entry, load_entries
from bayesprune.reports.ledger.judge import judge, quantity
from bayesprune.reports.ledger.page import counts, finding_text, ledger_table, rule_text
from bayesprune.reports.ledger.records import frames, matrix_of, shipped_entries
from bayesprune.reports.reference.results import Reference
from click.testing import CliRunner
from scipy import stats


def records(**accuracies):
    """A frame with accuracies in per cent by method, one for each seed; 20 points less at 95 % than at 90 %."""
    rows = []
    for method, values in accuracies.items():
        for seed, value in enumerate(values):
            for sparsity, less in ((0.9, 0.0), (0.95, 20.0)):
                rows.append({
                    "key": f"{method}{seed}{sparsity}", "status": "done", "dataset": "digits", "architecture": "mlp",
                    "method": method.replace("_", "(rounds=5)"), "units": "weights", "seed": seed,
                    "sparsity_target": sparsity, "sparsity_auto": False, "accuracy": (value - less) / 100,
                    "sparsity": sparsity, "layer_density": {"a": 0.25, "b": 1.0}, "seconds_train": 2.0 + seed,
                })  # fmt: skip
    return frame_of(rows)


def entry(*checks, **more):
    given = {
        "id": "claim", "paper": "Somebody 2020", "says": "A beats B", "published": "relation", "source": "table 1",
        "matrix": "smoke", "written": "2026-01-31", "checks": list(checks),
    }  # fmt: skip
    return Entry.model_validate(given | more)


def verdict(check, frame, **more):
    [found] = judge([entry(check, **more)], {"smoke": frame}, "run {}")
    return found.verdict


A, B = {"method": "a", "sparsity": 0.9}, {"method": "b", "sparsity": 0.9}


# ---------------------------------------------------------------------- what is shipped


@pytest.fixture(scope="module")
def shipped():
    return shipped_entries()


def test_there_are_a_hundred_entries_of_twenty_five_papers(shipped):
    assert len(shipped) >= 100
    assert len({e.paper for e in shipped}) >= 25
    assert len({e.id for e in shipped}) == len(shipped)


def cells_of(matrix):
    """The cells of a matrix with its first seed, as if they had been run."""
    runs = matrix.model_copy(update={"seeds": matrix.seeds[:1]}).cells()
    done = {"status": "done", "accuracy": 0.5}
    return frame_of({"key": r.key, "run": r.model_dump(mode="json"), **done, **names(r)} for r in runs)


def test_every_rule_asks_for_cells_that_its_matrix_has(shipped):
    cells = {
        name: cells_of(load_matrix(file)) for name, file in {one.matrix: matrix_of(one) for one in shipped}.items()
    }
    for one in shipped:
        for check in one.checks:
            for asked in filter(None, (check.of, check.minus, check.over)):
                plain = asked.model_copy(update={"column": "accuracy", "layer": None})
                assert len(quantity(plain, cells[one.matrix])), f"{one.id}: {asked}"


def test_nothing_speaks_of_what_is_outside_the_project(shipped):
    for one in shipped:
        assert "shared/" not in one.model_dump_json()
        assert "issue" not in one.source


# ---------------------------------------------------------------------- rules


def test_a_paired_difference_is_judged_by_its_interval():
    frame = records(a=[96.0, 95.5, 97.0], b=[95.0, 94.6, 95.9])
    assert verdict({"of": A, "minus": B, "at_least": 0}, frame) == "held"
    assert verdict({"of": B, "minus": A, "at_least": 0}, frame) == "did not hold"
    assert verdict({"of": A, "minus": B, "at_least": 1}, frame) == "in part"
    [found] = judge([entry({"of": A, "minus": B, "at_least": 0})], {"smoke": frame}, "{}")[0].findings
    expected = stats.ttest_1samp([1.0, 0.9, 1.1], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_places_weigh_the_same_and_a_single_seed_elsewhere_does_not_spoil_the_interval():
    seeds = records(a=[96.0, 95.5, 97.0], b=[95.0, 94.6, 95.9])
    other = records(a=[96.0, 95.5, 97.0], b=[93.0, 92.4, 94.1]).assign(architecture="vit")
    alone = records(a=[50.0], b=[90.0]).assign(architecture="mixer")
    check = {"of": A, "minus": B, "at_least": 0}
    [found] = judge([entry(check)], {"smoke": pd.concat([seeds, other, alone], ignore_index=True)}, "{}")[0].findings
    gaps = np.array([[1.0, 0.9, 1.1], [3.0, 3.1, 2.9]])
    assert found.mean == pytest.approx(gaps.mean())
    assert found.error == pytest.approx(math.sqrt((gaps.var(axis=1, ddof=1) / 3).sum() / 4))
    assert found.seeds == 3
    assert found.verdict == "held"
    assert finding_text(found).endswith(", n = 3 on 2 networks")


def test_one_seed_cannot_decide_a_difference_and_says_so():
    frame = records(a=[96.0], b=[95.0])
    assert verdict({"of": A, "minus": B, "at_least": 0}, frame) == "in part"
    assert verdict({"of": B, "minus": A, "at_least": 0}, frame) == "did not hold"
    assert verdict({"of": A, "minus": B, "at_least": 0, "judged": "mean"}, frame) == "held"


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"near": 96.2}, "held"),
        ({"near": 97.5}, "did not hold"),  # beyond two standard errors, .67
        ({"near": 97.5, "within": 2.0}, "held"),
        ({"at_least": 96.0}, "held"),
        ({"at_most": 96.0}, "did not hold"),
        ({"at_least": 95.9, "judged": "every"}, "in part"),
        ({"at_least": 98.0, "judged": "every"}, "did not hold"),
        ({"at_least": 95.0, "at_most": 97.5, "judged": "every"}, "held"),
    ],
)
def test_bounds(bounds, expected):
    assert verdict({"of": A, **bounds}, records(a=[96.0, 95.5, 97.0])) == expected


def test_ratios_columns_layers_and_lists_of_sparsities():
    frame = records(a=[96.0, 95.0], a_=[90.0, 90.0])
    both = A | {"sparsity": [0.9, 0.95]}
    series = quantity(Check.model_validate({"of": both, "at_least": 0}).of, frame)
    assert series.groupby("seed").mean().to_list() == [86.0, 85.0]
    rounds = {"method": "a(rounds=5)", "sparsity": 0.9}
    assert verdict({"of": A, "over": rounds, "at_least": 1.05}, frame) == "held"
    assert verdict({"of": A | {"layer": 0, "column": "zeros"}, "near": 75.0, "within": 0.01}, frame) == "held"
    assert verdict({"of": A | {"column": "error"}, "near": 4.5}, frame) == "held"
    assert verdict({"of": A | {"column": "seconds_train"}, "at_most": 2.4}, frame) == "did not hold"


def test_units_and_parameters_are_different_shares():
    frame = records(a=[96.0]).assign(parameters=200.0, parameters_masked=150.0)
    assert verdict({"of": A | {"column": "zeros"}, "near": 90.0, "within": 0.01}, frame) == "held"
    assert verdict({"of": A | {"column": "masked"}, "near": 75.0, "within": 0.01}, frame) == "held"


def test_an_entry_holds_in_part_and_what_is_not_there_is_not_run():
    frame = records(a=[96.0, 95.5, 97.0], b=[95.0, 94.6, 95.9])
    two = entry({"of": A, "at_least": 90}, {"of": A, "at_least": 99})
    assert judge([two], {"smoke": frame}, "{}")[0].verdict == "in part"
    assert verdict({"of": {"method": "c"}, "at_least": 0}, frame) == "not run"
    assert verdict({"of": A, "at_least": 0}, pd.DataFrame()) == "not run"
    failed = frame.assign(status="failed")
    assert verdict({"of": A, "at_least": 0}, failed) == "not run"


def test_a_remembered_number_is_shown_and_decides_nothing():
    found = judge([entry({"of": A, "near": 96.0}, remembered=True)], {"smoke": records(a=[96.0])}, "run {}")
    assert "0 held" in counts(found)
    assert "1 only remembered, which decides nothing" in counts(found)
    cells = [cell.text for cell in ledger_table(found).rows[0]]
    assert cells[3] == "remembered, decides nothing (held)"
    assert cells[6] == "table 1 [from memory]"
    assert cells[7] == "run claim"


def test_a_rule_reads_as_a_sentence():
    check = Check.model_validate({"of": A | {"architecture": "mlp", "retraining": 30}, "minus": B, "at_least": -0.5})
    assert rule_text(check) == (
        "accuracy of a, 90 %, mlp, 30 epochs of retraining minus accuracy of b, 90 % >= -0.5 by the 95 % interval"
    )


# ---------------------------------------------------------------------- files

GOOD = """- id: claim
  paper: Somebody 2020
  says: a beats b
  published: relation
  source: table 1
  matrix: smoke
  written: "2026-01-31"
  checks:
    - {of: {method: magnitude, sparsity: 0.9}, minus: {method: random, sparsity: 0.9}, at_least: 0}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("says:", "sais:"), r"mine.yaml:3: unknown key 'sais'.*says"),
        (("  source: table 1\n", ""), r"mine.yaml:1: the key 'source' is missing"),
        (("method: magnitude", "methode: magnitude"), r"mine.yaml:9: unknown key 'methode'.*method"),
        (("at_least: 0", "atleast: 0"), r"mine.yaml:9: unknown key 'atleast'.*at_least"),
        ((", at_least: 0", ""), r"mine.yaml:9: checks.0: give near, at_least or at_most, else nothing is claimed"),
        (("at_least: 0", "at_least: much"), r"mine.yaml:9: checks.0.at_least: .*'much'"),
        (("sparsity: 0.9}, minus", "sparsity: 1.9}, minus"), r"mine.yaml:9: checks.0.of.sparsity"),
        (('"2026-01-31"', "yesterday"), r"mine.yaml:7: written: "),
        (("id: claim", "id: A Claim"), r"mine.yaml:1: id: "),
        (("- id", "id"), r"mine.yaml:1: a ledger is a list of entries"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "mine.yaml"
    text = GOOD.replace(*change)
    path.write_text(text.replace("\n  ", "\n") if change[0] == "- id" else text)
    with pytest.raises(UsageError, match=message):
        load_entries(path)


def test_an_id_counts_once_and_a_matrix_must_be_there(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + GOOD)
    with pytest.raises(UsageError, match=r"mine.yaml:10: the id 'claim' is taken"):
        load_entries(path)
    path.write_text(GOOD.replace("smoke", "smok"))
    with pytest.raises(UsageError, match=r"unknown matrix of entry 'claim' 'smok'.*smoke"):
        matrix_of(load_entries(path)[0], tmp_path)


def test_a_ledger_of_ones_own_is_judged_by_ones_own_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(GOOD.replace("smoke", "tiny"))
    (tmp_path / "tiny.yaml").write_text(
        "{datasets: [digits], architectures: [mlp], methods: [magnitude, random], sparsity: [0.9], seeds: [0, 1, 2], "
        "training: {epochs: 3}, finetune: {epochs: 0}, shift: false}"
    )
    before = CliRunner().invoke(main, ["ledger", "mine.yaml"])
    assert "1 not run yet" in before.output, before.output
    after = CliRunner().invoke(main, ["ledger", "mine.yaml", "--run", "claim", "--jobs", "1"])
    assert "1 held" in after.output, after.output
    page = (tmp_path / "ledger" / "index.html").read_text()
    assert "bayesprune ledger mine.yaml --run claim" in page
    assert "a beats b" in page
    wrong = CliRunner().invoke(main, ["ledger", "mine.yaml", "--run", "clam"])
    assert wrong.exit_code == 2
    assert "unknown entry 'clam'" in wrong.output


def test_the_shipped_ledger_is_judged_without_torch_and_without_records(tmp_path, shipped):
    code = f"import sys; from bayesprune.bench.cli import main; main(['ledger', '--out', {str(tmp_path)!r}], standalone_mode=False); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0
    text = (tmp_path / "index.html").read_text()
    assert all(one.id in text for one in shipped)
    found = judge(shipped, frames(shipped, Reference((), ())), "{}")
    assert all(one.verdict == "not run" for one in found)
    assert all(math.isnan(f.mean) for one in found for f in one.findings)
    assert np.all([len(one.findings) for one in found])
