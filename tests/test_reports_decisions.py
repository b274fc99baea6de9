"""Report pages for methods that decide by themselves, from frames made by hand: chosen sparsities, model reduction,
averaged draws, bits per character."""

import itertools

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports.build import report
from bayesprune.reports.drawing import panels as layout
from bayesprune.reports.figures import decided, drawings
from bayesprune.reports.records.frame import dense_by_seed, halvings, panel_metric, panels, prepare
from bayesprune.reports.records.metrics import METRICS
from bayesprune.reports.records.ranking import rankings
from bayesprune.reports.records.statistics import Interval
from bayesprune.reports.records.trainings import fits
from bayesprune.reports.summary import facts
from bayesprune.reports.topics.averaged import averaged
from bayesprune.reports.topics.curves import curves
from bayesprune.reports.topics.operating import decisions, operating_points
from bayesprune.reports.topics.reduction import reduced, reduction, reduction_caption, reductions
from bayesprune.reports.writing.numbers import interval_text
from bayesprune.reports.writing.render import markdown

MAP = "MAP(precision=1.0)"
ZETA = {"layers.0.weight": 0.5, "layers.1.weight": -0.25}


def record(method, seed, target, **more):
    auto = target is None
    return {
        "key": f"{method} {seed} {target}", "status": "done", "method": method, "dataset": "digits",
        "architecture": "mlp", "units": "weights", "seed": seed, "when": "after", "sparsity_target": target,
        "sparsity_auto": auto, "sparsity": 0.75 + 0.01 * seed if auto else target, "accuracy": 0.9 + 0.02 * seed,
        "nll": 0.4, "ece": 0.05, "dense_accuracy": 0.96, "likelihood": "categorical", "inference": MAP,
        "seconds_train": 3.0, "seconds_score": 1.0, "reports": None, "learned": None,
    } | more  # fmt: skip


def said(pruned, tied=0.25, **more):
    return [{"pruned": pruned, "tied": tied, "zeta": ZETA} | more]


def variational(method, seed, target, **more):
    drawn = {"mc_draws": 50, "mc_accuracy": 0.91, "mc_nll": 0.3 + 0.1 * seed, "mc_ece": 0.01}
    learned = {"kl": 12.0, "sigma": {"layers.0.weight": 0.1}}
    return record(method, seed, target, inference="StudentT(kl=1.0)", dense_accuracy=0.5, learned=learned, **drawn,
                  reports=said(0.3 + 0.1 * seed)) | more  # fmt: skip


@pytest.fixture
def frame():
    rows = [variational("bmr", seed, target) for seed, target in itertools.product((0, 1), (None, 0.5))]
    rows += [record("magnitude", seed, target) for seed, target in itertools.product((0, 1), (0.5, 0.875))]
    return pd.DataFrame(rows)


def texts(table):
    return [dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows]


def test_one_row_says_what_a_method_decided(frame):
    (row,) = texts(decisions(prepare(frame)))
    assert row == {
        "method": "bmr", "pruned (%)": "75.5 ± 0.7", "metric": "accuracy (%)", "own dense": "50.0 ± 0.0",
        "there": "91.0 ± 1.4", "magnitude there": "91.0 ± 1.4", "better by": "0.00 [0.00, 0.00]",
        "NLL": "0.400 ± 0.000", "ECE (%)": "5.0 ± 0.0", "MC NLL": "0.350 ± 0.071", "MC ECE (%)": "1.0 ± 0.0",
        "seconds": "4.00 ± 0.00", "seeds": "2",
    }  # fmt: skip


def test_columns_without_a_value_are_left_out(frame):
    table = decisions(prepare(frame.drop(columns=["mc_nll", "mc_ece"]).assign(ece=np.nan)))
    assert not {"MC NLL", "MC ECE (%)", "ECE (%)"} & set(table.columns)
    assert "draws from the posterior" not in " ".join(table.notes)
    assert not decisions(prepare(frame[~frame["sparsity_auto"]])).rows


def test_the_baseline_begins_at_its_own_dense_network(frame):
    """At 1 - 2^-0.5 pruned, half way from 0 to 50 % in halvings, magnitude is half way from dense to its accuracy."""
    frame.loc[frame["sparsity_auto"], "sparsity"] = 1 - 2**-0.5
    (point,) = operating_points(prepare(frame))
    np.testing.assert_allclose(point.baseline, [(0.96 + 0.9) / 2, (0.96 + 0.92) / 2])


def test_the_dense_line_is_that_of_map_training_where_there_is_one(frame):
    prepared = prepare(frame)
    (panel,) = panels(prepared)
    assert list(dense_by_seed(prepared, panel, METRICS["accuracy"])) == [0.96, 0.96]
    alone = prepare(frame[frame["method"] == "bmr"])
    assert list(dense_by_seed(alone, panel, METRICS["accuracy"])) == [0.5, 0.5]


def test_a_star_has_a_cross_over_the_seeds(frame):
    frame.loc[frame["sparsity_auto"], "accuracy"] = [0.9, 0.94]
    (axis,) = curves(prepare(frame)).axes
    lines = [np.asarray(line.get_xydata(), dtype=float) for line in axis.lines]
    across = [xy for xy in lines if xy.shape == (2, 2) and xy[0, 1] == xy[1, 1] and 1 < xy[0, 0] < xy[1, 0] < 3]
    assert [tuple(xy[:, 0]) for xy in across] == [tuple(halvings([0.75, 0.76]))]


def test_round_sparsities_are_marked_beyond_those_asked_for(frame):
    frame.loc[frame["sparsity_auto"], "sparsity"] = 0.99
    (axis,) = curves(prepare(frame[frame["method"] == "bmr"])).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["50", "75", "90", "95", "98", "99"]


