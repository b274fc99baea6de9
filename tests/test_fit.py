"""`bp.fit`: a network of one's own trained by any method, pruned, cut, saved; tuned and stopped on validation data."""

import json

import bayesprune as bp
import pytest
import torch
from bayesprune.bench.cli import main
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.methods import registry
from bayesprune.methods.build import build
from click.testing import CliRunner
from torch import nn

METHODS = [name for name in registry.catalogue() if "<" not in name] + ["spam-opd"]


class Net(nn.Module):
    """Convolution, BatchNorm, two layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.hidden, self.out = nn.Linear(6 * 36, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.out(self.hidden(self.norm(self.conv(x)).relu().flatten(1)).relu())


def whole_units(name: str, **options) -> bool:
    """Whether a method prunes structures: those do not grow back, and have no rows of their own."""
    pruner = build(name, **options)
    return pruner.when != "dynamic" and pruner.allocation != "rowwise"


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def data():
    return bp.load_dataset("digits", subset=300)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_prunes_compacts_and_reloads(method, data, tmp_path):
    given = net()
    before = {n: t.clone() for n, t in given.state_dict().items()}
    try:
        structured = whole_units(method)
        pruned = bp.fit(given, data, method, 0.5, epochs=2, structured=structured, progress=False)
    except NotApplicable:
        assert method.startswith("lstm")
        return
    assert pruned.sparsity == pytest.approx(0.5, abs=0.03)
    assert all(torch.equal(t, before[n]) for n, t in given.state_dict().items())
    small = pruned.deployable().eval()
    x = data.validation.x
    torch.testing.assert_close(small(x), pruned.predictions(x), atol=1e-4, rtol=1e-4)
    again = bp.load(pruned.save(tmp_path / "small.safetensors"), net()).eval()
    assert torch.equal(again(x), small(x))
    assert not structured or "certified" in pruned.summary()


@pytest.mark.parametrize("when", ["during", "online", "before"])
def test_other_moments(when, data):
    pruned = bp.fit(net(), data, "magnitude", 0.5, epochs=10, when=when, progress=False)
    assert pruned.sparsity == pytest.approx(0.5, abs=1e-3)
    assert not torch.equal(pruned.network.out.weight, net().out.weight)


def test_it_is_the_cell_of_a_matrix(data, tmp_path):
    """The same method on the same data, architecture and seed gives the mask that the harness gives."""
    matrix = {
        "datasets": [{"name": "digits", "subset": 300}], "architectures": [{"name": "mlp", "widths": [12]}],
        "methods": ["spam-opd", "bmr"], "sparsity": [0.8], "seeds": [0], "training": {"epochs": 6},
        "finetune": {"epochs": 2}, "shift": False,
    }  # fmt: skip
    (tmp_path / "matrix.yaml").write_text(json.dumps(matrix))  # JSON is YAML
    bp.run(tmp_path / "matrix.yaml", tmp_path / "results", jobs=1)
    records = bp.results(tmp_path / "results").set_index("method")
    from bayesprune.architectures.build import build
    from bayesprune.bench.evaluation.evaluate import digest
    from bayesprune.bench.training.seeding import derived

    for method in ("spam-opd", "bmr"):
        network = build("mlp", data.input_shape, 10, seed=derived(0, "initialisation"), widths=(12,))
        pruned = bp.fit(network, data, method, 0.8, epochs=6, finetune=2, progress=False)
        assert digest(pruned.mask.kept) == records.loc[method, "mask_digest"]


def test_training_goes_on_from_a_trained_network(data):
    trained = bp.fit(net(), data, "magnitude", 0.0, epochs=15, progress=False)
    short = {"epochs": 1, "progress": False, "training": bp.Training(lr=1e-4)}
    on, anew = (bp.fit(n, data, "mean-field", 0.2, **short) for n in (trained.network, net()))
    right = [(p.predictions(data.validation.x).argmax(1) == data.validation.y).float().mean() for p in (on, anew)]
    assert right[0] > right[1] + 0.3


def test_the_dense_network_of_the_result_is_the_trained_one(data):
    pruned = bp.fit(net(), data, "bmrs-u", 0.3, epochs=25, structured=True, progress=False)
    x, y = data.validation.x, data.validation.y
    assert (pruned.dense.eval()(x).argmax(1) == y).float().mean() > 0.7
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pruned.dense.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["mean-field", "bmr", "variational-dropout", "pip-gates"])
def test_predictions_average_draws_of_the_posterior(method, data):
    pruned = bp.fit(net(), data, method, 0.3, epochs=3, progress=False)
    x = data.validation.x
    log_p = pruned.predictions(x, draws=8)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(len(x), dtype=torch.double))
    assert torch.equal(log_p, pruned.predictions(x, draws=8))
    assert not torch.equal(log_p, pruned.predictions(x, draws=8, seed=1))
    assert not torch.allclose(log_p.float(), pruned.predictions(x).log_softmax(1))


def test_a_point_cannot_be_drawn_from(data):
    pruned = bp.fit(net(), data, "opd", 0.3, epochs=1, progress=False)
    with pytest.raises(UsageError, match="no distribution of the weights"):
        pruned.predictions(data.validation.x, draws=2)


# ---------------------------------------------------------------------- validation


def test_validation_examples_choose_the_setting(data):
    """The precision that is taken has the least validation loss of those of the grid, each trained by itself."""
    pruned = bp.fit(net(), data.train, "opd", 0.5, epochs=4, validation=data.validation, precision="tuned",
                    progress=False)  # fmt: skip
    losses = {}
    for precision in (0.1, 1.0, 10.0, 30.0, 100.0):
        dense = bp.fit(net(), data.train, "opd", 0.0, epochs=4, precision=precision, progress=False)
        outputs = dense.predictions(data.validation.x)
        losses[precision] = nn.functional.cross_entropy(outputs, data.validation.y).item()
    assert pruned.inference.precision == min(losses, key=losses.__getitem__)
    with pytest.raises(UsageError, match=r"tuned among 5 settings.*give validation="):
        bp.fit(net(), data.train, "opd", 0.5, epochs=4, precision="tuned", progress=False)


def test_patience_stops_at_the_best_epoch():
    """Labels without meaning: the validation loss rises soon, and the best network is that of an early epoch."""
    generator = torch.Generator().manual_seed(0)
    train, apart = (
        Split(torch.randn(60, 8, generator=generator), torch.randint(0, 2, (60,), generator=generator))
        for _ in range(2)
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    settings = bp.Training(lr=1e-2, batch_size=16)
    common = {"epochs": 60, "training": settings, "validation": apart, "progress": False}
    stopped = bp.fit(network, train, "magnitude", 0.0, patience=4, **common)
    whole = bp.fit(network, train, "magnitude", 0.0, **common)
    first = bp.fit(network, train, "magnitude", 0.0, **common | {"epochs": 1})

    def loss(pruned):
        return nn.functional.cross_entropy(pruned.predictions(apart.x), apart.y).item()

    assert loss(stopped) <= loss(first) < loss(whole)
    with pytest.raises(UsageError, match="give validation="):
        bp.fit(network, train, "magnitude", 0.0, patience=4, epochs=3, progress=False)


@pytest.mark.parametrize(("how", "message"), [
    ({"epochs": 0}, "epochs must be a whole number of epochs >= 1, got 0"),
    ({"epochs": 2.5}, "got 2.5"),
    ({"epochs": 2, "patience": 0}, "patience must be"),
    ({"epochs": 2, "method": "opdd"}, "did you mean 'opd'"),
    ({"epochs": 2, "sparsity": 1}, r"in \[0, 1\)"),
])  # fmt: skip
def test_mistakes_are_one_sentence(how, message, data):
    with pytest.raises(UsageError, match=message):
        bp.fit(net(), data, progress=False, **how)


@pytest.mark.parametrize("method", ["bmr", "bmrs-u", "variational-dropout", "horseshoe", "pip-gates"])
def test_prune_says_that_fit_trains(method, data):
    with pytest.raises(UsageError, match=r"use bayesprune\.fit"):
        bp.prune(net(), data, method)


def test_the_command_trains_prunes_and_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "--network", "mlp", "--option", "widths=[16]", "--data", "digits", "--data-option", "subset=300",
                 "--method", "bmrs-u", "--epochs", "25", "--sparsity", "0.5", "--structured", "--out", "a.safetensors"]  # fmt: skip
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    assert "kept 8 of 16 units" in found.output
    assert "its initial weights" not in found.output
    dense = float(found.output.split("(dense: ")[1].split(")")[0])
    assert dense > 0.7
    assert bp.load("a.safetensors")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
