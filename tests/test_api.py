"""The Python face: pruning a network of one's own."""

import copy

import bayesprune as bp
import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.bench.spec.settings import Training
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ONES = torch.ones(4, 6)


class Own(nn.Module):
    """Somebody's network: a branch, a residual, a norm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second, self.head = (
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        hidden = self.norm(self.first(x)).relu()
        return self.head(hidden + self.second(hidden).tanh())


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@pytest.mark.parametrize("method", ["magnitude", "opd", "snip", "grasp", "synflow", "lamp", "random"])
def test_any_method_prunes_a_copy_to_the_exact_count(data, method):
    torch.manual_seed(0)
    network = Own()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    pruned = bp.prune(network, data, method=method, sparsity=0.75, finetune=2)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    total = 6 * 8 + 8 * 8 + 8 * 3
    assert pruned.mask.count == total // 4
    weights = [pruned.network.get_parameter(f"{n}.weight") for n in ("first", "second", "head")]
    assert sum(int(w.count_nonzero()) for w in weights) <= pruned.mask.count
    assert "kept 34 of 136 units" in pruned.summary()


def test_all_forms_of_data_give_the_same_mask(data):
    torch.manual_seed(0)
    network, (x, y) = Own(), data
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    arrays = x.numpy()[::-1].copy()[::-1], y.numpy().astype(np.uint8)
    forms = data, loader, list(loader), arrays, list(arrays), [arrays], Split(x, y)
    first, *others = (bp.prune(network, form, "snip", 0.5).mask.kept for form in forms)
    assert all(torch.equal(first, mask) for mask in others)


def test_structure_is_cut_out_and_the_small_network_agrees(data):
    from bayesprune.architectures.build import build

    network = build("mlp", (6,), 3, seed=0, widths=[16, 8])
    pruned = bp.prune(network, data, "opd", 0.5, structured=True, finetune=1)
    small = pruned.compact()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    torch.testing.assert_close(small(data[0]), pruned.network(data[0]))


def test_a_network_of_ones_own_is_cut_certified_saved_and_loaded(data, tmp_path):
    torch.manual_seed(0)
    network = Own()
    for buffer in (network.norm.running_mean, network.norm.running_var):
        buffer.uniform_(0.5, 1.5)
    pruned = bp.prune(network, data, "opd", 0.5, structured=True, finetune=1, batch_norm="reestimate")
    small = pruned.compact()
    assert pruned.certificate.difference <= 1e-5
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    assert "certified: " in pruned.summary()
    path = pruned.save(tmp_path / "small.safetensors")
    again = bp.load(path, Own())
    torch.testing.assert_close(again(data[0]), small.eval()(data[0]), rtol=0, atol=0)
    assert {s.batch for s in pruned.speedups((1, 8))} == {1, 8}


@pytest.mark.parametrize("of", ["parameters", "flops"])
def test_a_sparsity_may_be_a_share_of_parameters_or_operations(data, of):
    from bayesprune.architectures.build import build
    from bayesprune.bench.evaluation.flops import flops

    network = build("mlp", (6,), 3, seed=0, widths=[40, 30])
    pruned = bp.prune(network, data, "magnitude", 0.6, structured=True, budget={"of": of, "at_least": 2})
    small = pruned.compact()

    def size(net):
        return sum(p.numel() for p in net.parameters()) if of == "parameters" else flops(net, data[0])["flops_dense"]

    assert 0.6 <= 1 - size(small) / size(network) < 0.65
    assert min(int(layer.sum()) for layer in pruned.mask.units.split(pruned.mask.kept)) >= 2


def test_layers_keep_round_numbers_of_units(data):
    from bayesprune.architectures.build import build

    network = build("mlp", (6,), 3, seed=0, widths=[40, 30])
    pruned = bp.prune(network, data, "magnitude", 0.5, structured=True, budget={"round_to": 8})
    assert [len(layer.weight) for layer in pruned.compact().layers][:2] == [24, 16]  # of 20 and 15, or near it
    best = bp.prune(network, data, "magnitude", 0.5, structured=True)
    assert not (best.mask.kept & ~pruned.mask.kept).any()


def test_regression_and_seeds(data):
    x, _ = data
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    first, second = (bp.prune(network, (x, x[:, 0]), "random", 0.5, seed=s).mask.kept for s in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, bp.prune(network, (x, x[:, 0]), "random", 0.5, seed=0).mask.kept)


def test_training_settings_reach_the_fine_tuning(data):
    from bayesprune.bench.training.loop import DivergedError

    with pytest.raises(DivergedError):
        bp.prune(Own(), data, sparsity=0.5, finetune=3, training=Training(optimizer="sgd", lr=1e20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"\[0, 1\) or 'auto', got 1.0"),
        ({"sparsity": "auto"}, "no threshold of its own"),
        ({"method": "magnitudes"}, "did you mean 'magnitude'"),
        ({"structured": True, "network": nn.Linear(6, 3)}, "no group|groups of Linear"),
        ({"structured": True, "budget": {"of": "bytes"}}, "budget: of='bytes' is not valid"),
        ({"structured": True, "budget": {"round_to": 0}}, "budget: round_to=0 is not valid"),
        ({"budget": {"of": "flops"}}, "flops are only saved by removing structures"),
        ({"data": []}, "at least one batch"),
        ({"data": (torch.zeros(3, 6), torch.zeros(2))}, "3 inputs and 2 targets"),
        ({"sparsity": 0.999}, "remove every one"),
        ({"when": "during"}, "prunes during training"),
        ({"sparsity": "0.5"}, "got '0.5'"),
        ({"sparsity": None}, "got None"),
        ({"sparsity": False}, "got False"),
        ({"sparsity": float("nan")}, "got nan"),
        ({"finetune": -1}, "epochs >= 0, got -1"),
        ({"finetune": 1.5}, "got 1.5"),
        ({"finetune": True}, "got True"),
        ({"method": "opd", "precision": "tuned"}, "give a value instead"),
        ({"network": nn.ReLU()}, "ReLU has no parameters"),
        ({"network": "lenet"}, "torch.nn.Module, got str"),
        ({"network": nn.Linear(5, 3)}, r"inputs of shape \(6,\) per example, torch.float32: RuntimeError: mat1"),
        (
            {"network": nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))},
            r"label 2 in y does not fit a network of one output",
        ),
        ({"network": nn.Linear(6, 2)}, r"label 2 in y .* 2 outputs; give labels 0\.\.1"),
        ({"data": (ONES, torch.arange(4) - 1)}, "label -1 in y"),
        ({"data": (ONES, torch.zeros(4, 3).long())}, r"labels of shape \(N,\), got \(4, 3\)"),
        ({"data": (ONES, torch.eye(3)[[0, 1, 2, 0]])}, r"one-hot; give labels 0\.\.2"),
        ({"data": (ONES, torch.zeros(4))}, r"y has shape \(4, 1\) .* 3 outputs; give y of shape \(N, 3\)"),
        ({"data": (ONES, torch.zeros(4, 2))}, r"y has shape \(4, 2\) but the network has 3 outputs"),
        ({"data": (ONES / torch.tensor([[1.0], [1.0], [0.0], [1.0]]), torch.arange(4) % 3)}, "first in example 2"),
        ({"data": (ONES, torch.full((4, 3), torch.nan))}, "y of data has NaN"),
        ({"data": Split(ONES[:0], torch.arange(0))}, "0 inputs and 0 targets"),
        ({"data": (ONES, np.array(["a"] * 4))}, "targets of data are words, such as .a.; give numbers"),
        ({"data": [(ONES, torch.arange(4)), (ONES[:, :5], torch.arange(4))]}, "inputs of data are not .* one shape"),
        ({"data": 5}, "arrays or an iterable"),
        ({"data": ONES}, "arrays or an iterable"),
    ],
)
def test_mistakes_are_one_clear_sentence(data, change, message, monkeypatch):
    def run(*args):
        raise AssertionError("work began")

    monkeypatch.setattr("bayesprune.bench.face.work.run_engine", run)
    with pytest.raises(UsageError, match=message) as caught:
        bp.prune(**{"network": Own(), "data": data} | change)
    assert "\n" not in str(caught.value)


def test_the_trial_leaves_no_trace(data):
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    pruned = bp.prune(network, data, sparsity=0.5)
    assert torch.equal(state, torch.get_rng_state())
    for trained in (network, pruned.network):
        assert trained.training
        assert torch.equal(trained[1].running_mean, before["1.running_mean"])


def test_the_public_face_is_complete():
    for name in bp.__all__:
        assert getattr(bp, name) is not None
    with pytest.raises(AttributeError, match="it offers"):
        _ = bp.nothing


@pytest.mark.parametrize("method", ["bmr", "variational-dropout", "pip", "horseshoe", "bmrs-n"])
def test_a_posterior_that_training_learns_is_not_made_up_for_a_trained_network(method):
    network = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    data = (torch.randn(30, 20), torch.arange(30) % 3)
    with pytest.raises(UsageError, match=f"'{method}' learns its posterior while it trains"):
        bp.prune(network, data, method, 0.5, progress=False)


# ---------------------------------------------------------------------- sequences of tokens


@pytest.fixture(scope="module")
def language():
    """A language model and its data: (network, data)."""
    data = load("docstrings", length=12, subset=40)
    return build("lstm", data.input_shape, data.outputs, seed=0, hidden=8, embedding=4), data


@pytest.mark.parametrize("method", ["magnitude", "opd", "snip"])
def test_a_language_model_is_pruned(language, method):
    network, data = language
    options = {"kind": "rademacher"} if method == "opd" else {}
    pruned = bp.prune(network, data, method, 0.5, structured=True, finetune=1, progress=False, **options)
    small = pruned.compact()
    assert small.recurrent[0].hidden_size < 8
    torch.testing.assert_close(small(data.train.x), pruned.network(data.train.x), atol=1e-5, rtol=0)


def test_tokens_as_arrays_stay_tokens(language):
    network, data = language
    x, y = data.train.x, data.train.y
    of_split = bp.prune(network, data.train, sparsity=0.5, finetune=1, progress=False)
    for form in ((x, y), (x.numpy(), y.numpy()), [(x, y)]):
        given = bp.prune(network, form, sparsity=0.5, finetune=1, progress=False)
        for name, weight in of_split.network.state_dict().items():
            assert torch.equal(given.network.state_dict()[name], weight)
    loader = DataLoader(TensorDataset(x, y), batch_size=16)  # a stream of its own batches
    found, expected = (bp.prune(network, form, "opd", kind="rademacher").scores for form in (loader, data.train))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


def test_tables_of_whole_numbers_are_real_inputs():
    x, y = torch.arange(120).reshape(30, 4), torch.arange(30) % 2
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    whole, real = (bp.prune(network, (inputs, y), sparsity=0.5, progress=False) for inputs in (x, x.float()))
    assert whole.inputs.dtype == torch.float32
    assert torch.equal(whole.inputs, real.inputs)


def test_words_that_no_network_takes_are_refused(language):
    network, data = language
    with pytest.raises(UsageError, match="network cannot take inputs of shape"):
        bp.prune(network, (data.train.x + 10**6, data.train.y), sparsity=0.5, progress=False)


@pytest.mark.parametrize("allocation", ["global", "layerwise"])
def test_the_summary_warns_of_layers_with_next_to_nothing_left(allocation):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 3))
    with torch.no_grad():
        network[2].weight.mul_(1e-3)
        network[2].weight[0, :9] = 1.0
    data = (torch.randn(30, 6), torch.arange(30) % 3)
    said = bp.prune(network, data, "magnitude", 0.97, allocation=allocation, progress=False).summary()
    warned = allocation == "global"
    assert ("1 of 3 layers keep less than 0.006 of their units: 2.weight (0." in said) == warned
    assert ("allocation='layerwise' prunes all layers alike" in said) == warned
