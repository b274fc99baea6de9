"""Trained gates: moments against draws, gradients against autograd, probabilities against enumeration."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.features import feature_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.select import decided
from bayesprune.bench.training.loop import leave
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.spike_slab import false_discovery_selection, indicator_kl, slab_kl
from bayesprune.methods.pruner import State
from bayesprune.methods.variational.gates import Indicators, concrete
from test_spike_slab import INCLUSION, SINGLE, SLAB, Regression
from torch import nn

F64 = torch.float64
LEVELS = {"weights": "moments", "nodes": "concrete", "features": "moments"}


def attached(level, generator, relaxation=None):
    network = build("mlp", (4,), 2, seed=0, widths=[5, 3]).double()
    x = torch.randn(30, 4, dtype=F64, generator=generator)
    split = Split(x, (x[:, 0] > 0).long())
    inference = Indicators(level=level, relaxation=relaxation or LEVELS[level])
    inference.attach(network, weight_units(network), split)
    with torch.no_grad():
        inference.log_sigma.copy_(torch.randn(inference.log_sigma.shape, dtype=F64, generator=generator) - 2)
        inference.steps.copy_(0.3 * torch.randn(inference.steps.shape, dtype=F64, generator=generator))
    return network, inference, split


def gradients(network, inference, add):
    tensors = [*(network.get_parameter(name) for name in inference.names), *inference.parameters()]
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    add()
    return [tensor.grad.clone() for tensor in tensors]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("reduced", [False, True])
def test_the_closed_gradient_is_that_of_the_divergence(level, reduced, generator):
    network, inference, _ = attached(level, generator)
    if reduced:
        parts = weight_units(network)
        inference.reduce(network, Mask(parts, torch.rand(parts.n, generator=generator) > 0.5))
    closed = gradients(network, inference, inference.penalizer(network, 0.7))
    plain = gradients(network, inference, lambda: (0.7 * inference.penalty(network)).backward())
    for one, other in zip(closed, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_the_divergence_counts_every_gate_once(generator):
    for level, gates in (("weights", 41), ("nodes", 8), ("features", 4)):
        network, inference, _ = attached(level, generator)
        assert inference.gate_log_odds.shape == (gates,)
        slab = {n: slab_kl(network.get_parameter(n), (2 * s).exp(), 1.0)
                for n, s in zip(inference.names, inference.log_sigma.split([network.get_parameter(n).numel() for n in inference.names]), strict=True)
                for s in [s.view(network.get_parameter(n).shape)]}  # fmt: skip
        if level == "features":
            behind, rest = slab.pop("layers.0.weight").sum(0), sum(s.sum() for s in slab.values())
        elif level == "nodes":
            rows = [slab[f"layers.{i}.weight"].sum(1) + slab[f"layers.{i}.bias"] for i in (0, 1)]
            behind, rest = torch.cat(rows), slab["layers.2.weight"].sum() + slab["layers.2.bias"].sum()
        else:
            behind = torch.cat([s.flatten() for n, s in slab.items() if "weight" in n])
            rest = sum(s.sum() for n, s in slab.items() if "bias" in n)
        expected = indicator_kl(inference.gate_log_odds, behind, inference.inclusion).sum() + rest
        torch.testing.assert_close(inference.divergence(network), expected)


def test_moments_are_those_of_draws(generator):
    network, inference, split = attached("weights", generator)
    x = split.x[:1]
    layer = network.layers[0]
    mean = inference.means(network, True)["layers.0.weight"] @ x[0]
    variance = inference.variances()["layers.0.weight"] @ x[0].square()
    phi = inference.gate_log_odds.sigmoid()[:20].view(5, 4)
    sigma = inference.sigma()["layers.0.weight"]
    gates = (torch.rand(100_000, 5, 4, dtype=F64, generator=generator) < phi).double()
    weights = gates * (layer.weight + sigma * torch.randn(100_000, 5, 4, dtype=F64, generator=generator))
    drawn = weights @ x[0]
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0.03, atol=0.01)
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.03, atol=1e-4)


def test_rounded_gates_are_bernoulli_and_pass_gradients():
    torch.manual_seed(0)
    odds = torch.full((50_000,), 1.0, requires_grad=True)
    gates = concrete(odds)
    assert set(gates.detach().round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert gates.mean().item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.01)
    gates.sum().backward()
    assert odds.grad is not None
    assert odds.grad.min() >= 0
    assert odds.grad.mean() > 0.05


@pytest.mark.parametrize("seed", range(2))
def test_the_trained_probabilities_of_an_orthogonal_design_are_exact(seed):
    """The expected squared error under the moments is closed, so that nothing but the method's own terms is tested."""
    problem = Regression(0.0, seed)
    found = optimised(problem, steps=300)
    assert (found - problem.enumerated(SINGLE)).abs().max() < 3e-4


@pytest.mark.parametrize(("correlation", "bound"), [(0.5, 0.60), (0.9, 0.60)])
def test_the_trained_probabilities_of_correlated_designs_are_those_of_coordinate_ascent_or_within_bounds(
    correlation, bound
):
    problem = Regression(correlation)
    assert (optimised(problem, steps=300) - problem.enumerated(SINGLE)).abs().max() < bound


def test_one_of_two_equal_columns_is_selected_where_either_would_do():
    found = optimised(Regression(0.0, duplicated=True), steps=300)
    assert found[:2].max() > 0.9


