"""Open questions: estimates against scipy, every analysis on records with known answers, the command, the pages."""

import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bayesprune.bench.cli import main
from bayesprune.bench.harness.cell import names
from bayesprune.bench.results.frames import frame_of
from bayesprune.bench.results.scores import Scores
from bayesprune.bench.spec.matrix import load_matrix
from bayesprune.reports.questions import catalogue, equal_cost, own_sparsities, real_differences, sparsifiability
from bayesprune.reports.questions.by_effects import by_effects
from bayesprune.reports.questions.catalogue import QUESTIONS
from bayesprune.reports.questions.effects import decided, estimated
from bayesprune.reports.questions.measures import measured
from bayesprune.reports.questions.page import write
from bayesprune.reports.questions.question import Evidence, Question
from bayesprune.reports.reference import results
from bayesprune.reports.reference.packing import pack
from bayesprune.reports.reference.results import Reference, joined
from bayesprune.reports.reference.tiers import TIERS
from click.testing import CliRunner
from scipy import stats

ROOT = Path(__file__).parents[1]


def values(**blocks):
    """An effect from its values in each block, one for each seed."""
    index = [(block, seed) for block, own in blocks.items() for seed in range(len(own))]
    flat = [value for own in blocks.values() for value in own]
    return pd.Series(flat, pd.MultiIndex.from_tuples(index, names=["block", "seed"]), dtype=float)


# ---------------------------------------------------------------------- estimates


def test_one_block_is_a_paired_t_test():
    own = [1.0, 2.5, 0.5, 3.0, 1.5]
    found = estimated({"effect": values(one=own)}, 1.0)["effect"]
    test = stats.ttest_1samp(own, 0.0)
    assert found.value == pytest.approx(np.mean(own))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))


def test_blocks_weigh_the_same_with_welch_and_satterthwaite():
    one, other = [1.0, 2.0, 3.0], [6.0, 4.0, 5.0, 5.0]
    found = estimated({"effect": values(one=one, other=other)}, 1.0)["effect"]
    parts = [np.var(own, ddof=1) / len(own) / 4 for own in (one, other)]
    df = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, (one, other), strict=True))
    half = stats.t.ppf(0.975, df) * np.sqrt(sum(parts))
    assert found.value == pytest.approx(3.5)
    assert (found.low, found.high) == pytest.approx((3.5 - half, 3.5 + half))
    assert dict(found.blocks) == pytest.approx({"one": 2.0, "other": 5.0})
    assert found.seeds == 3


def test_effects_are_one_family_and_what_was_not_run_is_none_of_it():
    strong, weak = [2.0, 2.1, 1.9, 2.0], [0.5, 1.5, -0.5, 2.0]
    found = estimated({"a": values(x=strong), "b": values(x=weak), "c": values(x=[1.0])}, 0.1)
    raw = [stats.ttest_1samp(own, 0.0).pvalue for own in (strong, weak)]
    assert found["a"].p == pytest.approx(2 * raw[0])
    assert found["b"].p == pytest.approx(raw[1])
    assert found["c"].verdict == "not run"


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "verdict"),
    [
        (2.0, 1.0, 3.0, 0.01, "above"), (-2.0, -3.0, -1.0, 0.01, "below"), (2.0, 1.0, 3.0, 0.06, "undecided"),
        (0.5, 0.2, 0.8, 0.001, "alike"), (0.9, 0.2, 1.6, 0.001, "undecided"), (0.0, -5.0, 5.0, 1.0, "undecided"),
    ],
)  # fmt: skip
def test_verdicts(value, low, high, p, verdict):
    assert decided(value, low, high, p, margin=1.0) == verdict


# ---------------------------------------------------------------------- every question on records with known answers


@pytest.fixture(scope="module")
def cells():
    """Records of the matrices that questions run, without results."""
    return {name: [names(r) | {"key": r.key, "finetune": r.finetune.epochs, "train": r.training.epochs}
                   for r in load_matrix(name).cells()] for q in QUESTIONS.values() for name in q.matrices}  # fmt: skip


def records(cells, name, result):
    """Finished records of a matrix: what `result` says of a cell and a generator, and a bit of noise for each seed."""
    rows = []
    for cell in cells[name]:
        rng = np.random.default_rng([cell["seed"], *map(ord, cell["dataset"] + cell["architecture"])])
        run = {"training": {"epochs": cell["train"]}, "finetune": {"epochs": cell["finetune"]}}
        noise = 0.002 * rng.standard_normal()
        head = {
            "status": "done", "sparsity": cell["sparsity_target"], "run": run, "started": "2026-01-01T00:00:00",
            "when": "after", "inference": "MAP()",
        }  # fmt: skip
        rows.append(cell | head | result(cell, noise))
    return frame_of(rows)


