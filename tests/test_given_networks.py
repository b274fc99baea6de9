"""Networks as users bring them: reparametrised, wrapped, frozen, of other precision, with activations remembered."""

import copy

import bayesprune as bp
import pytest
import torch
import torch.nn.utils.prune as torch_prune
from bayesprune.architectures.running.modes import held, train_
from bayesprune.architectures.running.plain import copied, own_names, plain
from bayesprune.bench.spec.settings import Training
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.nn.utils import parametrizations

NORMS = [
    nn.utils.weight_norm,
    nn.utils.spectral_norm,
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    parametrizations.orthogonal,
]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(80, 6, generator=generator), torch.randint(0, 3, (80,), generator=generator)


def perceptron(norm=lambda layer: layer) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), norm(nn.Linear(8, 3)))


def with_batch_norm(outputs=3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


# ---------------------------------------------------------------------- reparametrised weights


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.__module__}.{norm.__name__}")
def test_norms_of_weights_are_folded_into_the_copy_alone(norm, data):
    network, x = perceptron(norm), data[0]
    network.train()(x)  # a step of power iteration, and activations that remember their history
    network.eval()
    before, names = network(x).detach(), list(network.state_dict())
    found = plain(network)
    torch.testing.assert_close(found.network(x), before)
    assert list(found.folded) == ["0.weight", "2.weight"]
    assert sorted(found.network.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert list(network.state_dict()) == names  # the original is as it was, and works on
    torch.testing.assert_close(network(x), before)
    pruned = bp.prune(network, data, "magnitude", 0.9)
    assert pruned.mask.units.n == 72
    assert pruned.network(x).isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS[:4], ids=lambda norm: f"{norm.__module__}.{norm.__name__}")
def test_recurrent_weights_are_folded_too(norm):
    torch.manual_seed(0)
    lstm, x = nn.LSTM(6, 4, batch_first=True), torch.randn(2, 5, 6)
    norm(lstm, "weight_hh_l0")
    lstm.eval()
    expected = lstm(x)[0].detach()
    found = plain(lstm).network
    torch.testing.assert_close(found(x)[0], expected)
    with torch.no_grad():
        found.get_parameter("weight_hh_l0").zero_()
    assert not torch.equal(found(x)[0], expected)  # the layer reads the folded parameter


@pytest.mark.filterwarnings("ignore")
def test_fine_tuning_and_files_work_with_folded_networks(data, tmp_path):
    network = perceptron(nn.utils.weight_norm)
    pruned = bp.prune(network, data, "opd", 0.5, structured=True, finetune=2)
    again = bp.load(pruned.save(tmp_path / "small.safetensors"), network)
    torch.testing.assert_close(again(data[0]), pruned.compact().eval()(data[0]))
    assert pruned.notes["folded"] == {"0.weight": "WeightNorm", "2.weight": "WeightNorm"}
    assert "folded into plain weights: 0.weight (WeightNorm), 2.weight (WeightNorm)" in pruned.summary()


def test_frozen_reparametrised_weights_stay_frozen():
    network = perceptron(parametrizations.weight_norm).requires_grad_(False)
    assert not any(p.requires_grad for p in plain(network).network.parameters())


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("finetune", [0, 3])
def test_what_torch_pruned_before_stays_away(data, structured, finetune):
    network = perceptron()
    torch_prune.random_unstructured(network[0], "weight", 0.5)
    torch_prune.l1_unstructured(network[0], "weight", 0.25)  # of what the first left
    gone = network[0].weight == 0
    pruned = bp.prune(network, data, "magnitude", 0.7, structured=structured, finetune=finetune)
    weight = pruned.network[0].weight
    assert (weight[gone] == 0).all()
    alive = sum(int(pruned.network[i].weight.count_nonzero()) for i in (0, 2))
    if not structured:
        assert alive == pruned.mask.count == round(0.3 * 72)


def test_less_sparsity_than_is_there_already_removes_nothing_more(data):
    network = perceptron()
    torch_prune.random_unstructured(network[0], "weight", 0.5)
    pruned = bp.prune(network, data, "opd", 0.1, rounds=2)
    assert pruned.mask.count == 72 - 24
    assert sum(int(pruned.network[i].weight.count_nonzero()) for i in (0, 2)) == 48


