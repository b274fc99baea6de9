"""Well-trained posteriors: what defaults promise, the units of non-centred weights, the tables, and that it holds."""

from functools import cache
from itertools import product

import pandas as pd
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.bench.evaluation.evaluate import validated
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.bench.training.fits import inference_of, train_one
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods import registry
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.horseshoe import Horseshoe
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.variational.inference import Variational
from bayesprune.methods.variational.student import StudentT
from bayesprune.reports.posteriors import accuracies, filled, main

CPU = torch.device("cpu")


def variational_methods():
    inferences = {name: build_pruner(name).inference() for name in registry.catalogue() if "<" not in name}
    return [name for name, inference in inferences.items() if isinstance(inference, Variational)]


def digits(n=24):
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(n, 1, 8, 8, generator=generator), torch.arange(n) % 10)


def attached(inference, architecture="mlp", seed=0, **options):
    network, data = build(architecture, (1, 8, 8), 10, seed=seed, **options), digits()
    inference.attach(network, weight_units(network), data)
    return network, data


# ---------------------------------------------------------------------- the divergence at the end


@pytest.mark.parametrize("method", [m for m in variational_methods() if not m.startswith("lstm")])
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_every_default_divergence_ends_at_its_whole_weight(method, epochs):
    """However short the training: the last epoch has all of `kl`, which the record names."""
    inference = build_pruner(method).inference()
    network, data = attached(inference, widths=[8])
    weights, bind = [], inference.penalizer

    def noting(network, scale):
        weights.append(inference.beta)
        return bind(network, scale)

    inference.penalizer = noting
    train(network, data, inference, Training(epochs=epochs), epochs, torch.Generator().manual_seed(0))
    assert len(weights) == epochs
    assert weights[-1] == inference.kl > 0
    assert weights == sorted(weights)
    assert epochs == 1 or inference.warm_up == 0 or weights[0] == 0
    assert inference.learned(network)["beta"] == inference.identity()["kl"]


def test_a_warm_up_is_a_share_of_the_training_and_outlives_it():
    network, data = attached(inference := StudentT(kl=0.4, warm_up=0.5))
    assert inference.settles == 20  # nobody has said how long the loop is
    inference.begin(8)
    betas = []
    for epoch in range(8):
        betas.append(inference.beta)
        inference.update(network, data, epoch + 1)
    assert betas == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])
    state = inference.tensors()
    network, _ = attached(again := StudentT(kl=0.4, warm_up=0.5))
    again.load_tensors(state)
    assert (again.beta, again.settles) == (0.4, 4)
    again.load_tensors(
        {name: tensor for name, tensor in state.items() if name != "epochs"} | {"epoch": torch.tensor(2)}
    )
    assert again.settles == 4  # states from before have no length: that of the inference stays


def test_a_training_that_ends_in_its_warm_up_is_told(caplog):
    """One that nobody has told how long it is, as in a loop of the user's."""
    network, data = attached(inference := StudentT(kl=0.4, warm_up=0.5))
    inference.update(network, data, 5)
    assert inference.learned(network)["beta"] == pytest.approx(0.1)
    assert "ended in the warm-up of the divergence, at 0.25 of its weight: train for more than 20" in caplog.text


@pytest.mark.parametrize("warm_up", [1.0, -0.1, float("nan"), (3, 2)])
def test_warm_ups_that_do_not_end_in_training_are_refused(warm_up):
    with pytest.raises(UsageError, match="warm_up must be two epochs"):
        MeanField(warm_up=warm_up)


@pytest.mark.parametrize(
    ("method", "kl", "rise"),
    [("bmr", 1, 0), ("mean-field", 1, 0), ("horseshoe", 1, 0), ("local-horseshoe", 1, 0),
     ("variational-dropout", 1, 20), ("group-variational-dropout", 1, 20)],
)  # fmt: skip
def test_presets_of_the_authors_have_the_whole_divergence(method, kl, rise):
    attached(inference := build_pruner(method, preset="authors").inference())
    assert (inference.kl, inference.settles) == (kl, rise)
    with pytest.raises(UsageError, match="preset"):
        build_pruner(method, preset="papers")


def test_a_given_precision_needs_no_tempering_and_scales_that_are_learned_do():
    made = {prior: build_pruner("mean-field", prior=prior).inference() for prior in ("scalar", "layerwise", "student")}
    assert [(i.kl, i.warm_up) for i in made.values()] == [(1, 0), (0.03, 0.5), (0.1, 0.5)]
    assert build_pruner("mean-field", kl=0.7, warm_up=[2, 3]).inference() == StudentT(kl=0.7, warm_up=(2, 3))


def test_the_authors_of_ivon_have_their_memory_and_learning_rate():
    ivon = build_pruner("ivon-opd", preset="authors").inference()
    assert (ivon.beta2, ivon.lr_factor * Training().lr) == pytest.approx((0.99999, 0.1))


# ---------------------------------------------------------------------- units


@pytest.mark.parametrize("make", [StudentT, Horseshoe, lambda: Horseshoe(local=True)])
def test_a_step_of_adam_moves_non_centred_weights_by_one_learning_rate(make):
    """As it moves any other: with parameters ŵ it would be a learning rate times γ, a tenth."""
    network, data = attached(make())
    weight = network.get_parameter("layers.1.weight")
    before = weight.detach().clone()
    inference = make()
    network, data = attached(inference)
    train(network, data, inference, Training(lr=1e-3, batch_size=24), 1, torch.Generator().manual_seed(0))
    inference.detach(network)
    moved = (network.get_parameter("layers.1.weight") - before).abs()
    assert moved.median().item() == pytest.approx(1e-3, rel=0.1)


