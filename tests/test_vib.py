"""VIBNet: its divergence against quadrature under the best prior, its noise, and where it folds."""

import math

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.datasets.load import load
from bayesprune.methods.pruner import State
from bayesprune.methods.vib import Bottleneck, divergence, vib
from networks import assert_folds
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

F64 = torch.float64


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=200)


def attached(name, data, **options):
    network = build(name, data.input_shape, 10, seed=0, **({"widths": [7, 5]} if name == "mlp" else {}))
    inference = Bottleneck(**options)
    inference.attach(network, weight_units(network), data.train)
    return network, inference


@pytest.mark.parametrize(("mu", "sigma"), [(0.7, 0.7), (1.0, 2.0), (-2.0, 0.3)])
def test_the_divergence_is_that_of_the_best_prior(mu, sigma):
    q = norm(mu, sigma)

    def kl(log_a):
        p = norm(0, math.exp(log_a / 2))
        return quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), mu - 9 * sigma, mu + 9 * sigma)[0]

    found = minimize_scalar(kl, bounds=(-6, 6), method="bounded", options={"xatol": 1e-8})
    ours = divergence(torch.tensor(mu, dtype=F64), torch.tensor(math.log(sigma), dtype=F64))
    assert float(ours) == pytest.approx(found.fun, abs=1e-7)
    assert math.exp(found.x) == pytest.approx(mu**2 + sigma**2, rel=1e-3)
    if abs(mu) == sigma:
        assert float(ours) == pytest.approx(0.346574, abs=1e-6)
    if sigma == 2 * mu:
        assert float(ours) == pytest.approx(0.111572, abs=1e-6)


def test_the_penalty_is_the_sum(data):
    network, inference = attached("mlp", data, kl=3.0, precision=2.0)
    with torch.no_grad():
        inference.steps.normal_(generator=torch.Generator().manual_seed(2))
    kept = torch.arange(12) % 3 > 0
    inference.reduce(network, Mask(inference.units, kept))
    mu, log_sigma = (value.detach().numpy() for value in inference.values())
    each = 0.5 * np.log(1 + mu**2 / np.exp(log_sigma) ** 2)
    squares = sum(float(p.detach().square().sum()) for p in network.parameters())
    assert inference.penalty(network).item() == pytest.approx(3 * each[kept.numpy()].sum() + squares, rel=1e-5)


def test_noise_has_the_mean_and_the_variance_that_it_learned(data):
    _, inference = attached("mlp", data)
    with torch.no_grad():
        inference.steps.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.3)
        torch.manual_seed(0)
        z = inference.draw(inference.values(), (40_000, 12)).double()
        mu, log_sigma = inference.values()
        torch.testing.assert_close(z.var(0), (2 * log_sigma).exp(), rtol=0.05, atol=0)
        assert bool(((z.mean(0) - mu).abs() < 4.5 * log_sigma.exp() / 200).all())


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vit"])
def test_the_mean_folds_into_what_reads(name, data):
    assert_folds(*attached(name, data), data.train[:16].x)


def test_structures_with_more_signal_than_noise_stay(data):
    network, inference = attached("mlp", data)
    with torch.no_grad():
        inference.steps.normal_(generator=torch.Generator().manual_seed(4))
        mu, log_sigma = inference.values()
        score = vib(State(network, inference.units, data.train, inference))
    assert torch.equal(score > 0, mu.abs() > log_sigma.exp())
    torch.testing.assert_close(score, (mu.square() / (2 * log_sigma).exp()).log())