def judged(cells, name, result):
    question = QUESTIONS[name]
    frames = {matrix: records(cells, matrix, result) for matrix in question.matrices}
    return question.analysis(Evidence(frames | {matrix: pd.DataFrame() for matrix in question.beside}, {}))


def controls(gain_trained, gain_initial):
    """Methods `gain` points ahead of their controls."""

    def result(cell, noise):
        is_control = cell["method"].startswith("random(like=")
        name = cell["method"].removeprefix("random(like=").removesuffix(")")
        gain = gain_initial if name in ("snip", "grasp", "synflow") else gain_trained
        plain = cell["method"] in ("random", "random(when=before)")
        return {"accuracy": 0.5 if plain else 0.8 + (0 if is_control else gain / 100 + noise)}

    return result


@pytest.mark.parametrize(("trained", "initial", "answer"), [(5, 5, "yes"), (0, -5, "no"), (5, 0, "it depends")])
def test_criterion_or_ratios(cells, trained, initial, answer):
    found = judged(cells, "criterion-or-ratios", controls(trained, initial))
    assert found.answer == answer
    [shares] = [table for table in found.tables if table.name == "shares"]
    assert shares.rows[0][-1].text == f"{100 * 30 / (30 + trained):.0f}"


def test_noise_is_undecided(cells):
    def result(cell, noise):
        return {"accuracy": 0.8 + (0 if "like" in cell["method"] else 20 * noise)}

    assert judged(cells, "criterion-or-ratios", result).answer == "undecided"


@pytest.mark.parametrize(("plain", "retrained", "answer"), [(4, 4, "yes"), (0, -3, "no"), (4, 0, "it depends")])
def test_spam_or_decay(cells, plain, retrained, answer):
    def result(cell, noise):
        gain = retrained if cell["finetune"] else plain
        passes = dict.fromkeys(("passes_train", "passes_score", "passes_finetune"), 100.0)
        is_spam = cell["method"].startswith("spam-") and "tuned" in cell["method"]
        return {"accuracy": 0.8 + (gain / 100 + noise if is_spam else 0)} | passes

    found = judged(cells, "spam-or-decay", result)
    assert found.answer == answer
    assert found.says[0] == f"Without retraining: {'yes' if plain else 'no'}."


@pytest.mark.parametrize(("short", "long", "answer"), [(3, 3, "yes"), (-3, 0, "no"), (-3, 3, "it depends")])
def test_calibration(cells, short, long, answer):
    def result(cell, noise):
        harm = (short if cell["train"] == 8 else long) / 100 + noise
        error = 0.05 + (harm if cell["sparsity_target"] else 0)
        return {"accuracy": 0.8, "ece": error, "ece_scaled": error}

    found = judged(cells, "calibration", result)
    assert found.answer == answer
    gaps = {row[0].text: row[1].text for row in found.tables[1].rows}
    assert gaps["long instead of short"].startswith(f"{long - short:+.1f}")


@pytest.mark.parametrize(("mean", "precision", "answer"), [(-4, -30, "yes"), (4, 0, "no"), (0, -30, "it depends")])
def test_posterior_scores(cells, mean, precision, answer):
    def result(cell, noise):
        less = mean if "by=mean" in cell["method"] else precision if "by=precision" in cell["method"] else 0
        return {"accuracy": 0.6 + less / 100 + (noise if less else 0)}

    assert judged(cells, "posterior-scores", result).answer == answer


@pytest.mark.parametrize(("gain", "answer"), [(5, "yes"), (0, "no")])
def test_equal_cost_reads_the_baseline_at_the_same_passes(cells, gain, answer):
    """Accuracy rises by 1 point for each doubling of the passes; other methods cost twice as much as magnitude."""

    def result(cell, noise):
        passes = (1 + cell["finetune"]) * (1 if cell["method"] == "magnitude" else 2)
        ahead = 0 if cell["method"] == "magnitude" else gain / 100 + noise
        accuracy = 0.6 + 0.01 * np.log2(passes) + ahead
        return {"accuracy": accuracy, "passes_train": passes, "passes_score": 0.0, "passes_finetune": 0.0}

    assert judged(cells, "equal-cost", result).answer == answer


def test_curves_are_read_in_the_log_of_the_cost_and_end_where_they_end():
    index = pd.MultiIndex.from_tuples([("a", 0)], names=["block", "seed"])
    costs, accuracy = pd.DataFrame([[1.0, 4.0]], index), pd.DataFrame([[10.0, 20.0]], index)
    for wanted, value in ((2.0, 15.0), (0.5, 10.0), (9.0, 20.0)):
        assert equal_cost.at_cost(costs, accuracy, pd.Series([wanted], index)).tolist() == pytest.approx([value])


