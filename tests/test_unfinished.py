"""Inferences say why training was too short for a decision of their own, and records hold it."""

import pytest
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.matrix import Matrix

METHODS = [
    {"name": "bmrs-u", "when": "during"},
    {"name": "bmrs-u", "when": "during", "lr_factor": 100.0},
    {"name": "pip-gates", "warm_up": [0, 1]},
    {"name": "pip-gates", "warm_up": [0, 1], "start": [-3.0, -5.0]},
    {"name": "variational-dropout", "warm_up": [2, 6]},
    {"name": "variational-dropout", "warm_up": [0, 2]},
    "magnitude",
]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    matrix = Matrix(
        datasets=["two-moons"], architectures=[{"name": "mlp", "widths": [8]}], methods=METHODS, sparsity=[0.5, "auto"],
        seeds=[0], units=["groups"], training={"epochs": 4, "lr": 0.01}, finetune={"epochs": 0}, shift=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("unfinished")
    run(matrix, folder, jobs=1)
    frame = results(folder)
    assert set(frame[frame["status"] != "done"]["method"]) <= {"magnitude"}
    return frame[frame["status"] == "done"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("bmrs-u(when=during)", "the noise had no time to grow: log s rose from -5.0 to"),
        ("bmrs-u(lr_factor=100, when=during)", None),
        ("pip-gates(warm_up=(0,1))", "the gates had no time to close: the least probable is open with probability 0."),
        ("pip-gates(start=(-3.0,-5.0), warm_up=(0,1))", None),
        ("variational-dropout(warm_up=(2,6))", "the warm-up of the divergence was not over: it had 50 % of its weight"),
        ("variational-dropout(warm_up=(0,2))", None),
        ("magnitude", None),
    ],
)
def test_a_decision_that_had_no_time_says_so(records, method, said):
    rows = records[records["method"] == method]
    assert len(rows) == (1 if method == "magnitude" else 2)
    for text in rows["unfinished"]:
        assert text is None or text != text if said is None else text.startswith(said)


def test_noise_that_had_no_time_removes_nothing(records):
    auto = records[records["sparsity_auto"]].set_index("method")
    assert auto.loc["bmrs-u(when=during)", "sparsity"] == 0
