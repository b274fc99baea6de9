"""Scales of the horseshoe: Gamma ratios, closed forms against quadrature and samples, and the rules that prune by them."""

import math

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.prunable import prunable
from bayesprune.bench.contract import TINY, check_on
from bayesprune.datasets.data import Split
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.lognormal import kl_gradients, kl_to_gamma, moments, regularised
from bayesprune.methods.horseshoe import Horseshoe, shrunk, signal_to_noise, small_rows, split_at
from bayesprune.methods.pruner import State
from bayesprune.methods.reduction.decision import reduction
from bayesprune.methods.variational.horseshoe_prior import horseshoe_prior
from bayesprune.methods.variational.scale_factors import Layer
from bayesprune.methods.variational.student import StudentT
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


# ------------------------------------------------------------------ closed forms


def scales_of_prior(last, local=False, draws=100_000):
    """γ of one weight without the slab, in units of τ0, drawn from the factors of the prior."""
    layer = Layer("w", {"w": torch.Size([1, 1])}, rms=0.0, last=last)
    factors, scales = horseshoe_prior(layer, scale=0.3, local=local)
    rng = np.random.default_rng(0)
    logs = {n: torch.from_numpy(np.log(rng.gamma(f.a, 1 / f.b, size=(draws, 1)))) for n, f in factors.items()}
    return (0.5 * scales["w"].log_square(logs)).exp().flatten().numpy() / (1.0 if last else 0.3)


def product_of_half_cauchys(level):
    """Its quantile: the density of the product of two is 4 log x / (π² (x² - 1))."""

    def density(u):  # of u = log x
        return 4 / math.pi**2 * u * math.exp(u) / math.expm1(2 * u) if u else 2 / math.pi**2

    def below(x):
        return quad(density, -40, math.log(x), limit=200)[0]

    return brentq(lambda x: below(x) - level, 1e-6, 1e6)


def test_the_last_layer_has_a_half_cauchy_scale_and_rows_the_product_of_two():
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    last, hidden = (np.quantile(scales_of_prior(last), levels) for last in (True, False))
    np.testing.assert_allclose(last, stats.halfcauchy.ppf(levels), rtol=0.04)
    np.testing.assert_allclose(hidden, [product_of_half_cauchys(level) for level in levels], rtol=0.06)


def test_the_regularised_scale_is_tau_and_slab_in_parallel():
    tau2, c2 = tensor(1e-6, 0.3, 5.0, 1e8), tensor(2.0, 0.5, 4.0, 9.0)
    found = (2 * regularised(tau2.log(), -c2.log())).exp()
    torch.testing.assert_close(found, c2 * tau2 / (c2 + tau2), rtol=1e-13, atol=0)
    torch.testing.assert_close((2 * regularised(tau2.log(), None)).exp(), tau2, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.0), (2.0, 2.0), (2.0, 6.0)])