@pytest.mark.parametrize(("own", "answer"), [(0.8, "yes"), (0.2, "no")])
def test_own_sparsities(cells, own, answer):
    """Networks lose nothing until 80 %, and everything beyond."""

    def result(cell, noise):
        share = own if cell["sparsity_auto"] else cell["sparsity_target"]
        accuracy = 0.9 + noise if share <= 0.8 else 0.1
        return {"accuracy": accuracy, "validation_accuracy": accuracy, "sparsity": share}

    found = judged(cells, "own-sparsities", result)
    assert found.answer == answer
    assert {cell.text for row in found.tables[-1].rows for cell in row[1:]} == {f"{100 * own:.0f} / 80"}
    assert own_sparsities.HALVING == own_sparsities.MARGIN == 1.0


@pytest.mark.parametrize(("told", "answer"), [("evidence", "yes"), ("validation", "it depends"), ("", "no")])
def test_evidence(cells, told, answer):
    """What pruning leaves follows the evidence, or the validation loss from which the evidence is derived, or chance."""

    def result(cell, noise):
        name = cell["method"].replace("opd-kfac", "magnitude")
        fit = f"{cell['dataset']}{cell['architecture']}{name}{cell['train']}{cell['seed']}"
        chance, other, third = np.random.default_rng(list(fit.encode())).random(3)
        evidence = other + 0.3 * chance if told == "validation" else chance
        kept = {"evidence": chance, "validation": other + 0.3 * third, "": third}[told]
        accuracy = 0.9 - (0.1 * (1 - kept) if cell["sparsity_target"] else 0)
        return {"laplace_evidence": 1000 * evidence, "dense_validation_nll": 1 - other, "accuracy": accuracy}

    found = judged(cells, "evidence", result)
    assert found.answer == answer


def test_partial_correlation_of_ranks_is_that_of_residuals():
    rng = np.random.default_rng(0)
    own = pd.DataFrame(rng.random((12, 3)), columns=["x", "y", "z"])
    ranks = own.rank()
    design = np.column_stack([np.ones(12), ranks["z"]])
    left = [ranks[c] - design @ np.linalg.lstsq(design, ranks[c], rcond=None)[0] for c in "xy"]
    assert sparsifiability.partial_rho("x", "y", "z")(own) == pytest.approx(100 * np.corrcoef(*left)[0, 1])
    assert sparsifiability.rho("x", "y")(own) == pytest.approx(100 * stats.spearmanr(own["x"], own["y"]).statistic)
    assert np.isnan(sparsifiability.partial_rho("x", "y", "x")(own))


@pytest.mark.parametrize(("gap", "answer"), [(0.06, "yes"), (0.0, "undecided")])
def test_real_differences(cells, gap, answer):
    """Methods in steps, each example right or wrong by itself; without steps nothing is told apart."""
    frame = records(cells, "question-ratios", lambda cell, noise: {"accuracy": 0.5})
    labels, scores = sorted(set(frame["method"])), {}
    for row in frame.itertuples():
        rng = np.random.default_rng([row.seed, *map(ord, f"{row.dataset}{row.architecture}")])
        easy = rng.random(200)
        chance = 0.95 - gap * labels.index(row.method)
        noise = np.random.default_rng(zlib.crc32(row.key.encode()) if gap else row.seed).random(200)
        scores[row.key] = Scores(f"{row.dataset}{row.seed}", 0.9 * easy + 0.1 * noise < chance)
    evidence = Evidence({"question-ratios": frame, "reference-core-weights": pd.DataFrame()}, scores)
    found = real_differences.analysis(evidence)
    assert found.answer == answer
    assert real_differences.analysis(evidence).says == found.says


@pytest.mark.parametrize("lacks", [{"seed": 4}, {"seed": 4, "method": "opd", "dataset": "digits"}])
def test_nothing_is_judged_before_the_last_cell(cells, lacks):
    """Looking early, and stopping at a result that one likes, would spoil the tests."""
    question, frame = QUESTIONS["criterion-or-ratios"], records(cells, "question-ratios", controls(5, 5))
    core = {name: pd.DataFrame() for name in question.beside}
    assert question.judged(Evidence({"question-ratios": frame} | core, {})).answer == "yes"
    gone = np.logical_and.reduce([frame[column] == value for column, value in lacks.items()])
    found = question.judged(Evidence({"question-ratios": frame[~gone]} | core, {}))
    assert found.answer == "not run"
    assert found.says == ("Not run, or not to its end: question-ratios.",)


# ---------------------------------------------------------------------- what is shipped


def test_every_question_has_six_blocks_of_five_seeds_and_a_tier(cells):
    for question in QUESTIONS.values():
        for name in question.matrices:
            places = {(c["dataset"], c["architecture"]) for c in cells[name]}
            assert len(places) >= 6
            assert {c["seed"] for c in cells[name]} == set(range(5))
            assert name in TIERS["questions"]
        assert set(question.beside) <= {name for names in TIERS.values() for name in names}
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", question.written)


