"""Protocols: budgets that are equal, tuning that is judged after pruning, and refusals of what breaks a rule."""

import math
from dataclasses import dataclass

import pytest
import torch
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.equal_epochs import of_settings
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import options
from bayesprune.methods.laplace.map import MAP

TINY = {
    "datasets": ["two-moons"], "architectures": [{"name": "mlp", "widths": [8]}], "sparsity": [0.5], "seeds": [0],
    "shift": False,
}  # fmt: skip


def matrix(**given):
    return Matrix(**TINY | {"methods": ["magnitude"], "training": {"epochs": 8}} | given)


def test_a_protocol_gives_every_method_as_many_epochs_of_retraining_as_of_training():
    (cell,) = matrix(protocol="equal-epochs").cells()
    assert (cell.training.epochs, cell.finetune.epochs, cell.training.schedule) == (8, 8, "cosine")
    assert of_settings(cell.model_dump(mode="json")) == "equal-epochs, version 1"


def test_cells_are_those_of_a_matrix_that_says_the_same_without_a_protocol():
    plain = matrix(training={"epochs": 8, "schedule": "cosine"}, finetune={"epochs": 8})
    assert [c.key for c in matrix(protocol="equal-epochs").cells()] == [c.key for c in plain.cells()]


@pytest.mark.parametrize(
    ("training", "finetune", "follows"),
    [
        ({"epochs": 8, "schedule": "cosine"}, {"epochs": 8}, True),
        ({"epochs": 8, "schedule": "cosine"}, {"epochs": 0}, True),
        ({"epochs": 8, "schedule": "cosine"}, {"epochs": 2}, True),
        ({"epochs": 8, "schedule": "cosine"}, {"epochs": 3}, False),
        ({"epochs": 8, "schedule": "constant"}, {"epochs": 8}, False),
        ({"epochs": 8, "schedule": "cosine", "lr": 0.01}, {"epochs": 8, "lr": 0.001}, False),
    ],
)
def test_records_tell_by_their_settings_whether_they_follow_it(training, finetune, follows):
    (cell,) = matrix(training=training, finetune=finetune).cells()
    assert (of_settings(cell.model_dump(mode="json")) is not None) == follows


def test_cells_of_the_curve_are_repeated_under_the_other_budgets():
    given = {"name": "equal-epochs", "curve": [{"sparsity": 0.9}]}
    cells = matrix(protocol=given, sparsity=[0.5, 0.9]).cells()
    assert sorted((c.sparsity, c.finetune.epochs) for c in cells) == [(0.5, 8), (0.9, 0), (0.9, 2), (0.9, 8), (0.9, 32)]
    assert len({c.key for c in cells}) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: 8, schedule: constant}", "equal-epochs, version 1, has a cosine"),
        ("training: {epochs: 8}\nfinetune: {epochs: 4}", "retrains for as many epochs as it trains, 8"),
        ("training: {epochs: 8}\nfinetune: {lr: 0.1}", "retrains at the rate of the training"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_place(tmp_path, text, message):
    head = "datasets: [two-moons]\narchitectures: [mlp]\nmethods: [magnitude]\nsparsity: [0.5]\nseeds: [0]\n"
    file = tmp_path / "m.yaml"
    file.write_text(f"{head}protocol: equal-epochs\n{text}\n")
    with pytest.raises(UsageError, match=rf"m.yaml:6: .*{message}"):
        load_matrix(file).cells()


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("equal-minutes", "m.yaml:6: protocol: input should be 'equal-epochs'"),
        ("{name: equal-epochs, version: 2}", "m.yaml:6: protocol.version: input should be 1"),
        ("{name: equal-epochs, curves: []}", "curves.*curve"),
        ("{name: equal-epochs, curve: [{architecture: resnet}]}", "curve {'architecture': 'resnet'} matches no cell"),
    ],
)
def test_a_protocol_that_does_not_exist_is_refused(tmp_path, protocol, message):
    head = "datasets: [two-moons]\narchitectures: [mlp]\nmethods: [magnitude]\nsparsity: [0.5]\nseeds: [0]\n"
    file = tmp_path / "m.yaml"
    file.write_text(f"{head}protocol: {protocol}\n")
    with pytest.raises(UsageError, match=message):
        load_matrix(file).cells()


# ---------------------------------------------------------------- tuning