class Doubled(nn.Module):
    """Computes its layer's weight by hand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.raw = nn.Parameter(self.layer.weight.detach().clone())
        del self.layer._parameters["weight"]
        self.layer.weight = self.raw.detach()

    def forward(self, x):
        self.layer.weight = 2 * self.raw
        return self.layer(x)


def test_a_weight_computed_in_another_way_is_refused_by_name(data):
    with pytest.raises(
        UsageError, match=r"'layer.weight' is no parameter but computed from other tensors .* make it one"
    ):
        bp.prune(Doubled(), data, "magnitude", 0.5)


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.seen = nn.Linear(6, 8), nn.Linear(8, 3), {}

    def forward(self, x):
        self.last = torch.relu(self.a(x))
        self.seen["all"] = [self.last]
        return self.b(self.last)


def test_networks_that_remember_activations_are_copied(data):
    network = Remembering()
    network(data[0])
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(network)  # this is what the promise is about
    pruned = bp.prune(network, data, "opd", 0.5, structured=True, finetune=1)
    pruned.compact()
    assert network.last.grad_fn is not None
    twin = copied(network)
    assert twin.last is twin.seen["all"][0]  # one tensor is copied once


def test_networks_with_outputs_that_are_not_finite_are_refused(data):
    network = perceptron()
    network[2].weight.data[0, 0] = float("nan")
    with pytest.raises(UsageError, match="outputs of network are NaN or infinite"):
        bp.prune(network, data, "magnitude", 0.5)


class Dividing(nn.Module):
    """Finite until one of its weights is zero."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x):
        return self.a(x) / self.a.weight.abs().amin(1)


def test_a_network_whose_outputs_are_no_longer_finite_is_not_returned(data):
    with pytest.raises(ArithmeticError, match="outputs of the pruned network are NaN or infinite"):
        bp.prune(Dividing(), data, "magnitude", 0.5)


# ---------------------------------------------------------------------- wrappers


def wrapped(how: str) -> nn.Module:
    network = perceptron()
    if how == "replicated":
        return nn.DataParallel(network)
    if how == "averaged":
        return torch.optim.swa_utils.AveragedModel(network)
    if how == "compiled inside":
        network[0] = torch.compile(network[0], backend="eager")
        return network
    if how == "compiled in place":
        network.compile(backend="eager")
        return network
    compiled = torch.compile(network, backend="eager")
    return nn.DataParallel(compiled) if how == "both" else compiled


@pytest.mark.parametrize("how", ["replicated", "averaged", "compiled", "compiled inside", "compiled in place", "both"])
def test_wrappers_are_taken_off_and_names_are_those_inside(data, how, tmp_path):
    pruned = bp.prune(wrapped(how), data, "opd", 0.5, structured=True)
    assert type(pruned.network) is nn.Sequential
    assert list(pruned.network.state_dict()) == list(perceptron().state_dict())
    path = pruned.save(tmp_path / "small.safetensors")
    for network in (perceptron(), wrapped(how)):
        torch.testing.assert_close(bp.load(path, network)(data[0]), pruned.compact().eval()(data[0]))


def test_names_of_wrapped_checkpoints_are_read_and_those_of_a_network_s_own_kept():
    own = perceptron().state_dict()
    for how in ("replicated", "averaged", "compiled", "both", "compiled inside"):
        assert own_names(wrapped(how).state_dict(), own).keys() == own.keys()
    inside = {f"module.{name}": tensor for name, tensor in own.items()}  # an attribute that is called so
    assert own_names(inside, inside).keys() == inside.keys()


# ---------------------------------------------------------------------- modes and frozen parts


def partly_frozen() -> nn.Module:
    torch.manual_seed(0)
    back = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    network = nn.Sequential(back, nn.Linear(8, 3))
    back(torch.randn(64, 6) * 3)  # statistics of another domain
    back.requires_grad_(False).eval()
    network.training = network[1].training = True
    return network


@pytest.mark.parametrize("finetune", [0, 2])
@pytest.mark.parametrize("options", [{}, {"batch_norm": "reestimate"}, {"method": "snip"}, {"method": "spam-opd"}])
def test_frozen_parts_stay_and_modes_are_those_given(data, finetune, options):
    network = partly_frozen()
    modes = {name: m.training for name, m in network.named_modules()}
    before = network[0](data[0])
    pruned = bp.prune(network, data, **{"method": "magnitude", "sparsity": 0.5, "finetune": finetune, **options})
    assert {name: m.training for name, m in pruned.network.named_modules()} == modes
    assert torch.equal(pruned.network[0](data[0]), before)


def test_a_norm_put_into_evaluation_mode_keeps_its_statistics_though_its_weights_are_trained(data):
    network = with_batch_norm().train()
    network[1].eval()
    pruned = bp.prune(network, data, "magnitude", 0.5, finetune=2).network
    assert torch.equal(pruned[1].running_mean, network[1].running_mean)
    assert not torch.equal(pruned[1].weight, network[1].weight)


def test_frozen_statistics_stay_even_of_a_network_in_training_mode(data):
    network = with_batch_norm().train()
    network[:2].requires_grad_(False)
    pruned = bp.prune(network, data, "magnitude", 0.5, finetune=2).network
    assert torch.equal(pruned[1].running_var, network[1].running_var)
    assert pruned[1].training


