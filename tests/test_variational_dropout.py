"""The divergence from the log-uniform prior against Dawson's integral, a Poisson series, quadrature and sampling."""

import math

import numpy as np
import pytest
import torch
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.variational.weight_dropout import LIMIT, kl
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from scipy.integrate import quad
from scipy.special import dawsn, digamma, gammaln

GRID = torch.linspace(-10, 10, 201, dtype=torch.float64)

# Molchanov et al. print none of these: they are 2 ∫ D, to six decimals, and the fit at the same points.
POINTS = torch.tensor([-8, -4, -2, -1, 0, 1, 2, 3, 4, 8], dtype=torch.float64)
EXACT = [4.635014, 2.625755, 1.544155, 0.914531, 0.426686, 0.173194, 0.066168, 0.024688, 0.009130, 0.000168]
FITTED = [4.635899, 2.634208, 1.540533, 0.913872, 0.431239, 0.177970, 0.068417, 0.025420, 0.009330, 0.000168]


def by_dawson(log_alpha):
    """2 ∫₀ᵘ D(x) dx, u = 1/√(2α)."""
    u = math.exp(-0.5 * log_alpha) / math.sqrt(2)
    nodes, weights = leggauss(40)
    edges = np.linspace(0, u, 2 + int(2 * u))
    widths = np.diff(edges)[:, None]
    return 2 * float((widths / 2 * weights * dawsn(edges[:-1, None] + widths * (nodes + 1) / 2)).sum())


def by_series(log_alpha):
    """½ (E ψ(J + ½) - ψ(½)), J ~ Poisson(1/(2α)): log w² of a normal w is the mixture of log χ² over J."""
    rate = 0.5 * math.exp(-log_alpha)
    j = np.arange(int(rate + 40 * math.sqrt(rate) + 60))
    weights = np.exp(j * math.log(rate) - rate - gammaln(j + 1))
    return 0.5 * float(
        weights @ (digamma(j + 0.5) - digamma(0.5)) / weights.sum()
    )  # rounding of large exponents cancels


def by_quadrature(log_alpha):
    """-E log N(w; θ, σ²) + E log |w|, the divergence from the density 1/|w|, less its value as α → ∞; with σ = 1."""
    shift = math.exp(-0.5 * log_alpha)

    def integrand(z):
        return math.log(z * z) * (math.exp(-0.5 * (z - shift) ** 2) + math.exp(-0.5 * (z + shift) ** 2))

    points = (1e-3, 1.0, shift) if shift > 1.5 else (1e-3, 1.0)
    mean = quad(integrand, 0, shift + 14, points=points, epsabs=1e-12, epsrel=1e-12, limit=400)[0] / math.sqrt(
        2 * math.pi
    )
    return 0.5 * (mean - (digamma(0.5) + math.log(2)))


@pytest.mark.parametrize(("oracle", "tolerance"), [(by_dawson, 7e-13), (by_series, 7e-12), (by_quadrature, 1e-9)])
def test_exact_divergence_three_ways(oracle, tolerance):
    expected = torch.tensor([oracle(value) for value in GRID.tolist()], dtype=torch.float64)
    torch.testing.assert_close(kl(GRID), expected, rtol=0, atol=tolerance)


def test_exact_divergence_by_sampling(generator):
    """E log |w| by 4 million draws, within four standard errors."""
    for log_alpha in (-3.0, 0.0, 2.0):
        shift = math.exp(-0.5 * log_alpha)
        draws = (torch.randn(4_000_000, dtype=torch.float64, generator=generator) + shift).abs().log()
        expected = draws.mean() - 0.5 * (digamma(0.5) + math.log(2))
        assert abs(kl(torch.tensor(log_alpha).double()) - expected) < 4 * draws.std() / 2000


def test_reference_values_and_the_published_fit_at_the_same_points():
    assert kl(POINTS).tolist() == pytest.approx(EXACT, abs=5.1e-7)
    assert kl(POINTS, "molchanov").tolist() == pytest.approx(FITTED, abs=5.1e-7)


def test_the_gradient_is_dawsons_integral_and_that_of_the_value():
    log_alpha = GRID.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kl(log_alpha).sum(), log_alpha)
    u = (-0.5 * GRID).exp() / math.sqrt(2)
    torch.testing.assert_close(gradient, -u * torch.from_numpy(dawsn(u.numpy())), rtol=0, atol=2e-13)
    step = 1e-5
    differences = (kl(GRID + step) - kl(GRID - step)) / (2 * step)
    torch.testing.assert_close(gradient, differences, rtol=0, atol=1e-8)
    weights = torch.randn(3, 67, dtype=torch.float64)
    shaped = GRID.view(3, 67).requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad((weights * kl(shaped)).sum(), shaped)[0], weights * gradient.view(3, 67)
    )


