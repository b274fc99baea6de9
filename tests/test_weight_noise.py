"""Noise on weights: moments against sampled weights and explicit matrices, and networks left as they were."""

import copy

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.units.prunable import prunable
from bayesprune.methods.variational.weight_noise import WeightNoise, _deviation_of_sums, spread
from torch import nn

F64 = torch.float64
LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (3, 6)),
    "linear on tokens": (lambda: nn.Linear(6, 4), (3, 5, 6)),
    "strided convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 7)),
    "grouped convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 7, 7)),
    "circular convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
    "one-dimensional convolution": (lambda: nn.Conv1d(4, 6, 3, padding="same", bias=False), (2, 4, 9)),
}


def noisy(network, variances, names=None, means=lambda network, training: {}, **options):
    return WeightNoise(network, names or list(variances), means, lambda: variances, **options)


def random_variances(network, scale=0.3):
    generator = torch.Generator().manual_seed(1)
    return {n: scale * torch.rand(p.shape, generator=generator, dtype=p.dtype) for n, p in network.named_parameters()}


@pytest.mark.parametrize("layer", LAYERS)
def test_local_noise_has_the_moments_of_sampled_weights(layer):
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    network = nn.Sequential(make().double())
    x, variances = torch.randn(shape, dtype=F64), random_variances(network)
    exact = spread(network[0], x, variances["0.weight"], variances.get("0.bias"))
    names, draws = list(variances), []
    for _ in range(1500):
        drawn = {n: network.get_parameter(n) + variances[n].sqrt() * torch.randn_like(variances[n]) for n in names}
        draws.append(torch.func.functional_call(network, drawn, x))
    sampled = torch.stack(draws).detach()
    noise = noisy(network, variances)
    local = torch.stack([network(x) for _ in range(1500)]).detach()
    noise.remove()
    plain = network(x)
    for found in (sampled, local):
        error = (found.mean(0) - plain) / (exact / 1500).sqrt()
        assert error.abs().max() < 5.5
        torch.testing.assert_close(found.var(0), exact, rtol=0.25, atol=0)
    assert (local.var(0).mean() / exact.mean() - 1).abs() < 0.02


@pytest.mark.parametrize("stride", [1, 2])
def test_variance_of_a_convolution_is_that_of_its_patches(stride):
    layer = nn.Conv2d(3, 5, 3, stride=stride, padding=1).double()
    x, variances = torch.randn(2, 3, 6, 6, dtype=F64), random_variances(layer)
    patches = nn.functional.unfold(x, 3, padding=1, stride=stride).square()
    expected = variances["weight"].flatten(1) @ patches + variances["bias"][:, None]
    found = spread(layer, x, variances["weight"], variances["bias"])
    torch.testing.assert_close(found.flatten(2), expected, rtol=1e-12, atol=1e-12)


