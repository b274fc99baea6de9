"""Report pages for gated recurrent networks, from frames made by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from bayesprune.reports.build import report
from bayesprune.reports.figures import recurrent
from bayesprune.reports.records.frame import prepare
from bayesprune.reports.topics.recurrent import (
    GATES,
    account_panels,
    accounts,
    gates,
    gates_caption,
    kept,
    kept_caption,
    remains,
)
from bayesprune.reports.writing.render import markdown

METHODS = ("lstm-w", "lstm-wn", "lstm-wgn")


def account(neurons, per_gate, words=300, layers=1):
    """What a method reports of an LSTM with 50 neurons in each layer, and `per_gate` gates of each kind."""
    names = [f"recurrent.{i}" for i in range(layers)]
    return {
        "compression": 120.0 + neurons, "compression_published": 100.0 + neurons, "weights": [10, 1200],
        "alive": {"inputs words": [words, 1000], "inputs dimensions": [3, 20],
                  **{f"{name} gates": [sum(per_gate), 200] for name in names},
                  **{f"{name} neurons": [neurons, 50] for name in names}},
        "gates": {f"{name} gates": dict(zip(GATES, per_gate, strict=True)) for name in names},
    }  # fmt: skip


def record(method, seed, target, **more):
    auto = target is None
    return {
        "key": f"{method} {seed} {target}", "status": "done", "method": method, "dataset": "sst2",
        "architecture": "lstm", "units": "weights", "seed": seed, "when": "after", "sparsity_target": target,
        "sparsity_auto": auto, "sparsity": 0.9 if auto else target, "accuracy": 0.8 + 0.01 * seed,
        "dense_accuracy": 0.82, "likelihood": "categorical", "criterion": "worth", "inference": "RecurrentDropout()",
        "reports": [account(10 + seed, (4, 3, 8, 0))],
    } | more  # fmt: skip


@pytest.fixture
def frame():
    rows = [record(*cell) for cell in itertools.product(METHODS, (0, 1), (None, 0.8))]
    return pd.DataFrame([*rows, record("magnitude", 0, 0.8, reports=None)])


def test_one_row_for_each_trained_network(frame):
    rows = accounts(prepare(frame))
    assert len(rows) == len(METHODS) * 2
    assert set(rows["label"]) == set(METHODS)
    first = rows[rows["seed"] == 0].iloc[0]
    assert [first[name] for name in ("words", "words total", "inputs", "neurons", *GATES)] == [
        300, 1000, 3, 10, 4, 3, 8, 0,
    ]  # fmt: skip


def test_layers_add_up(frame):
    frame["reports"] = [[account(10, (4, 3, 8, 0), layers=2)]] * len(frame)
    row = accounts(prepare(frame)).iloc[0]
    assert [row["neurons"], row["neurons total"], row["cell"]] == [20, 100, 16]


def test_the_figures_show_the_means(frame):
    (axis,) = gates(prepare(frame)).axes
    heights = {tuple(np.round(line.get_ydata(), 6)) for line in axis.lines}
    assert heights == {tuple(np.round([(n / 10 + n / 11) / 2 for n in (4, 3, 8, 0)], 6))}
    assert [text.get_text() for text in axis.get_xticklabels()] == list(GATES)
    (axis,) = kept(prepare(frame)).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["words", "inputs", "neurons"]
    assert list(axis.lines[0].get_ydata()) == [30.0, 15.0, 21.0]


def test_a_marker_at_the_top_is_not_cut_off(frame):
    frame["reports"] = [[account(10, (10, 10, 10, 10))]] * len(frame)
    (axis,) = gates(prepare(frame)).axes
    assert axis.get_ylim() == pytest.approx((0, 1.08))


def test_what_a_network_does_not_have_is_left_out(frame):
    without = account(10, (4, 3, 8, 0))
    without["alive"].pop("inputs dimensions")
    frame["reports"] = [[without]] * len(frame)
    (axis,) = kept(prepare(frame)).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["words", "neurons"]
    assert "–" in markdown(remains(prepare(frame)))


def test_nothing_left_is_drawn(frame):
    frame["reports"] = [[account(0, (0, 0, 0, 0), 0) | {"compression": None, "compression_published": None}]] * len(
        frame
    )
    assert len(gates(prepare(frame)).axes) == 1
    assert "| lstm\\-w" in markdown(remains(prepare(frame))).replace("lstm-w", "lstm\\-w")


def test_the_table_and_the_captions_say_what_is_counted(frame):
    text = markdown(remains(prepare(frame)))
    assert "130.5 ± 0.7" in text
    assert "110.5 ± 0.7" in text
    assert "1.43 ± 0.10" in text
    assert "2 seeds" in gates_caption(prepare(frame))
    assert "frequent" in kept_caption(prepare(frame))


def test_other_frames_have_no_such_page(frame, tmp_path, coarse):
    others = frame[frame["method"] == "magnitude"]
    assert not account_panels(prepare(others))
    assert recurrent(prepare(others)) == []
    assert recurrent(prepare(others.drop(columns="reports"))) == []
    report(frame, tmp_path)
    assert (tmp_path / "figures" / "recurrent-gates.svg").exists()
    assert "Words, inputs and neurons of an LSTM that stay" in (tmp_path / "index.html").read_text()