GRID = [0.1, 30.0, 300.0]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Each precision by itself, and tuned among them, under one protocol."""
    fixed = [{"name": "magnitude", "precision": value} for value in GRID]
    given = matrix(
        methods=[*fixed, {"name": "magnitude", "precision": "tuned"}], sparsity=[0.5, 0.9], seeds=[0, 1],
        protocol={"name": "equal-epochs", "tuning": {"precision": GRID}},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tuned")
    run(given, folder, jobs=1)
    return results(folder)


def test_a_tuned_option_is_that_whose_pruned_network_is_best_on_validation_data(tuned):
    assert set(tuned["status"]) == {"done"}
    is_tuned = tuned["method"] == "magnitude(precision=tuned at pruned)"
    assert is_tuned.sum() == 4
    for _, record in tuned[is_tuned].iterrows():
        same = (tuned["seed"] == record["seed"]) & (tuned["sparsity_target"] == record["sparsity_target"])
        fixed = tuned[same & ~is_tuned]
        order = sorted(range(3), key=lambda i: (-fixed.iloc[i]["validation_accuracy"], fixed.iloc[i]["validation_nll"]))
        best = fixed.iloc[order[0]]
        for column in ("mask_digest", "logits_digest", "accuracy", "validation_accuracy", "dense_accuracy"):
            assert record[column] == best[column]
        assert f"precision={record['tuned']['chosen']['precision']:g})" in best["method"].replace(".0)", ")")


def test_its_cost_is_that_of_all_candidates(tuned):
    is_tuned = tuned["method"] == "magnitude(precision=tuned at pruned)"
    for column in ("passes_train", "passes_finetune"):
        assert set(tuned[is_tuned][column]) == {3 * value for value in set(tuned[~is_tuned][column])}


def test_validation_metrics_are_not_those_of_the_test(tuned):
    assert tuned["validation_accuracy"].between(0, 1).all()
    weak = tuned[tuned["method"] == "magnitude(precision=0.1)"]  # a strong prior leaves a constant
    assert (weak["validation_nll"] != weak["nll"]).any()


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ({"tuned": [1.0], "at": "pruned"}, "at least two different values"),
        ({"tuned": [1.0, 1.0], "at": "pruned"}, "at least two different values"),
        ({"tuned": [1.0, 2.0], "at": "dense"}, "give {tuned: \\[...\\], at: pruned}"),
        ({"tuned": [1.0, 2.0]}, "give {tuned: \\[...\\], at: pruned}"),
        ({"tuned": [1.0, -2.0], "at": "pruned"}, "prior precision must be"),
        ({"tuned": [1.0, "much"], "at": "pruned"}, "precision='much' is not valid"),
    ],
)
def test_a_grid_that_is_none_is_refused(precision, message):
    with pytest.raises(UsageError, match=message):
        options("magnitude", {"precision": precision})


# ---------------------------------------------------------------- epochs


@pytest.fixture(scope="module")
def budgets(tmp_path_factory):
    methods = [
        {"name": "magnitude", "rounds": 4}, {"name": "magnitude", "rounds": 4, "retrain": "each"}, "magnitude", "snip",
        {"name": "snip", "retrain": "only"}, {"name": "magnitude", "when": "during"}, {"name": "magnitude", "rewind": 2},
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("budgets")
    wide = [{"name": "mlp", "widths": [64]}]
    run(matrix(architectures=wide, methods=methods, protocol="equal-epochs"), folder, jobs=1)
    return results(folder).set_index("method")


@pytest.mark.parametrize(
    ("method", "retrained", "held"),
    [
        ("magnitude", 8, 8),
        ("magnitude(rounds=4)", 8, 2),
        ("magnitude(retrain=each, rounds=4)", 32, 8),
        ("snip", 8, 16),
        ("snip(retrain=only)", 8, 8),
        ("magnitude(when=during)", 8, 5),  # the last cut, at 12 of 16, takes (1/9)^3 of 128 weights, which is none
        ("magnitude(rewind=2)", 6, 6),
    ],
)
def test_epochs_of_retraining_and_with_the_final_mask(budgets, method, retrained, held):
    record = budgets.loc[method]
    assert record["status"] == "done"
    epoch = budgets.loc["magnitude", "passes_finetune"] / 8
    assert record["passes_finetune"] / epoch == pytest.approx(retrained, abs=0.01)
    assert record["epochs_held"] == held
    assert (record["epochs_train"], record["epochs_finetune"]) == (8, 8)
    if method == "snip(retrain=only)":
        assert record["passes_train"] == 0


@pytest.mark.parametrize(("when", "retrain"), [("before", "each"), ("after", "only"), ("during", "each")])
def test_retraining_that_makes_no_sense_is_refused(when, retrain):
    with pytest.raises(UsageError, match=f"retrain='{retrain}'"):
        options("magnitude", {"when": when, "retrain": retrain})


@dataclass
class Watched(MAP):
    """Writes down the rate of every step."""

    def optimizer(self, parameters, lr, steps):
        optimizer = torch.optim.SGD(parameters, lr)
        self.rates = []
        optimizer.register_step_pre_hook(lambda *_: self.rates.append(optimizer.param_groups[0]["lr"]))
        return optimizer


def rates(schedule, epochs):
    data = load("two-moons", 0)
    network, inference = torch.nn.Linear(2, 2), Watched()
    settings = Training(lr=0.4, schedule=schedule, batch_size=len(data.train))
    train(network, data.train, inference, settings, epochs, torch.Generator().manual_seed(0))
    return inference.rates


def test_a_rate_falls_in_steps_and_a_cosine_to_zero():
    assert rates({"factor": 0.5, "at": [2, 3]}, 5) == pytest.approx([0.4, 0.4, 0.2, 0.1, 0.1])
    assert rates("cosine", 4) == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


@pytest.mark.parametrize(
    "drops", [{"factor": 0.5, "at": [3, 2]}, {"factor": 1.5, "at": [2]}, {"factor": 0.5, "at": []}]
)
def test_steps_that_make_no_sense_are_refused(drops):
    with pytest.raises(ValueError, match=r"schedule"):
        Training(schedule=drops)
