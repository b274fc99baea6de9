"""Bayesian compression: divergences against quadrature, products of scales and weights against draws, bits."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.prunable import prunable
from bayesprune.bench.evaluation.bits import bits_of
from bayesprune.bench.evaluation.evaluate import brief
from bayesprune.bench.evaluation.gaussians import gaussians
from bayesprune.datasets.load import load
from bayesprune.methods.closed_forms.bits import bits, grid, rounded
from bayesprune.methods.closed_forms.posteriors import Gaussian
from bayesprune.methods.compression import NormalJeffreys, noise_of_scales
from bayesprune.methods.pruner import State
from scipy.integrate import quad
from scipy.stats import norm

F64 = torch.float64


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=200)


def trained(data, name="mlp", **options):
    """With every number moved away from where it begins."""
    network = build(name, data.input_shape, 10, seed=0, **({"widths": [7, 5]} if name == "mlp" else {})).double()
    inference = NormalJeffreys(1.0, (0, 0), **options)
    inference.attach(network, weight_units(network), data.train)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in inference.parameters():
            parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network, inference


def test_the_divergence_is_a_quadrature(data):
    """Of weights from N(0, 1); of scales up to a constant, as their prior is improper: what is left is one number."""
    network, inference = trained(data)
    mean, sigma = inference.flat_mean(network).detach(), inference.log_sigma.detach().exp()
    weights = 0.0
    for m, s in zip(mean.tolist()[::9], sigma.tolist()[::9], strict=True):
        q = norm(m, s)
        weights += quad(lambda w, q=q: q.pdf(w) * (q.logpdf(w) - norm.logpdf(w)), m - 9 * s, m + 9 * s)[0]
    each = 0.5 * (mean**2 + sigma**2 - 1) - sigma.log()
    assert float(each[::9].sum()) == pytest.approx(weights, rel=1e-7)
    theta, log_sigma = inference.factors.detach()
    scales = 0.0
    for m, s in zip(theta.tolist(), log_sigma.exp().tolist(), strict=True):
        q = norm(m, s)
        scales += quad(
            lambda z, q=q: q.pdf(z) * (q.logpdf(z) + math.log(abs(z) + 1e-300)), m - 9 * s, m + 9 * s,
            points=[0.0] if abs(m) < 9 * s else None, limit=200,
        )[0]  # fmt: skip
    # the constant is such that the divergence goes to 0 as α grows
    z = norm(0, 1)
    constant = 2 * quad(lambda t: z.pdf(t) * (z.logpdf(t) + math.log(t)), 0, 40)[0]
    found = float(inference.divergence(network).detach()) - float(each.sum())
    assert found == pytest.approx(scales - len(theta) * constant, rel=1e-4)


def test_the_closed_form_of_the_gradient_is_that_of_the_penalty(data):
    network, inference = trained(data)
    network.train()(data.train[:4].x.double())  # the variance of a step
    for parameter in (*network.parameters(), *inference.parameters()):
        parameter.grad = None
    inference.penalizer(network, 0.3)()
    ours = [p.grad.clone() for p in (*prunable(network).values(), *inference.parameters())]
    for parameter in (*network.parameters(), *inference.parameters()):
        parameter.grad = None
    (0.3 * inference.penalty(network)).backward()
    theirs = [p.grad for p in (*prunable(network).values(), *inference.parameters())]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_products_have_the_moments_of_their_draws(data):
    network, inference = trained(data, start=-4.0)
    state = State(network, weight_units(network), data.train, inference)
    scores = dict(zip(state.units.layer_names, state.units.split(noise_of_scales(state)), strict=True))
    inference.detach(network)
    generator = torch.Generator().manual_seed(2)
    draws = [inference.sample(network, generator) for _ in range(4000)]
    for name, weight in prunable(network).items():
        w = torch.stack([draw[name] for draw in draws])
        error = w.std(0) / 4000**0.5
        assert bool(((w.mean(0) - weight).abs() < 5 * error).all())
        spread = (weight.detach().square() / w.var(0)).log().flatten()
        torch.testing.assert_close(spread, scores[name], atol=0.25, rtol=0)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "vit"])
def test_scales_fold(name, data):
    network, inference = trained(data, name)
    with torch.no_grad():
        hooked = network.eval()(data.train[:16].x.double())
        inference.detach(network)
        torch.testing.assert_close(network(data.train[:16].x.double()), hooked)


def test_structures_of_more_signal_than_noise_stay(data):
    network, inference = trained(data)
    parts = units(network, "groups", data.train[:2].x.double())
    score = noise_of_scales(State(network, parts, data.train, inference))
    mean, log_sigma = inference.factors.detach().double()
    assert torch.equal(score > 0, mean.abs() > log_sigma.exp())


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize(("sigma", "expected"), [(0.1, 4), (0.01, 7), (0.001, 10), (2.0, 1)])
def test_bits_of_weights_up_to_one(sigma, expected):
    """A grid of 2 σ from -1 to 1 has 11, 101, 1,001 or one points."""
    weights = torch.linspace(-1, 1, 5001, dtype=F64)
    step = grid(torch.full_like(weights, sigma**2))
    found = rounded(weights, step)
    assert bits(weights, step) == expected
    assert len(found.unique()) <= 2**expected
    assert float((found - weights).abs().max()) <= sigma * (1 + 1e-9)


def test_the_rounded_network_is_judged(data):
    network = build("mlp", data.input_shape, 10, seed=0, widths=[12])
    parts = weight_units(network)
    mask = Mask(parts, torch.arange(parts.n) % 3 > 0)
    mask.apply_(network)
    before = {name: weight.detach().clone() for name, weight in prunable(network).items()}
    variance = 0.03**2
    posterior = Gaussian(
        {n: w.double() for n, w in before.items()},
        {n: torch.full_like(w, 1 / variance, dtype=F64) for n, w in before.items()},
    )
    found = bits_of(network, posterior, mask, data)
    assert all(torch.equal(weight, before[name]) for name, weight in prunable(network).items())
    with torch.no_grad():
        for weight in prunable(network).values():
            weight.copy_((weight / 0.06).round() * 0.06)
    expected = brief(network, data)
    assert found["bits_accuracy"] == expected["accuracy"]
    assert found["bits_nll"] == pytest.approx(expected["nll"])
    counts = {name: int(mask.tensors[name].sum()) for name in before}
    levels = {n: 2 * round(float(w.abs().max()) / 0.06) + 1 for n, w in prunable(network).items()}
    total = sum(counts[n] * math.ceil(math.log2(levels[n])) for n in counts)
    assert found["bits_per_weight"] == pytest.approx(total / mask.count)
    assert found["bits_compression"] == pytest.approx(32 * parts.n / total)


def test_draws_say_what_the_detached_network_knows(data):
    network, inference = trained(data)
    inference.detach(network)
    posterior = gaussians(network, inference, data)
    assert posterior is not None
    name, weight = next(iter(prunable(network).items()))
    torch.testing.assert_close(posterior.mean[name], weight.detach())
    assert set(posterior.mean) == set(prunable(network))
