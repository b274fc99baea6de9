"""Budgets in reports: never mixed, always named; the curve over retraining; who was undertrained, and why."""

import math

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports import tables
from bayesprune.reports.build import report
from bayesprune.reports.drawing.style import styles
from bayesprune.reports.records.budgets import budgets
from bayesprune.reports.records.division import divided
from bayesprune.reports.records.frame import prepare
from bayesprune.reports.records.ranking import rankings
from bayesprune.reports.topics.budgets import sensitivities
from scipy.stats import kendalltau

LABEL = "equal-epochs, version 1"
METHODS = ("magnitude", "opd", "snip")


def record(method, seed, retraining, accuracy, sparsity=0.95, training=8, protocol=LABEL, **more):
    return {
        "key": f"{method}{seed}{retraining}{sparsity}{more.get('architecture', '')}", "status": "done", "method": method,
        "dataset": "digits", "architecture": "mlp", "units": "weights", "seed": seed, "sparsity_target": sparsity,
        "sparsity_auto": False, "sparsity": sparsity, "inference": "MAP(precision=1.0)", "likelihood": "categorical",
        "accuracy": accuracy, "dense_accuracy": 0.97, "epochs_train": training, "epochs_finetune": retraining,
        "epochs_held": 16 if method == "snip" else retraining, "protocol": protocol,
    } | more  # fmt: skip


# Accuracies at R = 0, T/4, T, 4T: the order turns, as that of results on digits does.
MEANS = {"magnitude": (0.3, 0.7, 0.95, 0.98), "opd": (0.2, 0.6, 0.96, 0.97), "snip": (0.9, 0.91, 0.94, 0.95)}


@pytest.fixture
def frame():
    rows = [
        record(method, seed, retraining, MEANS[method][i] + 0.001 * seed)
        for method in METHODS
        for seed in (0, 1, 2)
        for i, retraining in enumerate((0, 2, 8, 32))
    ]
    return pd.DataFrame(rows)


def test_the_headline_is_of_as_many_epochs_of_retraining_as_of_training(frame):
    first, *others = divided(prepare(frame))
    assert (first.budget.training, first.budget.retraining) == (8, 8)
    assert sorted(part.budget.retraining for part in others) == [0, 2, 32]
    assert len(first.records) == 9
    (ranking,) = rankings(first.ranked)
    assert [s.label for s in ranking.standings] == ["opd", "magnitude", "snip"]


def test_no_table_but_the_curve_holds_two_budgets_and_each_names_its_own(frame):
    records = prepare(frame)
    parts = divided(records)
    found = {t.name: t for t in tables.tables_of(records, parts, rankings(parts[0].ranked))}
    assert {"ranking", "ranking-8-0", "ranking-8-2", "ranking-8-32", "accuracy", "accuracy-8-0"} <= set(found)
    for name, best in (("ranking-8-0", "snip"), ("ranking", "opd"), ("ranking-8-32", "magnitude")):
        assert found[name].rows[0][0].text == best
        retraining = name.split("-")[-1] if name != "ranking" else "8"
        assert found[name].notes[0] == f"Budget: 8 epochs of training and {retraining} of retraining, {LABEL}."
    values = {row[0].text: row[1].text for row in found["accuracy-8-0"].rows}
    assert {name: text.split()[0] for name, text in values.items()} == {
        "magnitude": "30.1", "opd": "20.1", "snip": "90.1",
    }  # fmt: skip


def test_epochs_with_the_final_mask_stand_beside_results(frame):
    records = prepare(frame)
    parts = divided(records)
    table = next(t for t in tables.tables(parts[0].records, []) if t.name == "accuracy")
    assert table.columns[-1] == "final mask (epochs)"
    assert {row[0].text: row[-1].text for row in table.rows} == {"magnitude": "8", "opd": "8", "snip": "16"}


def test_the_curve_shows_how_the_order_turns(frame):
    (curve,) = sensitivities(prepare(frame))
    assert curve.names == ["0", "T/4", "T", "4T"]
    means = np.array([MEANS[name] for name in curve.values])
    assert (curve.ranks == np.argsort(np.argsort(-means, axis=0), axis=0) + 1).all()
    for i, name in ((0, "0"), (1, "T/4"), (3, "4T")):
        assert curve.agreement[name] == pytest.approx(kendalltau(means[:, i], means[:, 2]).statistic)


