"""Mean-field inference: divergences against torch.distributions, gradients against autograd, optima in closed form."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.adabelief import AdaBelief
from bayesprune.bench.training.loop import DivergedError, train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.horseshoe import Horseshoe
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.pruner import State
from bayesprune.methods.variational.student import StudentT
from torch import nn
from torch.distributions import Gamma, LogNormal, Normal, kl_divergence

F64 = torch.float64
INFERENCES = {
    "scalar": lambda **o: MeanField(precision=3.0, **o),
    "layerwise": lambda **o: MeanField(prior="layerwise", **o),
    "student": lambda **o: StudentT(**o),
    "horseshoe": lambda **o: Horseshoe(**o),
    "local": lambda **o: Horseshoe(local=True, **o),
}
each_inference = pytest.mark.parametrize("make", INFERENCES.values(), ids=INFERENCES)


def split(n=40, features=5, classes=3):
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(n, features, generator=generator), torch.randint(0, classes, (n,), generator=generator))


def attached(inference, data=None, seed=0):
    """A small network, its inference, half its first layer gone on request."""
    data = split() if data is None else data
    network = build("mlp", data.x.shape[1:], 3, seed=seed, widths=[6, 4])
    units = weight_units(network)
    inference.attach(network, units, data)
    return network, units, data


def half(units):
    kept = torch.ones(units.n, dtype=torch.bool)
    kept[:15] = False
    return Mask(units, kept)


def disturbed(inference):
    """The inference's own parameters, moved from where they start."""
    generator = torch.Generator().manual_seed(3)
    for parameter in inference.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@each_inference
@pytest.mark.parametrize("pruned", [False, True])
def test_the_divergence_is_that_of_the_distributions(make, pruned):
    inference = make(kl=0.7)
    network, units, data = attached(inference)
    disturbed(inference)
    inference.update(network, data, 1)
    mask = half(units)
    if pruned:
        inference.reduce(network, mask)
        mask.apply_(network)
    posterior = inference.posterior(network, data)
    total = torch.zeros((), dtype=F64)
    for name, mean in posterior.mean.items():
        q, p = Normal(mean, posterior.precision[name].rsqrt()), Normal(0.0, posterior.prior[name].rsqrt())
        present = mask.tensors[name] if pruned and name in mask.tensors else True
        total += torch.where(torch.as_tensor(present), kl_divergence(q, p), 0.0).sum()
    if hasattr(inference, "factors"):
        q = LogNormal(inference.location.double(), inference.log_spread.double().exp())
        # torch has no KL(LogNormal ‖ Gamma): -H(q) - E log p, both exact.
        a, b = inference.a.double(), inference.b.double()
        mean_log, mean = q.loc, q.mean
        expected = a * b.log() - torch.lgamma(a) + (a - 1) * mean_log - b * mean
        total += ((-q.entropy() - expected) * inference.counted).sum().detach()
    torch.testing.assert_close(inference.penalty(network).detach(), 0.7 * total, rtol=1e-5, atol=1e-4)


def test_the_divergence_of_a_factor_is_that_of_a_sample():
    from bayesprune.methods.closed_forms.lognormal import kl_to_gamma

    q, p = LogNormal(torch.tensor(0.4, dtype=F64), torch.tensor(0.3, dtype=F64)), Gamma(0.5, 1.0)
    torch.manual_seed(0)
    x = q.sample(torch.Size([400_000]))
    sampled = (q.log_prob(x) - p.log_prob(x)).mean()
    assert float(kl_to_gamma(q.loc, q.scale.log(), 0.5, 1.0)) == pytest.approx(float(sampled), abs=0.01)


@each_inference
@pytest.mark.parametrize("pruned", [False, True])
def test_the_penalizer_adds_the_gradient_of_the_penalty(make, pruned):
    inference = make(kl=0.7)
    network, units, data = attached(inference)
    disturbed(inference)
    inference.update(network, data, 1)
    if pruned:
        inference.reduce(network, half(units))
        half(units).apply_(network)
    everything = [*network.parameters(), *inference.parameters()]
    expected = torch.autograd.grad(0.1 * inference.penalty(network), everything)
    nn.functional.cross_entropy(network(data.x), data.y).backward()
    before = [p.grad.clone() for p in everything]
    inference.penalizer(network, 0.1)()
    for parameter, old, gradient in zip(everything, before, expected, strict=True):
        torch.testing.assert_close(parameter.grad - old, gradient, rtol=1e-4, atol=1e-5)