class Tied(nn.Module):
    """Two layers that share a weight, attention, and a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        x = self.second(torch.tanh(self.first(x)))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.lstm(x)[0]


def test_weights_without_a_local_form_are_drawn_once_and_everywhere():
    """What the network computes is what it computes with the drawn weights, at every place and time step."""
    torch.manual_seed(0)
    network = Tied().double()
    x, seen = torch.randn(3, 5, 8, dtype=F64), {}
    names = [n for n, _ in network.named_parameters()]
    variances = random_variances(network)
    noise = noisy(network, variances)
    assert set(noise._drawn) == set(names)

    def look(module, inputs):
        modules = dict(network.named_modules())
        seen.update({n: modules[n.rpartition(".")[0]]._parameters[n.rpartition(".")[2]].detach() for n in names})
        seen["second.weight"] = network.second._parameters["weight"].detach()

    network.lstm.register_forward_pre_hook(look)
    found = network(x)
    assert torch.equal(seen.pop("second.weight"), seen["first.weight"])
    assert all(not torch.equal(seen[n], network.get_parameter(n)) for n in names)
    noise.remove()
    clean = Tied().double()
    clean.load_state_dict({**seen, "second.weight": seen["first.weight"]})
    torch.testing.assert_close(found, clean(x))
    assert len({id(t) for t in network.lstm._flat_weights} & {id(p) for p in network.lstm.parameters()}) == 4


@pytest.mark.parametrize("broken", [False, True])
def test_the_network_gets_its_parameters_back_also_after_an_error(broken):
    network = Tied()
    before = {n: id(p) for n, p in network.named_parameters()}
    flat = [id(t) for t in network.lstm._flat_weights]
    noisy(network, random_variances(network))
    if broken:
        with pytest.raises(RuntimeError):
            network(torch.randn(3, 5, 7))
    else:
        network(torch.randn(3, 5, 8)).sum().backward()
        assert all(p.grad is not None for p in network.parameters())
    assert {n: id(p) for n, p in network.named_parameters()} == before
    assert [id(t) for t in network.lstm._flat_weights] == flat


@pytest.mark.parametrize("draws", ["local", "minibatch"])
def test_gradients_reach_means_and_variances_and_stay_finite_where_these_are_0(draws):
    network = build("mlp", (6,), 3, seed=0, widths=[5])
    variances = {n: v.mul_(torch.rand_like(v) > 0.5).requires_grad_() for n, v in random_variances(network).items()}
    noisy(network, variances, draws=draws)
    network(torch.randn(4, 6)).square().sum().backward()
    gradients = [*(p.grad for p in network.parameters()), *(v.grad for v in variances.values())]
    assert all(bool(torch.isfinite(g).all()) and bool(g.any()) for g in gradients)


def test_evaluation_mode_is_the_mean_and_given_means_are_used():
    network = build("mlp", (6,), 3, seed=0, widths=[5])
    x, names = torch.randn(4, 6), list(prunable(network))
    plain = network(x)
    noise = noisy(network, random_variances(network))
    assert torch.equal(network.eval()(x), plain)
    assert not torch.equal(network.train()(x), network(x))
    noise.remove()
    tripled = {n: 3 * network.get_parameter(n) for n in names}
    noisy(network, {n: torch.zeros_like(w) for n, w in tripled.items()}, means=lambda *_: tripled)
    expected = torch.func.functional_call(copy.deepcopy(network), tripled, x)
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(x), expected, rtol=1e-5, atol=1e-5)


def test_a_copied_network_takes_the_noise_along_and_shares_no_weights():
    network = Tied()
    noisy(network, random_variances(network))
    replica, x = copy.deepcopy(network), torch.randn(3, 5, 8)
    assert not torch.equal(replica(x), replica(x))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert replica.eval()(x).abs().sum() > 0
    assert torch.equal(replica.eval()(x), replica(x))


def test_a_network_that_is_one_layer_gets_its_noise():
    layer = nn.Linear(4, 3)
    noise = noisy(layer, {name: torch.ones_like(p) for name, p in layer.named_parameters()})
    x = torch.randn(5, 4)
    assert not torch.equal(layer(x), layer(x))
    noise.remove()
    assert torch.equal(layer(x), layer(x))


def test_a_variance_that_rounding_made_negative_is_none():
    """Without oneDNN, convolutions by Winograd's transforms compute -1e-9 where most weights have no variance."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    few = torch.rand(layer.weight.shape, generator=generator) < 0.05
    variance = torch.where(few, 6e-5 * torch.rand(layer.weight.shape, generator=generator), 0.0).requires_grad_()
    x = (torch.randn(64, 16, 8, 8, generator=generator) - 1.5).relu().requires_grad_()
    noisy(layer, {"weight": variance})
    with torch.backends.mkldnn.flags(enabled=False):
        if not spread(layer, x, variance).min().item() < -1e-12:
            pytest.skip("this machine's convolutions do not round below zero")
        y = layer(x)
        y.square().sum().backward()
    for found in (y, x.grad, variance.grad, layer.weight.grad):
        assert torch.isfinite(found).all()


def test_the_root_of_a_variance_is_what_it_was_and_has_finite_gradients():
    variance = torch.tensor([-1e-9, 0.0, 1e-12, 4.0], requires_grad=True)
    root = _deviation_of_sums(variance)
    root.sum().backward()
    assert torch.equal(root[1:], (variance[1:] + 1e-16).sqrt())
    assert 0 < root[0] < root[1]
    torch.testing.assert_close(variance.grad, torch.tensor([0.0, 5e7, 5e5, 0.25]), rtol=1e-3, atol=0)