def test_an_evaluated_network_is_trained_as_a_whole(data):
    network = with_batch_norm().eval()
    pruned = bp.prune(network, data, "magnitude", 0.5, finetune=2).network
    assert not torch.equal(pruned[1].running_mean, network[1].running_mean)
    assert not any(m.training for m in pruned.modules())
    assert held(network) == set()
    train_(network)
    assert all(m.training for m in network.modules())


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("structured", [False, True])
def test_networks_of_other_precision_are_pruned_saved_and_loaded_in_it(data, dtype, structured, tmp_path):
    network, (x, y) = with_batch_norm().to(dtype).eval(), data
    for given in ((x.to(dtype), y), (x.double(), y)):
        pruned = bp.prune(network, given, "opd", 0.5, structured=structured, finetune=1)
        tensors = [t for t in pruned.network.state_dict().values() if t.is_floating_point()]
        assert {t.dtype for t in tensors} == {dtype}
        assert pruned.scores.dtype == torch.float64
    again = bp.load(pruned.save(tmp_path / "n.safetensors"), network)
    assert torch.equal(again(x.to(dtype)), pruned.deployable().eval()(x.to(dtype)))
    assert "kept" in pruned.summary()


def test_scores_of_half_precision_are_those_of_the_same_weights_in_single(data):
    half = with_batch_norm().half().eval()
    single = copy.deepcopy(half).float()
    scores = [bp.prune(n, (data[0].half().float(), data[1]), "opd", 0.5).scores for n in (half, single)]
    assert torch.equal(*scores)


def test_scores_of_double_precision_against_a_gauss_newton_by_hand(data):
    x, y = data[0].double(), data[1]
    network = perceptron().double()
    total = [torch.zeros_like(p) for p in network.parameters()]
    for one in x:
        out = network(one)
        p = out.softmax(0).detach()
        rows = [torch.autograd.grad(o, list(network.parameters()), retain_graph=True) for o in out]
        for t, js in zip(total, zip(*rows, strict=True), strict=True):
            j = torch.stack(js)
            t += torch.einsum("c...,cd,d...->...", j, p.diag() - p.outer(p), j)
    pairs = zip(total, network.parameters(), strict=True)
    expected = torch.cat([(0.5 * (t + 1) * p.detach() ** 2).flatten() for t, p in pairs if p.dim() == 2])
    for given in ((x, y), Split(x, y)):
        torch.testing.assert_close(bp.prune(network, given, "opd", 0.5).scores, expected, rtol=1e-12, atol=0)


# ---------------------------------------------------------------------- batches of one


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (65, {"finetune": 1, "training": Training(batch_size=1)}),
        (1, {"finetune": 1}),
        (1, {"batch_norm": "reestimate"}),
        (1, {"method": "grasp"}),
    ],
)
def test_norms_refuse_batches_of_one_in_one_sentence(data, count, options):
    with pytest.raises(UsageError, match="cannot learn from a batch of 1: give it two examples or more"):
        bp.prune(with_batch_norm(), (data[0][:count], data[1][:count]), **{"sparsity": 0.5, **options})


def test_a_last_batch_of_one_joins_the_one_before(data):
    bp.prune(with_batch_norm(), (data[0][:65], data[1][:65]), "magnitude", 0.5, finetune=1)


def test_batches_of_one_are_enough_for_norms_over_several_pixels():
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 2))
    x, y = torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 2
    bp.prune(network, (x, y), "magnitude", 0.5, finetune=1, training=Training(batch_size=1))


# ---------------------------------------------------------------------- methods that learn in training


@pytest.mark.parametrize(
    ("method", "options", "same"),
    [
        ("spam-opd", {"prior": "layerwise", "kind": "ggn", "preset": "authors"}, {"prior": "layerwise"}),
        ("spam-opd", {"kind": "ggn", "preset": "authors"}, {"prior": "parameterwise"}),
        ("bmr-spam", {"kind": "ggn", "preset": "authors"}, {"prior": "layerwise"}),
    ],
)
def test_spam_raises_the_evidence_of_a_trained_network_as_map_with_a_prior_does(data, method, options, same):
    from bayesprune.methods.laplace.map import MAP
    from bayesprune.methods.opd import opd
    from bayesprune.methods.pruner import State

    network = perceptron()
    pruned = bp.prune(network, data, method, 0.5, **options)
    plain_opd = bp.prune(network, data, "opd", 0.5)
    assert not torch.allclose(pruned.scores, plain_opd.scores)
    expected = opd(State(network, pruned.mask.units, Split(*data), MAP(1.0, "ggn", "diag", **same)))
    torch.testing.assert_close(pruned.scores, expected)
    learned = pruned.notes["learned"]
    assert learned["log_evidence"] > learned["log_evidence_before"]
    assert learned["trace"] == [[0.0, learned["log_evidence"], learned["effective_parameters"]]]
    assert "fitted to the evidence of the network as given, not in training" in pruned.summary()


def test_methods_that_learn_nothing_beside_say_nothing(data):
    pruned = bp.prune(perceptron(), data, "opd", 0.5)
    assert pruned.notes["learned"] is None
    assert "evidence" not in pruned.summary()


class Casting(nn.Module):
    """Fixes a precision inside."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3).bfloat16()

    def forward(self, x):
        return self.layer(x.bfloat16())


def test_a_precision_fixed_inside_is_refused_with_the_cause(data):
    with pytest.raises(
        UsageError, match=r"half precision are worked on in single: convert inputs .* network.float\(\)"
    ):
        bp.prune(Casting(), data, "magnitude", 0.5)
