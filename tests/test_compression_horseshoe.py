"""The group horseshoe of Bayesian compression: its prior, divergence, moments and modes, by quadrature and by draws."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.compression import GroupHorseshoe, above_gaps, compression_ghs, log_modes
from bayesprune.methods.pruner import State
from bayesprune.methods.variational.horseshoe_prior import group_horseshoe
from scipy import stats
from scipy.integrate import quad

F64 = torch.float64


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=200)


def trained(data, name="mlp", move=0.5, **options):
    """With every number moved away from where it begins."""
    network = build(name, data.input_shape, 10, seed=0, **({"widths": [7, 5]} if name == "mlp" else {})).double()
    inference = GroupHorseshoe(1.0, (0, 0), **options)
    inference.attach(network, weight_units(network), data.train)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in inference.parameters():
            parameter.add_(move * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network, inference


def test_the_root_of_the_factors_is_half_cauchy():
    """Draws of the prior's Gamma factors against the distribution function of the half-Cauchy of scale τ0."""
    factors, scale = group_horseshoe("g", 1, 0.3)
    torch.manual_seed(0)
    gammas = torch.distributions.Gamma(0.5, 1.0)
    z = {name: gammas.sample((20_000, *factor.shape)).double() for name, factor in factors.items()}
    z["g z0"], z["g z1"] = torch.ones(20_000, 1), torch.ones(20_000, 1)  # of one variable alone
    draws = torch.vmap(scale.log)(
        {name: v.log().squeeze(1) if not factors[name].shape else v.log() for name, v in z.items()}
    ).exp()
    assert stats.kstest(draws.flatten().numpy(), stats.halfcauchy(scale=0.3).cdf).pvalue > 0.01


def test_scales_begin_at_one_where_that_costs_least():
    """Of all z0 and z1 of that ratio none is nearer to Gamma(½, 1), in the sum of their divergences."""
    factors, scale = group_horseshoe("g", 3, 1e-5)
    start = {name: torch.full(f.shape, f.start, dtype=F64) for name, f in factors.items()}
    assert scale.log(start).abs().max() < 1e-5

    def cost(m):
        return math.exp(m) - 0.5 * m

    def total(m):
        return cost(m) + cost(m - 2 * math.log(1e5))

    found = float(start["g z0"])
    assert all(total(found) <= total(found + step) + 1e-9 for step in (-1.0, -1e-3, 1e-3, 1.0))


def test_the_divergence_is_a_quadrature(data):
    """Every factor from Gamma(½, 1), in the variable itself, and every weight from N(0, 1)."""
    network, inference = trained(data)
    (m, log_t), total = inference.logs.detach(), 0.0
    for mean, deviation in zip(m.tolist(), log_t.exp().tolist(), strict=True):
        q, p = stats.lognorm(deviation, scale=math.exp(mean)), stats.gamma(0.5)
        low, high = (math.exp(mean + side * 8 * deviation) for side in (-1, 1))
        total += quad(
            lambda y, q=q, p=p: math.exp(y) * q.pdf(math.exp(y)) * (q.logpdf(math.exp(y)) - p.logpdf(math.exp(y))),
            math.log(low), math.log(high), limit=200,
        )[0]  # fmt: skip
    assert float(inference.divergence_of_factors().detach()) == pytest.approx(total, rel=1e-6)
    mean, sigma = inference.flat_mean(network).detach(), inference.log_sigma.detach().exp()
    weights = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, sigma), torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    )
    assert float(inference.divergence(network).detach()) == pytest.approx(total + float(weights.sum()), rel=1e-6)


def test_scales_have_the_moments_of_their_draws(data):
    _, inference = trained(data, move=0.2)
    torch.manual_seed(4)
    with torch.no_grad():
        draws = inference.draw(40_000, training=True)
    generator = torch.Generator().manual_seed(5)
    alone = torch.stack([inference.scales(generator).detach() for _ in range(20_000)])
    mean, log_deviation = inference.factors.detach()
    for z in (draws, alone):
        assert bool(((z.mean(0) - mean).abs() < 5 * log_deviation.exp() / len(z) ** 0.5).all())
        torch.testing.assert_close(z.std(0), log_deviation.exp(), rtol=0.06, atol=0)
    # structures of one layer share a variable, those of two do not
    correlation = torch.corrcoef(draws.log().T)
    first, second = inference.sizes
    assert correlation[:first, :first].min() > 0.1
    assert correlation[:first, first : first + second].abs().max() < 0.05


def test_the_score_is_the_mode_of_the_density(data):
    network, inference = trained(data)
    parts = units(network, "groups", data.train[:2].x.double())
    found = log_modes(State(network, parts, data.train, inference))
    m, t = inference.logs.detach()[0], inference.logs.detach()[1].exp()
    size = inference.sizes[0]
    own = [(0, 1, 2 + i, 2 + size + i) for i in range(size)]
    for i, (z0, z1, v, u) in enumerate(own):
        log = math.log(1e-5) + 0.5 * float(m[z0] - m[z1] + m[v] - m[u])
        deviation = 0.5 * float(t[[z0, z1, v, u]].square().sum().sqrt())
        density = stats.lognorm(deviation, scale=math.exp(log))
        at = math.exp(float(found[i]))
        assert all(density.pdf(at) >= density.pdf(at * factor) for factor in (0.99, 1.01))


def test_structures_below_the_widest_gap_leave(data):
    network, inference = trained(data, move=0.0)
    parts = units(network, "groups", data.train[:2].x.double())
    with torch.no_grad():
        inference.steps[0, 2:4] -= 20.0  # v of the first two neurons
        inference.steps[0, 4] -= 1.0
    kept = above_gaps(State(network, parts, data.train, inference))
    assert kept.tolist() == [False, False, *[True] * 5, *kept[7:].tolist()]


@pytest.mark.parametrize("name", ["mlp", "lenet5", "vit"])
def test_mean_scales_fold(name, data):
    network, inference = trained(data, name, move=0.2)
    with torch.no_grad():
        hooked = network.eval()(data.train[:16].x.double())
        inference.detach(network)
        torch.testing.assert_close(network(data.train[:16].x.double()), hooked)


def test_what_has_left_is_not_counted(data):
    network, inference = trained(data)
    parts = units(network, "groups", data.train[:2].x.double())
    before = float(inference.divergence_of_factors().detach())
    kept = torch.ones(parts.n, dtype=torch.bool)
    kept[1] = False
    inference.reduce(network, Mask(parts, kept))
    logs = inference.logs.detach()[:, [3, 3 + inference.sizes[0]]]
    gone = -0.5 * logs[0] + (logs[0] + 0.5 * (2 * logs[1]).exp()).exp() - logs[1]
    constant = math.lgamma(0.5) - 0.5 * math.log(2 * math.pi * math.e)
    assert before - float(inference.divergence_of_factors().detach()) == pytest.approx(float(gone.sum()) + 2 * constant)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf])
def test_a_scale_is_positive(scale):
    with pytest.raises(UsageError, match="τ0"):
        compression_ghs(scale=scale).inference()