@each_inference
def test_gradients_of_the_loss_are_those_of_finite_differences(make):
    inference = make()
    network, _, data = attached(inference)
    for parameter in (*network.parameters(), *inference.parameters()):
        parameter.data = parameter.data.double()
    inference.variance = inference.variance.double()
    x = data.x.double()

    def loss():
        torch.manual_seed(0)
        return nn.functional.cross_entropy(network(x), data.y)

    loss().backward()
    for parameter in (network.get_parameter("layers.1.weight"), *inference.parameters()):
        found, step = parameter.grad.flatten()[1], 1e-6
        with torch.no_grad():
            parameter.flatten()[1] += step
            up = loss()
            parameter.flatten()[1] -= 2 * step
            down = loss()
            parameter.flatten()[1] += step
        assert float(found) == pytest.approx(float(up - down) / (2 * step), rel=1e-4, abs=1e-9)


@each_inference
def test_what_has_left_has_neither_mean_nor_variance(make):
    inference = make()
    network, units, data = attached(inference)
    mask = half(units)
    inference.reduce(network, mask)
    mask.apply_(network)
    train(network, data, inference, Training(batch_size=20, lr=0.01), 3, torch.Generator(), mask)
    name = units.layer_names[0]
    gone = ~mask.tensors[name]
    assert not inference.means(network, True).get(name, network.get_parameter(name))[gone].any()
    assert not inference.variances()[name][gone].any()
    inference.detach(network)
    drawn = inference.sample(network, torch.Generator().manual_seed(0))
    assert not drawn[name][gone].any()
    assert drawn[name][~gone].all()


@each_inference
def test_a_stored_inference_comes_back(make):
    inference = make(warm_up=(1, 4))
    network, units, data = attached(inference)
    train(network, data, inference, Training(batch_size=20, lr=0.01), 3, torch.Generator())
    inference.reduce(network, half(units))
    other = make(warm_up=(1, 4))
    copy, _, _ = attached(other, seed=1)
    copy.load_state_dict(network.state_dict())
    other.load_tensors({n: t.clone() for n, t in inference.tensors().items()})
    assert other.beta == inference.beta == pytest.approx(2 / 3)
    assert torch.equal(other.penalty(copy), inference.penalty(network))
    assert other.learned(copy) == inference.learned(network)
    for model in (network, copy):
        torch.manual_seed(0)
        model.outputs = model(data.x)
    assert torch.equal(network.outputs, copy.outputs)


@each_inference
def test_draws_around_the_detached_network_have_its_mean(make):
    inference = make()
    network, _, data = attached(inference)
    plain = [p.detach().clone() for p in build("mlp", (5,), 3, seed=0, widths=[6, 4]).parameters()]
    inference.detach(network)
    for parameter, start in zip(network.parameters(), plain, strict=True):
        torch.testing.assert_close(
            parameter.detach(), start, rtol=1e-4, atol=1e-6
        )  # it starts where it was initialised
    generator = torch.Generator().manual_seed(0)
    draws = [inference.sample(network, generator) for _ in range(800)]
    for name, parameter in network.named_parameters():
        values = torch.stack([d[name] for d in draws])
        error = (values.mean(0) - parameter).abs() / (values.std(0) / 800**0.5)
        assert error.max() < 5.5
    assert torch.equal(network(data.x), network(data.x))


# ------------------------------------------------------------------ optima in closed form


def test_mean_field_of_linear_regression_is_exact():
    """The optimum has the posterior's mean and the reciprocal of its precision's diagonal as variances."""
    generator = torch.Generator().manual_seed(0)
    mixing = 0.6 ** (torch.arange(4)[:, None] - torch.arange(4)).abs()
    x = torch.randn(60, 4, generator=generator) @ torch.linalg.cholesky(mixing.float()).T
    y = x @ torch.tensor([[1.0], [-0.5], [0.2], [0.0]]) + torch.randn(60, 1, generator=generator)
    data = Split(x, y)  # real targets: half the squared error, unit noise
    precision = x.T @ x + 2 * torch.eye(4)
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    inference = MeanField(precision=2.0, start=-2.0)
    inference.attach(network, weight_units(network), data)
    torch.manual_seed(0)
    for lr in (3e-2, 3e-3, 3e-4):
        train(network, data, inference, Training(batch_size=60, lr=lr), 800, torch.Generator().manual_seed(0))
    mean = torch.linalg.solve(precision, x.T @ y).T
    deviation = precision.diagonal().rsqrt()
    assert ((network[0].weight - mean) / deviation).abs().max() < 0.08
    torch.testing.assert_close(inference.sigma()["0.weight"].float()[0], deviation, rtol=0.04, atol=0)


