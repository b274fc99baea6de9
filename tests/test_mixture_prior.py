"""Training under a mixture prior: its divergence against quadrature, its drawn gradient against that divergence."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.spike_slab import expected_log_odds, mixture_log_density, responsibility
from bayesprune.methods.pip import MixturePrior
from bayesprune.methods.pruner import State
from bayesprune.methods.scores.inclusion import unit_log_odds
from scipy.integrate import quad
from torch import nn

F64 = torch.float64
PRIOR = {"spike_variance": 0.03, "slab_variance": 1.0, "inclusion": 0.2}


@pytest.fixture
def attached(generator):
    network = nn.Linear(4, 3, dtype=F64)
    inference = MixturePrior(**PRIOR)
    split = Split(torch.randn(20, 4, dtype=F64, generator=generator), torch.randint(3, (20,), generator=generator))
    inference.attach(network, weight_units(network), split)
    with torch.no_grad():
        inference.log_sigma.copy_(torch.linspace(-4, -2, 12, dtype=F64))
    return network, inference, split


def test_the_divergence_is_an_integral(attached):
    network, inference, _ = attached
    total = 0.0
    for mu, log_s in zip(network.weight.flatten().tolist(), inference.log_sigma.tolist(), strict=True):
        s = math.exp(log_s)

        def integrand(z, mu=mu, s=s):
            w = torch.tensor(mu + s * z, dtype=F64)
            log_q = -0.5 * z * z - 0.5 * math.log(2 * math.pi) - math.log(s)
            return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * (log_q - float(mixture_log_density(w, **PRIOR)))

        total += quad(integrand, -9, 9, limit=200)[0]
    assert inference.divergence(network).item() == pytest.approx(total, rel=2e-3)


def test_the_expectation_of_the_drawn_gradient_is_that_of_the_divergence(attached):
    network, inference, _ = attached
    exact = torch.autograd.grad(inference.divergence(network), [network.weight, inference.log_sigma])
    torch.manual_seed(0)
    add, draws = inference.penalizer(network, 1.0), []
    for _ in range(4000):
        network.weight.grad, inference.log_sigma.grad = torch.zeros(3, 4, dtype=F64), torch.zeros(12, dtype=F64)
        add()
        draws.append(torch.cat([network.weight.grad.flatten(), inference.log_sigma.grad]))
    found = torch.stack(draws)
    error = found.std(0) / math.sqrt(len(found)) + 2e-3
    assert ((found.mean(0) - torch.cat([g.flatten() for g in exact])).abs() < 4.5 * error).all()


def test_noise_is_fitted_to_rows_from_everywhere():
    """Tables may be sorted by their targets."""
    network = nn.Linear(1, 1)
    train = Split(torch.zeros(3000, 1), torch.linspace(-1, 1, 3000).unsqueeze(1))
    inference = MixturePrior(log_sigma_start=-20.0)
    inference.attach(network, weight_units(network), train)
    network.bias.data.zero_()
    inference.update(network.train(), train, 1)
    assert inference.noise_variance == pytest.approx(1 / 3, rel=0.01)


def test_what_has_left_has_no_gradient(attached):
    network, inference, _ = attached
    inference.present = torch.zeros(12, dtype=F64)
    network.weight.grad, inference.log_sigma.grad = torch.zeros(3, 4, dtype=F64), torch.zeros(12, dtype=F64)
    inference.penalizer(network, 1.0)()
    assert network.weight.grad.eq(0).all()
    assert inference.log_sigma.grad.eq(0).all()
    assert inference.divergence(network) == 0


def test_scores_are_the_log_odds_of_the_estimates(attached):
    network, inference, split = attached
    posterior = inference.posterior(network, split)
    mean, variance = posterior.mean["weight"].flatten(), posterior.variance["weight"].flatten()
    state = State(network, weight_units(network), split, inference)
    found = build_pruner("pip", **PRIOR).score(state)
    torch.testing.assert_close(found, expected_log_odds(mean, variance, **PRIOR))
    found = build_pruner("pip", estimate="em", **PRIOR).score(state)
    torch.testing.assert_close(found, responsibility(mean.square() + variance, **PRIOR))


def test_a_unit_is_in_if_any_of_its_weights_is(generator):
    network = build("mlp", (3,), 2, seed=0, widths=[4])
    parts = group_units(network)
    odds = {n: torch.randn(p.shape, generator=generator) for n, p in network.named_parameters() if p.dim() > 1}
    found = unit_log_odds(parts, odds)
    p = {name: value.double().sigmoid() for name, value in odds.items()}
    absent = (1 - p["layers.0.weight"]).prod(1) * (1 - p["layers.1.weight"]).prod(0)
    torch.testing.assert_close(found.sigmoid(), 1 - absent)
    for value in (-1e4, 1e4):
        assert torch.isfinite(unit_log_odds(parts, {n: torch.full_like(o, value) for n, o in odds.items()})).all()


def test_noise_follows_the_residuals_and_weighs_the_divergence(generator):
    x = torch.randn(400, 2, generator=generator)
    y = x[:, :1] + 0.3 * torch.randn(400, 1, generator=generator)
    network = nn.Sequential(nn.Linear(2, 1))
    inference = MixturePrior()
    inference.attach(network, weight_units(network), Split(x, y))
    assert inference.beta == 1.0
    train(network, Split(x, y), inference, Training(lr=0.05), 20, generator)
    assert inference.beta == inference.noise_variance == pytest.approx(0.09, rel=0.3)
    assert inference.learned(network)["noise"] == pytest.approx(0.3, rel=0.2)
    fresh = MixturePrior()
    fresh.attach(network, weight_units(network), Split(x, y))
    fresh.load_tensors(inference.tensors())
    assert fresh.beta == inference.beta
    given = MixturePrior(target_noise=0.5)
    given.attach(network, weight_units(network), Split(x, y))
    assert given.beta == 0.25


def test_the_inclusion_is_annealed_on_the_scale_of_log_odds(attached):
    network, _, split = attached
    inference = MixturePrior(inclusion=1e-3, anneal=(10, 20), warm_up=(0, 4))
    inference.attach(network, weight_units(network), split)
    start, end = math.log(0.1 / 0.9), math.log(1e-3 / 0.999)
    for epoch, odds, beta in ((0, start, 0.0), (2, start, 0.5), (15, 0.5 * (start + end), 1.0), (30, end, 1.0)):
        inference.update(network, split, epoch)
        assert inference.prior_log_odds == pytest.approx(odds)
        assert inference.beta == pytest.approx(beta)


def test_impossible_settings_are_refused():
    for name, options in {
        "inclusion must be": {"inclusion": 1.0},
        "spike_variance must be below": {"spike_variance": 2.0},
        "shrink must be positive": {"shrink": 0.0},
        "noise must be positive": {"noise": 0.0},
        "rate must be": {"rate": 1.0},
        "anneal must be two epochs in order": {"anneal": (3, 2)},
    }.items():
        with pytest.raises(UsageError, match=name):
            build_pruner("pip", **options)