def test_units_change_the_parameters_and_not_the_model(monkeypatch):
    """The same posterior in units of 1: same divergence, draws, means and export."""
    network, data = attached(inference := StudentT())
    inference.location.data.add_(0.3)
    plain, _ = attached(other := StudentT())
    state = inference.tensors()
    other.load_tensors({name: tensor for name, tensor in state.items() if name != "unit"})  # as written before
    assert set(other.unit.values()) == {1.0}
    for name, unit in inference.unit.items():
        plain.get_parameter(name).data.copy_(network.get_parameter(name) / unit)
    torch.testing.assert_close(other.divergence(plain), inference.divergence(network))
    torch.testing.assert_close(other.posterior(plain, data).mean, inference.posterior(network, data).mean)
    outputs = []
    for pair in ((network, inference), (plain, other)):
        torch.manual_seed(1)
        outputs.append(pair[0].train()(data.x))
        pair[1].detach(pair[0])
        outputs.append(pair[0].eval()(data.x))
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[1], outputs[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["bmr", "horseshoe", "pip", "pip-gates", "variational-dropout", "ivon-opd"])
def test_cells_of_revised_defaults_are_not_those_of_before(method):
    run = Run(
        dataset=Choice(name="digits"), architecture=Choice(name="mlp"), method=Choice(name=method), sparsity=0.5, seed=0
    )
    revised = run.revisions.get("method", {}) | run.revisions.get("inference", {})
    assert set(revised.values()) == {2}
    scalar = run.model_copy(update={"method": Choice(name="mean-field", options={"prior": "scalar"})})
    assert not scalar.revisions  # nothing has changed there


# ---------------------------------------------------------------------- the tables


def records():
    rows = []
    for (method, inference, gap), architecture, seed in product(
        [("opd", "MAP(precision=1.0)", 0), ("bmr", "StudentT(kl=0.1)", 0.01), ("pip", "MixturePrior(kl=0.1)", 0.05)],
        ["mlp", "vit"], [0, 1],
    ):  # fmt: skip
        common = {
            "method": method,
            "inference": inference,
            "architecture": architecture,
            "seed": seed,
            "status": "done",
        }
        accuracy = 0.96 + 0.01 * seed - gap * (architecture == "vit")
        rows.append(common | {"sparsity_target": 0.8, "dense_accuracy": accuracy})
    return pd.DataFrame(rows)


def test_differences_are_taken_seed_by_seed_and_misses_are_bold():
    table = accuracies(records(), "dense_accuracy", "Dense")
    assert table.columns == ("method", "mlp", "vit")
    texts = {cells[0].text: [c.text for c in cells[1:]] for cells in table.rows}
    assert texts["opd"] == ["96.5", "96.5"]
    assert texts["bmr"] == ["96.5 (+0.0 ± 0.0)", "95.5 (−1.0 ± 0.0)"]
    assert [[c.bold for c in cells[1:]] for cells in table.rows] == [[False, False], [False, False], [False, True]]
    assert "(mlp 2, vit 2)" in table.notes[0]
    with pytest.raises(UsageError, match="no finished cell of MAP"):
        accuracies(records().query("method != 'opd'"), "dense_accuracy", "Dense")


def test_places_are_filled_and_prose_stays(tmp_path):
    text = "Before.\n<!-- chosen -->\nformer\n<!-- end of chosen -->\nAfter.\n"
    new = filled(text, "chosen", [accuracies(records(), "dense_accuracy", "Dense")])
    assert new.startswith("Before.\n<!-- chosen -->\n")
    assert new.endswith("<!-- end of chosen -->\nAfter.\n")
    assert "### Dense" in new
    assert "former" not in new
    assert filled(new, "chosen", [accuracies(records(), "dense_accuracy", "Dense")]) == new
    with pytest.raises(UsageError, match="no place"):
        filled("", "chosen", [])
    with pytest.raises(FileNotFoundError):
        main(str(tmp_path / "none.md"))


# ---------------------------------------------------------------------- that it holds


METHODS = (
    "bmr", "horseshoe", "pip", "pip-gates", "variational-dropout", "group-variational-dropout", "bmrs-n", "ivon-opd",
    "l0", "vib", "compression-gnj", "compression-ghs", "ssvi", "swag-obs", "sghmc-obs", "spam-opd", "ss-gl",
    "ss-ghs",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["mlp", "lenet5"])
def test_dense_networks_are_within_two_points_of_map(architecture, method):
    """On the validation split, three seeds, sixty epochs; docs/posteriors.md has all families."""
    own = Choice(name=method)
    gaps = [accuracy_of_map(architecture, seed) - accuracy(architecture, own, seed) for seed in range(3)]
    assert sum(gaps) / 3 <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gates_train_residual_networks(norm):
    """With seeds of which they lost one before what they cost was limited."""
    found = {
        m: sum(accuracy("resnet", Choice(name=m), seed, norm=norm) for seed in range(3)) for m in ("magnitude", "l0")
    }
    assert found["magnitude"] - found["l0"] <= 3 * 0.02


@cache
def accuracy_of_map(architecture, seed):
    return accuracy(architecture, Choice(name="magnitude"), seed)


def accuracy(architecture, method, seed, **options):
    data = load("digits", seed)
    run = Run(
        dataset=Choice(name="digits"), architecture=Choice(name=architecture, options=options), method=method,
        sparsity=0.0, seed=seed, training=Training(epochs=60), finetune=Finetune(epochs=0),
    )  # fmt: skip
    network, inference, _ = train_one(run, data, inference_of(run), CPU)
    inference.detach(network)
    return validated(network, data)["validation_accuracy"]