def test_without_records_nothing_is_answered():
    nothing = {name: pd.DataFrame() for q in QUESTIONS.values() for name in q.read}
    for question in QUESTIONS.values():
        assert question.judged(Evidence(nothing, {})).answer == "not run"
        assert question.analysis(Evidence(nothing, {})).answer == "not run"


# ---------------------------------------------------------------------- the command

MATRIX = """datasets: [two-moons]
architectures: [{name: mlp, widths: [8]}]
methods: [magnitude, random]
sparsity: [0.5]
seeds: [0, 1]
training: {epochs: 1}
finetune: {epochs: 0}
shift: false
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A question that takes a second, in a folder of its own."""

    def effects(frames):
        one, other = (measured(frames["tiny"], name, 0.5) for name in ("magnitude", "random"))
        return {"magnitude over random": one - other}

    analysis = by_effects(effects, "points", 1.0, lambda found: ("undecided", ["Two seeds say nothing."]))
    question = Question("tiny", "Is magnitude better?", "Nobody.", "Two cells.", ("tiny",), ("None.",), "2026-01-01",
                        analysis, seeds=2)  # fmt: skip
    monkeypatch.setattr(catalogue, "QUESTIONS", {"tiny": question})
    monkeypatch.setattr("bayesprune.reports.commands.question.QUESTIONS", {"tiny": question})
    monkeypatch.setitem(TIERS, "tiny", ("tiny",))
    monkeypatch.setattr(results, "shipped", lambda: Reference((), ()))
    (tmp_path / "tiny").write_text(MATRIX)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(main, ["question", *map(str, arguments)])


def test_the_command_computes_judges_and_writes_a_page(tiny, monkeypatch):
    assert "not run (no cells yet)" in invoke().output
    planned = invoke("tiny", "--dry-run", "--jobs", 1)
    assert "4 cells to run.\nAbout 1 minutes." in planned.output, planned.output
    assert not (tiny / "question-results").exists()
    said = invoke("tiny", "--jobs", 1)
    assert "undecided: Two seeds say nothing." in said.output, said.output
    page = (tiny / "questions" / "tiny.md").read_text()
    assert "# Is magnitude better?" in page
    assert "![Is magnitude better?](tiny.svg)" in page
    assert "4 cells (all done), 1 block (two-moons × mlp(widths=(8,)))" in page.replace("\\", "")
    assert (tiny / "questions" / "tiny.svg").read_text().startswith("<?xml")

    pack(tiny / "question-results", "tiny", tiny)
    packed = joined([("tiny", tiny / "tiny.jsonl.xz")])
    monkeypatch.setattr(results, "shipped", lambda: packed)
    again = invoke("tiny", "--results", "nowhere", "--out", "again")
    assert "cells to run" not in again.output
    assert not (tiny / "nowhere").exists()
    for name in ("tiny.md", "tiny.svg"):
        assert (tiny / "again" / name).read_bytes() == (tiny / "questions" / name).read_bytes()
    assert "undecided (4 cells" in invoke().output
    assert "4 cells to run" in invoke("tiny", "--anew", "--dry-run", "--jobs", 1).output


def test_an_unknown_question_is_one_sentence(tiny):
    said = CliRunner().invoke(main, ["question", "tinny"])
    assert said.exit_code == 2
    assert said.output.strip() == "bayesprune: error: unknown question 'tinny'; did you mean 'tiny'?"


def test_listing_questions_needs_no_torch():
    import subprocess

    code = "import sys; from bayesprune.bench.cli import main\ntry: main(['question'])\nexcept SystemExit: pass\n"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


# ---------------------------------------------------------------------- the documentation


@pytest.mark.skipif(not (ROOT / "docs/generators").is_dir(), reason="not a checkout")
def test_every_question_has_a_page_that_the_list_links_to(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from generators import questions

    monkeypatch.setattr(questions, "shipped", lambda: Reference((), ()))
    questions.write(tmp_path)
    listed = (tmp_path / "index.md").read_text()
    for name, question in QUESTIONS.items():
        assert f"({name}.md)" in listed
        assert (tmp_path / f"{name}.md").read_text().startswith(f"# {question.asks}\n")


def test_pages_are_equal_bytes(cells, tmp_path):
    question = QUESTIONS["spam-or-decay"]
    frames = {matrix: records(cells, matrix, lambda cell, noise: {"accuracy": 0.5 + noise, "passes_train": 1.0})
              for matrix in question.matrices}  # fmt: skip
    for folder in ("one", "two"):
        write(question, Evidence(frames, {}), tmp_path / folder)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
