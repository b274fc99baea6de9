"""Wanda and OBC against the outputs of layers themselves."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.rowwise import rowwise
from bayesprune.bench.pruning.select import select
from bayesprune.datasets.data import Split
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.conditioning.adjust import condition
from bayesprune.methods.laplace.layer_errors import LayerErrors
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.obc import leaving_costs, obc
from bayesprune.methods.pruner import State
from bayesprune.methods.wanda import wanda
from torch import nn

F64 = torch.float64


def layer(seed=0, out=32, inputs=48, n=400, damping=1e-9):
    """One linear layer with correlated inputs: its outputs are what a layer's error is about."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(inputs, out, bias=False)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.randn(out, inputs, generator=generator, dtype=F64))
    mix = torch.randn(inputs, inputs, generator=generator, dtype=F64) / inputs**0.5
    x = torch.randn(n, inputs, generator=generator, dtype=F64) @ mix
    split = Split(x, torch.randint(out, (n,), generator=generator))
    return State(network, weight_units(network), split, LayerErrors(1.0, damping=damping))


def error(state, weight):
    dense = state.network[0].weight.detach()
    return float(((weight - dense) @ state.train.x.T).square().sum())


def test_the_curvature_is_the_second_moment_of_the_inputs_and_reads_no_label():
    state = layer()
    a = state.train.x.T @ state.train.x
    expected = torch.kron(torch.eye(32, dtype=F64), a)
    block = state.posterior.whole.blocks["0.weight"]
    g, right = (f[0] for f in block.factors)
    torch.testing.assert_close(torch.kron(g, right), expected)
    other = State(state.network, state.units, Split(state.train.x, state.train.y.flip(0)), state.inference)
    assert torch.equal(wanda(other), wanda(state))


@pytest.mark.parametrize("name", ["lenet5", "vit", "mixer"])
def test_wanda_is_weights_times_norms_of_inputs(name):
    """Of linear layers, whose inputs a hook shows, summed over tokens."""
    network = build(name, (1, 8, 8), 4, seed=0, **({} if name == "lenet5" else {"dim": 16, "depth": 1})).double().eval()
    x = torch.randn(10, 1, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(5))
    state = State(network, weight_units(network), Split(x, torch.arange(10) % 4), LayerErrors(1.0))
    scores = dict(zip(state.units.layer_names, state.units.split(wanda(state)), strict=True))
    seen = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda m, inputs, path=path: seen.__setitem__(path, inputs[0]))
    network(x)
    checked = 0
    for path, inputs in seen.items():
        weight = network.get_submodule(path).weight.detach()
        expected = (weight.abs() * inputs.reshape(-1, inputs.shape[-1]).norm(dim=0)).flatten()
        key = next(k for k in scores if k.startswith(path))
        torch.testing.assert_close(scores[key], expected, rtol=1e-6, atol=1e-6)
        checked += 1
    assert checked


def test_rows_keep_the_same_share():
    state = layer()
    kept = select(wanda(state), state, 32 * 12, "rowwise").view(32, 48)
    assert kept.sum(1).tolist() == [12] * 32
    norms = state.network[0].weight.detach().abs() * state.train.x.norm(dim=0)
    for row, worth in zip(kept, norms, strict=True):
        assert worth[row].min() > worth[~row].max()
    odd = rowwise(wanda(state), state, 100, 0, torch.ones(32 * 48, dtype=torch.bool)).view(32, 48)
    assert odd.sum() == 100
    assert set(odd.sum(1).tolist()) == {3, 4}


def test_leaving_costs_are_those_of_one_at_a_time():
    """Against conditioning on each prefix of the order: what has left costs as much in sum."""
    state = layer(out=3, inputs=8, damping=1e-6)
    posterior = state.posterior
    inverse = torch.linalg.inv(
        posterior.whole.blocks["0.weight"].factors[1][0] + posterior.prior["0.weight"][0, 0] * torch.eye(8)
    )
    rows = state.network[0].weight.detach()
    costs = leaving_costs(rows, inverse)
    precision = torch.linalg.inv(inverse)
    for row, cost in zip(rows, costs, strict=True):
        w, live, left = row.clone(), list(range(8)), precision
        highest = 0.0
        for _ in range(8):
            covariance = torch.linalg.inv(left[live][:, live])
            single = 0.5 * w[live].square() / covariance.diagonal()
            i = int(single.argmin())
            highest = max(highest, float(single[i]))
            assert float(cost[live[i]]) == pytest.approx(highest, rel=1e-6)
            w[live] = w[live] - covariance[:, i] * w[live[i]] / covariance[i, i]
            live.pop(i)


def test_the_order_of_the_methods_on_a_layers_error():
    """Half of a correlated layer: each step of the literature leaves less error than the one before."""
    state = layer()
    half = 32 * 24
    scores = {
        "magnitude": state.network[0].weight.detach().abs().flatten(),
        "wanda": wanda(state),
        "obc": obc(state),
    }
    zeroed, refit = {}, {}
    for name, score in scores.items():
        mask = Mask(state.units, select(score, state, half, "rowwise" if name == "wanda" else "layerwise"))
        zeroed[name] = error(state, state.network[0].weight.detach() * mask.tensors["0.weight"])
        refit[name] = error(state, condition(state, mask).tensors["0.weight"])
    assert all(refit[name] < zeroed[name] for name in scores)
    assert refit["obc"] < min(refit["wanda"], refit["magnitude"])


def test_the_papers_share_the_networks_of_map():
    assert build_pruner("obc").inference().identity() == MAP(1.0).identity()
    assert build_pruner("wanda").inference().identity() == build_pruner("opd").inference().identity()