def test_a_method_without_all_budgets_is_not_on_the_curve(frame):
    short = frame[(frame["method"] != "snip") | (frame["epochs_finetune"] != 32)]
    (curve,) = sensitivities(prepare(short))
    assert list(curve.values) == ["magnitude", "opd"]


def test_the_page_names_the_protocol_first_and_shows_the_curve(frame, tmp_path):
    report(frame, tmp_path)
    page = (tmp_path / "index.html").read_text()
    first = page.partition('<p class="headline">')[2].partition("</p>")[0]
    assert first.startswith(f"Protocol {LABEL}: 8 epochs of training and 8 of retraining for every method")
    assert "How the order of methods depends on the epochs of retraining" in page
    assert (tmp_path / "figures" / "sensitivity.pdf").stat().st_size > 0
    assert "0.33" in page.partition("Kendall")[2][:300] or "-0.33" in page.partition("Kendall")[2][:300]


def test_without_a_protocol_the_page_says_so(frame, tmp_path):
    report(frame[frame["epochs_finetune"] == 2].assign(protocol=None), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "No protocol: 8 epochs of training and 2 of retraining." in page


def test_what_was_tuned_to_different_values_is_one_method(frame):
    """The curve repeats cells, which are no twins."""
    is_tuned = frame["method"] == "opd"
    frame.loc[is_tuned, "inference"] = [f"MAP(precision={1 + i % 2})" for i in range(is_tuned.sum())]
    assert set(prepare(frame)["label"]) == set(METHODS)


def test_records_from_before_have_an_unknown_budget(frame):
    old = frame[frame["epochs_finetune"] == 8].drop(
        columns=["epochs_train", "epochs_finetune", "epochs_held", "protocol"]
    )
    (budget,) = budgets(prepare(old))
    assert not budget.is_known
    assert budget.note == budget.sentence == ""


# ---------------------------------------------------------------- undertrained


def variational(method, seed, dense, **more):
    return record(method, seed, 8, 0.9, inference="MeanField()", dense_accuracy=dense, **more)


def test_a_method_whose_unpruned_network_is_two_points_below_map_stands_apart(frame):
    rows = [variational("bmr", s, 0.951) for s in (0, 1)] + [variational("horseshoe", s, 0.94) for s in (0, 1)]
    part = divided(prepare(pd.concat([frame, pd.DataFrame(rows)])))[0]
    (found,) = part.undertrained
    assert (found.label, found.place) == ("horseshoe", "digits · mlp")
    assert found.reason == "its unpruned network is 3.0 points below that of MAP training"
    assert "horseshoe †" in set(part.records["label"])
    (ranking,) = rankings(part.ranked)
    assert {s.label for s in ranking.standings} == {*METHODS, "bmr"}


def test_the_mark_changes_nothing_of_how_a_method_looks():
    look = styles(["bmr", "bmr †", "opd", "horseshoe †"])
    assert look["bmr †"] == look["bmr"] == styles(["bmr"])["bmr"]
    assert look["horseshoe †"] == styles(["horseshoe"])["horseshoe"]


def test_noise_that_had_no_time_to_grow_is_why_nothing_was_removed(frame, tmp_path):
    why = "the noise had no time to grow: log s rose from -5.0 to -3.4 at most, and structures leave from about 2.5 on"
    rows = [variational("bmrs-u", s, 0.97, unfinished=why, sparsity_auto=True, sparsity=math.nan) for s in (0, 1)]
    rows = [row | {"sparsity": 0.0} for row in rows]
    every = pd.concat([frame, pd.DataFrame(rows)])
    (found,) = divided(prepare(every))[0].undertrained
    assert found.reason == f"{why}; its own decision removed 0 %"
    report(every, tmp_path)
    assert why in (tmp_path / "tables" / "undertrained.md").read_text().replace("\\", "")
    assert "bmrs-u (weights)" in (tmp_path / "index.html").read_text()