def optimised(problem, steps):
    network = nn.Linear(8, 1, bias=False, dtype=F64)
    network.weight.data.copy_(problem.mean)
    inference = Indicators(inclusion=INCLUSION, slab_variance=SLAB, target_noise=1.0, log_odds_start=0.0, lr_factor=1.0)
    split = Split(problem.x, problem.y.unsqueeze(1))
    inference.attach(network, weight_units(network), split)
    parameters = [network.weight, *inference.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=steps, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def bound():
        optimizer.zero_grad()
        mean = inference.means(network, True)["weight"][0]
        variance = inference.variances()["weight"][0]
        loss = 0.5 * (problem.y - problem.x @ mean).square().sum() + 0.5 * problem.gram.diagonal() @ variance
        negative = loss + inference.penalty(network)
        negative.backward()
        return negative

    optimizer.step(bound)
    return inference.gate_log_odds.detach().sigmoid()


# ---------------------------------------------------------------------- levels, scores, what remains


@pytest.mark.parametrize("level", LEVELS)
def test_scores_are_the_log_odds_of_the_gates(level, generator):
    network, inference, split = attached(level, generator)
    units = {"weights": weight_units, "nodes": group_units, "features": feature_units}[level](network)
    pruner = build_pruner("pip-gates", level=level)
    state = State(network, units, split, inference)
    torch.testing.assert_close(pruner.score(state), inference.gate_log_odds.detach(), rtol=0, atol=1.1e-3)
    assert torch.equal(decided(pruner.score(state), state, pruner), inference.gate_log_odds > 0)
    bounded = build_pruner("pip-gates", level=level, select="fdr", rate=0.2)
    expected = false_discovery_selection(inference.gate_log_odds.detach().sigmoid(), 0.2)
    assert torch.equal(decided(bounded.score(state), state, bounded), expected)
    assert torch.isfinite(pruner.score(State(network, weight_units(network), split, inference))).all()
    assert torch.isfinite(pruner.score(State(network, group_units(network), split, inference))).all()


@pytest.mark.parametrize("relaxation", ["moments", "concrete"])
def test_what_stays_is_certain_and_the_network_keeps_the_means(relaxation, generator):
    network, inference, split = attached("weights", generator, relaxation)
    weight = network.layers[0].weight.detach().clone()
    phi = inference.gate_log_odds.detach().sigmoid()[:20].view(5, 4)
    network.eval()
    before = network(split.x)
    assert torch.equal(network.layers[0].weight, weight)
    kept = inference.gate_log_odds > 0
    twin = build("mlp", (4,), 2, seed=0, widths=[5, 3]).double()
    other = Indicators(relaxation=relaxation)
    other.attach(twin, weight_units(twin), split)
    other.load_tensors(inference.tensors())
    other.detach(twin)
    torch.testing.assert_close(twin.layers[0].weight, phi * weight)
    torch.testing.assert_close(twin.eval()(split.x), before)
    leave(network, inference, Mask(weight_units(network), kept))
    assert torch.equal(network.train()(split.x) == network(split.x), torch.zeros(30, 2, dtype=torch.bool))
    inference.detach(network)
    torch.testing.assert_close(network.layers[0].weight, weight * kept[:20].view(5, 4))
    drawn = inference.sample(network, generator)["layers.0.weight"]
    assert torch.equal(drawn != 0, kept[:20].view(5, 4))


def test_draws_of_an_unpruned_network_have_closed_gates(generator):
    network, inference, _ = attached("weights", generator)
    phi = inference.gate_log_odds.detach().sigmoid()[:20].view(5, 4)
    mean = inference.means(network, False)["layers.0.weight"].detach()
    inference.detach(network)
    draws = torch.stack([inference.sample(network, generator)["layers.0.weight"] for _ in range(3000)])
    torch.testing.assert_close((draws != 0).double().mean(0), phi, rtol=0, atol=0.04)
    torch.testing.assert_close(draws.mean(0), mean, rtol=0.1, atol=0.1)


def test_too_few_steps_for_gates_to_close_are_told(generator, caplog):
    for shift, told in ((0.0, 1), (-0.5, 0)):
        caplog.clear()
        network, inference, _ = attached("weights", generator)
        with torch.no_grad():
            inference.steps.mul_(0.1).add_(shift)
        parts = weight_units(network)
        for _ in range(2):  # once, however often units leave
            inference.reduce(network, Mask(parts, torch.ones(parts.n, dtype=torch.bool)))
        assert len([message for message in caplog.messages if "no gate can have closed" in message]) == told


def test_gates_stay_where_they_can_learn(generator):
    network, inference, split = attached("features", generator)
    inference.steps.data.fill_(100.0)
    inference.update(network, split, 1)
    assert inference.gate_log_odds.min().item() == pytest.approx(4.0)


def test_impossible_settings_are_refused(generator):
    with pytest.raises(UsageError, match="choose relaxation: concrete"):
        build_pruner("pip-gates", level="nodes", relaxation="moments")
    with pytest.raises(UsageError, match="inclusion must be"):
        build_pruner("pip-gates", inclusion=0.0)
    with pytest.raises(UsageError, match="lr_factor must be positive"):
        build_pruner("pip-gates", lr_factor=0.0)
    network = build("lenet5", (1, 8, 8), 2, seed=0)
    with pytest.raises(UsageError, match="does not read features"):
        Indicators(level="features").attach(
            network, weight_units(network), Split(torch.zeros(4, 1, 8, 8), torch.zeros(4).long())
        )