def test_the_layerwise_prior_is_the_maximum_of_the_bound():
    inference = MeanField(prior="layerwise")
    network, units, data = attached(inference)
    inference.reduce(network, half(units))
    half(units).apply_(network)
    inference.update(network, data, 1)
    best = inference.deltas.clone()
    at_best = inference.penalty(network)
    for factor in (0.99, 1.01):
        for i in range(len(best)):
            inference.deltas = best.clone()
            inference.deltas[i] *= factor
            assert inference.penalty(network) > at_best


def test_learned_precisions_train_on_few_targets_which_the_whole_bound_does_not():
    """A sine of one of three inputs: the whole divergence is cheaper to be rid of than its fifty nats are worth."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, generator=generator)
    y = (2 * x[:, :1]).sin()
    data, unexplained = Split(x, (y - y.mean()) / y.std()), {}
    for name, options in {"whole": {"kl": 1, "warm_up": 0}, "default": {}}.items():
        network = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 1))
        torch.manual_seed(0)
        nn.init.normal_(network[0].weight)
        inference = build_pruner("mean-field", prior="layerwise", **options).inference()
        inference.attach(network, weight_units(network), data)
        train(network, data, inference, Training(batch_size=100, lr=2e-2), 600, torch.Generator().manual_seed(0))
        unexplained[name] = (network.eval()(x) - data.y).square().mean().item()
    assert unexplained["whole"] > 0.9
    assert unexplained["default"] < 0.15


def test_a_tuned_precision_is_one_of_the_grid_and_bad_ones_are_refused():
    assert [c.precision for c in MeanField(precision="tuned").candidates()] == [0.1, 1.0, 10.0, 30.0, 100.0]
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="prior precision must be positive and finite"):
            MeanField(precision=bad)
    with pytest.raises(UsageError, match="prior"):
        MeanField(prior="unitwise")
    with pytest.raises(UsageError, match="kl"):
        StudentT(kl=math.inf)
    with pytest.raises(UsageError, match="initial"):
        StudentT(initial="random")
    with pytest.raises(UsageError, match="τ0"):
        Horseshoe(scale=0.0)


@each_inference
def test_a_training_that_diverges_is_told(make):
    inference = make()
    network, _, data = attached(inference)
    with torch.no_grad():
        next(iter(inference.parameters())).fill_(60.0)
    with pytest.raises(DivergedError, match="lower the learning rate"):
        train(network, data, inference, Training(batch_size=20, optimizer="sgd", lr=1e3), 5, torch.Generator())


def test_posterior_damage_of_a_mean_field_posterior_is_half_the_squared_signal_to_noise():
    inference = MeanField()
    network, units, data = attached(inference)
    disturbed(inference)
    scores = build_pruner("mean-field", prior="scalar").score(State(network, units, data, inference))
    ratio = network.get_parameter("layers.0.weight").detach().flatten() / inference.sigma()["layers.0.weight"].flatten()
    torch.testing.assert_close(scores[: len(ratio)], 0.5 * ratio.double().square(), rtol=1e-5, atol=1e-9)


# ------------------------------------------------------------------ the authors' optimiser


def test_adabelief_follows_its_equations():
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, generator=generator, dtype=F64))
    expected, m, v = parameter.detach().clone(), torch.zeros(4, dtype=F64), torch.zeros(4, dtype=F64)
    optimizer = AdaBelief([parameter, nn.Parameter(torch.zeros(1))], 0.1)
    for t in range(1, 30):
        g = torch.randn(4, generator=generator, dtype=F64) * 1e-5
        parameter.grad = g.clone()
        optimizer.step()
        v = 0.999 * v + 0.001 * (g - m) ** 2 + 1e-16
        m = 0.9 * m + 0.1 * g
        expected -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-16)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)