@pytest.mark.parametrize(("m", "t"), [(0.0, 0.1), (-1.5, 0.7), (2.0, 1.2)])
def test_the_divergence_from_a_gamma_prior_is_the_integral(a, b, m, t):
    q, p = stats.norm(m, t), stats.gamma(a, scale=1 / b)

    def integrand(y):  # the prior's density of y = log x has the factor x
        return q.pdf(y) * (q.logpdf(y) - p.logpdf(math.exp(y)) - y)

    exact, _ = quad(integrand, m - 12 * t, m + 12 * t, epsabs=1e-11, limit=200)
    mean, log_t = tensor(m).requires_grad_(), tensor(math.log(t)).requires_grad_()
    found = kl_to_gamma(mean, log_t, a, b)
    assert float(found.detach()) == pytest.approx(exact, rel=1e-8, abs=1e-8)
    expected = torch.autograd.grad(found.sum(), (mean, log_t))
    for gradient, by_autograd in zip(kl_gradients(mean.detach(), log_t.detach(), a, b), expected, strict=True):
        torch.testing.assert_close(gradient, by_autograd, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a", [(-9.0, 0.1), (0.0, 1.0), (3.0, 4.0)])
@pytest.mark.parametrize("b", [(-1.0, 0.01), (1.0, 2.0)])
def test_moments_of_scales_are_two_dimensional_integrals(a, b):
    grid = torch.linspace(-9, 9, 601, dtype=F64)
    weight = (-0.5 * grid.square()).exp()
    weight = (weight / weight.sum()).outer(weight / weight.sum())
    log = regularised((a[0] + a[1] ** 0.5 * grid)[:, None], (b[0] + b[1] ** 0.5 * grid)[None])
    found = moments(tensor(a[0]), tensor(a[1]), (tensor(b[0]), tensor(b[1])))
    for value, exact in ((found.log, log), (found.mean, log.exp()), (found.square, (2 * log).exp())):
        assert float(value) == pytest.approx(float((weight * exact).sum()), rel=1e-5)


def test_moments_without_a_slab_are_those_of_the_log_normal():
    q = torch.distributions.LogNormal(tensor(0.3), tensor(0.8))  # of γ: half the mean and deviation of log γ²
    found = moments(tensor(0.6), tensor(1.6**2))
    torch.testing.assert_close(found.mean, q.mean)
    torch.testing.assert_close(found.square, q.mean**2 + q.variance)
    torch.testing.assert_close(found.log, q.loc)


# ------------------------------------------------------------------ on networks


def attached(inference, architecture="mlp", shape=(1, 8, 8), **options):
    torch.manual_seed(0)
    data = Split(torch.randn(12, *shape), torch.arange(12) % 10)
    network = build(architecture, shape, 10, seed=0, **options)
    units = weight_units(network)
    inference.attach(network, units, data)
    return network, units, data


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("architecture", ["mlp", "resnet", "vit", "mixer"])
def test_scales_have_one_value_for_each_row_and_start_the_network_where_it_was(architecture, local):
    inference = Horseshoe(local=local)
    network, _, data = attached(inference, architecture)
    plain = build(architecture, (1, 8, 8), 10, seed=0)
    torch.testing.assert_close(network.eval()(data.x), plain.eval()(data.x), rtol=1e-3, atol=1e-3)
    *hidden, last = prunable(network)
    drawn = inference.means(network, True) and inference.drawn
    for name in hidden:
        shape = network.get_parameter(name).shape
        assert drawn[name].shape == (shape if local else (shape[0], *[1] * (len(shape) - 1)))
        bias = name.replace("weight", "bias")
        if bias in drawn and not local:
            assert torch.equal(drawn[bias], drawn[name].flatten())
    assert drawn[last].numel() == 1
    for name, moment in inference.moments().items():
        assert moment.mean.shape == drawn[name].shape
    count = sum(2 * network.get_parameter(n).shape[0] + 3 for n in hidden) + 2
    if not local:
        assert inference.location.numel() == count


def test_published_initialisation_and_export():
    inference = StudentT(initial="uniform")
    network, _, _ = attached(inference, widths=[20])
    weight, location = network.get_parameter("layers.0.weight").detach().clone(), inference.location[0].item()
    assert weight.abs().max() < 2
    assert weight.std() == pytest.approx(4 / 12**0.5, rel=0.05)
    inference.detach(network)
    exported = 0.1 * math.exp(-location / 2 + 0.1**2 / 8) * weight
    torch.testing.assert_close(network.get_parameter("layers.0.weight").detach(), exported)


def test_draws_have_the_moments_that_the_posterior_tells():
    inference = Horseshoe(local=True)
    network, _, data = attached(inference, widths=[5])
    inference.log_spread.data.fill_(math.log(0.4))
    posterior = inference.posterior(network, data)
    told = posterior.weights()
    inference.detach(network)
    generator = torch.Generator().manual_seed(0)
    draws = [inference.sample(network, generator) for _ in range(3000)]
    for name, mean in told.mean.items():
        values = torch.stack([d[name] for d in draws]).double()
        error = (values.mean(0) - mean).abs() / (told.variance[name] / 3000).sqrt()
        assert error.max() < 6
        assert float((values.var(0) / told.variance[name]).mean()) == pytest.approx(1, abs=0.15)


# ------------------------------------------------------------------ what leaves


def test_the_widest_gap_parts_rows():
    log_scale = tensor(-5.0, -5.2, 0.1, -4.9, 0.0)[:, None].expand(5, 3)
    assert float(split_at(log_scale)) == pytest.approx(-2.45)
    assert not (log_scale[:1] < split_at(log_scale[:1])).any()
    equal = torch.zeros(4, 3, dtype=F64)
    assert not (equal < split_at(equal)).any()


@pytest.mark.parametrize("units", [weight_units, group_units])
def test_rules_decide_as_they_say(units):
    inference = Horseshoe()
    network, _, data = attached(inference, widths=[12, 9])
    with torch.no_grad():
        shrinking = torch.rand(len(inference.log_sigma), generator=torch.Generator().manual_seed(0)) < 0.5
        inference.log_sigma.copy_(torch.where(shrinking, 0.5 * math.log(0.51), 0.5 * math.log(0.49)))  # κ = s²
        parts = inference._by_factor(inference.location)
        parts["layers.0.weight v"][:4] -= 9.0
        parts["layers.1.weight v"][:2] -= 9.0
    state = State(network, units(network), data, inference)
    posterior = state.posterior
    if units is weight_units:
        named = dict(zip(inference.names, shrinking.split([p.numel() for p in inference.named_weights(network).values()]),
                         strict=True))  # fmt: skip
        assert torch.equal(shrunk(state), torch.cat([named[n] for n in prunable(network)]))
        rows = small_rows(state).split([12 * 64, 9 * 12, 90])
        assert rows[0].view(12, 64)[:4].all()
        assert rows[1].view(9, 12)[:2].all()
        assert not any((rows[0].view(12, 64)[4:].any(), rows[1].view(9, 12)[2:].any(), rows[2].any()))
        told = posterior.weights()
        ratio = torch.cat([(told.mean[n].square() / told.variance[n]).flatten() for n in prunable(network)])
        torch.testing.assert_close(signal_to_noise(state), ratio.log(), rtol=1e-9, atol=1e-9)
    for rule in ("bmr", "kappa", "row", "snr"):
        pruner = build_pruner("horseshoe", rule=rule)
        assert pruner.decide is not None
        assert pruner.report is not None
        decision, report = pruner.decide(state), pruner.report(state)
        assert decision.shape == (state.units.n,)
        assert report["pruned"] == pytest.approx((~decision).double().mean().item())
    expected = ~reduction(state).rejected
    assert torch.equal(build_pruner("horseshoe").decide(state), expected)  # pyright: ignore


@pytest.mark.parametrize("rule", ["bmr", "kappa", "row", "snr"])
@pytest.mark.parametrize("method", ["horseshoe", "local-horseshoe"])
def test_the_contract_with_every_rule(method, rule):
    for verdict in check_on(method, TINY[0], "weights", rule=rule):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"