def test_tails_are_right_in_relative_terms():
    """KL → ½ (γ + log 2 - log α) for α → 0, and → 1/(2α) for α → ∞; slopes -½ and -1/(2α)."""
    low = torch.tensor([-700.0, -100.0, -40.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(kl(low), LIMIT - 0.5 * low, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(kl(low).sum(), low)[0], torch.full_like(low, -0.5), rtol=1e-13, atol=0
    )
    high = torch.tensor([30.0, 300.0, 700.0], dtype=torch.float64, requires_grad=True)
    tail = 0.5 * (-high.detach()).exp()
    torch.testing.assert_close(kl(high).detach(), tail, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(kl(high).sum(), high)[0], -tail, rtol=1e-12, atol=0)
    ends = torch.tensor([math.inf, -math.inf], dtype=torch.float64, requires_grad=True)
    assert kl(ends).tolist() == [0.0, math.inf]
    assert torch.autograd.grad(kl(ends).sum(), ends)[0].tolist() == [0.0, -0.5]
    assert math.isnan(kl(torch.tensor(math.nan)))  # a diverged network is not hidden


def test_single_precision_is_computed_in_double():
    single = GRID.float().requires_grad_()
    value = kl(single)
    (gradient,) = torch.autograd.grad(value.sum(), single)
    assert value.dtype == gradient.dtype == torch.float32
    double = single.detach().double()
    torch.testing.assert_close(value, kl(double).float(), rtol=2e-7, atol=5e-8)
    u = (-0.5 * double).exp() / math.sqrt(2)
    torch.testing.assert_close(gradient, (-u * torch.from_numpy(dawsn(u.numpy()))).float(), rtol=2e-7, atol=1e-7)
    before = GRID.clone()
    kl(before)
    assert torch.equal(before, GRID)  # the argument is left alone


@given(st.floats(-30, 30), st.floats(1e-3, 1.0))
def test_it_falls_and_is_positive(log_alpha, step):
    pair = torch.tensor([log_alpha, log_alpha + step], dtype=torch.float64)
    first, second = kl(pair).tolist()
    assert first > second > 0


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-10, 10))
def test_the_scale_of_weight_and_noise_does_not_matter(log_theta, log_sigma, log_c):
    """(θ, σ) and (cθ, cσ) have the same α."""
    c = math.exp(log_c)
    theta, sigma = (torch.tensor(v, dtype=torch.float64).exp() for v in (log_theta, log_sigma))
    values = [kl((s * s).log() - (t * t).log()) for t, s in ((theta, sigma), (c * theta, c * sigma))]
    torch.testing.assert_close(*values, rtol=1e-11, atol=1e-12)


# ------------------------------------------------------------------ the published fits


def errors(form, grid):
    difference = kl(grid, form) - kl(grid)
    return difference, difference - (difference.max() + difference.min()) / 2


def test_the_fit_of_molchanov_is_off_by_as_much_as_documented():
    grid = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    difference, shifted = errors("molchanov", grid)
    assert difference.abs().max().item() == pytest.approx(0.00937, abs=1e-5)
    assert grid[difference.abs().argmax()].item() == pytest.approx(-3.51, abs=0.01)
    assert shifted.abs().max().item() == pytest.approx(0.00687, abs=1e-5)
    slopes = []
    for form in ("molchanov", "exact"):
        log_alpha = grid.clone().requires_grad_()
        slopes.append(torch.autograd.grad(kl(log_alpha, form).sum(), log_alpha)[0])
    assert (slopes[0] - slopes[1]).abs().max().item() == pytest.approx(0.0137, abs=1e-4)
    assert grid[(slopes[0] - slopes[1]).abs().argmax()].item() == pytest.approx(-2.49, abs=0.01)


def test_the_cubic_of_kingma_is_off_by_as_much_as_documented():
    grid = torch.linspace(-10, 0, 10_001, dtype=torch.float64)
    difference, shifted = errors("kingma", grid)
    assert difference.abs().max().item() == pytest.approx(0.040, abs=5e-4)
    assert shifted.abs().max().item() == pytest.approx(0.020, abs=5e-4)
    assert kl(torch.tensor(-40.0).double(), "kingma").item() == pytest.approx(20 + LIMIT)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="log_alpha <= 0"):
        kl(torch.tensor([0.0, 0.1]), "kingma")
    with pytest.raises(UsageError, match="unknown form of the divergence 'dawson'; known: exact, kingma, molchanov"):
        kl(torch.zeros(1), "dawson")