def test_legends_do_not_make_two_names_equal():
    names = [f"variational-dropout(kl={kl}, weights=small)" for kl in (0.1, 0.3)]
    assert layout.told_apart(names, 26) == names
    assert layout.told_apart(names[:1], 26) == ["variational-d…ights=small)"]


def test_model_reduction_is_counted_once_for_each_network(frame):
    rows = reduced(prepare(frame))
    assert rows[["seed", "pruned", "tied", "low", "high"]].values.tolist() == [
        [0, 0.3, 0.25, -0.25, 0.5], [1, 0.4, 0.25, -0.25, 0.5],
    ]  # fmt: skip
    (row,) = texts(reductions(prepare(frame)))
    assert [row[name] for name in ("pruned (%)", "tied (%)", "smallest ζ (nats)", "largest ζ (nats)", "seeds")] == [
        "35.0 ± 7.1", "25.0 ± 0.0", "-0.25 ± 0.00", "0.50 ± 0.00", "2",
    ]  # fmt: skip


def test_the_figure_of_model_reduction_shows_the_means(frame):
    left, right = reduction(prepare(frame)).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [35.0, 25.0])
    assert left.get_ylim()[0] == 0
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.5, -0.25])
    assert right.get_ylim()[0] < -0.25
    assert "2 seeds" in reduction_caption(prepare(frame))
    assert [drawing.name for drawing in decided(prepare(frame))] == ["reduction"]


def test_a_reduction_may_have_no_thresholds(frame):
    frame["reports"] = [[{"pruned": 0.2, "bound": 3.0}] if method == "bmr" else None for method in frame["method"]]
    (row,) = texts(reductions(prepare(frame)))
    assert (row["pruned (%)"], row["tied (%)"], row["largest ζ (nats)"]) == ("20.0 ± 0.0", "–", "–")
    assert len(reduction(prepare(frame)).axes) == 2


@pytest.mark.parametrize("reports", [None, [], [{"uncertain": 0.1}], "text"])
def test_other_reports_are_no_reduction(frame, reports):
    others = prepare(frame.assign(reports=[reports] * len(frame)))
    assert not len(reduced(prepare(others)))
    assert decided(prepare(others)) == []
    assert decided(prepare(frame.drop(columns="reports"))) == []
    assert not reductions(prepare(others)).rows


def test_averaging_is_paired_by_seed(frame):
    chosen, asked = texts(averaged(prepare(frame)))
    assert (chosen["pruned"], asked["pruned"]) == ("chosen @ 75.5 ± 0.7 %", "50 %")
    assert chosen["draws"] == "50"
    assert (chosen["NLL"], chosen["MC NLL"]) == ("0.400 ± 0.000", "0.350 ± 0.071")
    assert chosen["NLL better by"] == "0.050 [0.000, 0.100]"
    assert chosen["ECE better by"] == "4.0 [4.0, 4.0]"
    assert not averaged(prepare(frame[frame["method"] == "magnitude"])).rows


def test_what_rounds_to_zero_has_no_sign():
    assert interval_text(Interval(-1e-9, -0.02, -1e-9, 3), 1, 1) == "0.0 [0.0, 0.0]"


def test_other_inferences_have_no_evidence(frame):
    """What variational training learned is no log marginal likelihood, and its networks are none of the evidence's."""
    assert not len(fits(prepare(frame)))
    assert not [
        drawing for drawing in drawings(prepare(frame), rankings(prepare(frame))) if drawing.name.startswith("evidence")
    ]


@pytest.fixture
def text_frame(frame):
    """The same as a language model: bits per character fall where accuracy rises."""
    return frame.assign(bpc=5 - frame["accuracy"], dense_bpc=4.0)


def test_bits_per_character_rank_language_models(text_frame):
    prepared = prepare(text_frame)
    (panel,) = panels(prepared)
    assert panel_metric(prepared, panel).name == "bpc"
    (ranking,) = rankings(prepare(prepared))
    assert ranking.metrics == {"bpc"}
    at_half = next(standing for standing in ranking.standings if standing.label == "magnitude")
    np.testing.assert_allclose(at_half.area.value, np.mean([4.0 / 4.1, 4.0 / 4.08]))
    assert next(row["metric"] for row in texts(decisions(prepare(text_frame)))) == "bits per character"


def test_classifiers_beside_language_models_keep_their_accuracy(frame, text_frame):
    both = prepare(pd.concat([frame, text_frame.assign(dataset="docstrings")]))
    assert {panel.dataset: panel_metric(both, panel).name for panel in panels(both)} == {
        "digits": "accuracy",
        "docstrings": "bpc",
    }


def test_the_page_has_all_of_it(text_frame, tmp_path, coarse):
    report(text_frame, tmp_path)
    page = (tmp_path / "index.html").read_text()
    for heading in ("What methods decide by themselves", "Averaging over the posterior", "What model reduction decides",
                    "Bits per character against sparsity", "Results: bits per character"):  # fmt: skip
        assert heading in page
    assert "| bmr |" in (tmp_path / "tables" / "model-reduction.md").read_text()
    assert markdown(decisions(prepare(text_frame))) == (tmp_path / "tables" / "operating-points.md").read_text()


def test_skipped_cells_have_no_start(frame):
    """Nothing stands before `to` where a cell that never started is among the records."""
    frame["started"] = ["", *["2026-01-02"] * (len(frame) - 1)]
    assert ("Started", "2026-01-02") in facts(prepare(frame))
    frame.loc[1, "started"] = "2026-01-01"
    assert ("Started", "2026-01-01 to 2026-01-02") in facts(prepare(frame))
