"""Inclusion probabilities against the enumeration of all models of a linear regression, and against quadrature."""

import itertools
import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.bench.pruning.select import decided
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.spike_slab import (
    expected_log_odds,
    false_discovery_selection,
    indicator_kl,
    log_odds,
    mixture_log_density,
    responsibility,
    slab_kl,
)
from bayesprune.methods.curvature.whole import dense
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.pruner import State
from bayesprune.methods.reduction.decision import reduction
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

F64 = torch.float64
INCLUSION, SLAB = 0.2, 1.0
COEFFICIENTS = torch.tensor([1.0, 0.4, -0.4, 0.25, 0.45, 0.0, 0.0, 0.0], dtype=F64)


class Regression:
    """y = X w + noise of unit variance, 64 observations, 8 coefficients, a point-mass spike and a slab N(0, 1)."""

    def __init__(self, correlation, seed=0, duplicated=False):
        generator = torch.Generator().manual_seed(seed)
        mixing = correlation ** (torch.arange(8)[:, None] - torch.arange(8)).abs().double()
        orthonormal = torch.linalg.qr(torch.randn(64, 8, dtype=F64, generator=generator))[0]
        self.x = 8 * orthonormal @ torch.linalg.cholesky(mixing).T  # X'X = 64 R exactly
        if duplicated:
            self.x[:, 1] = self.x[:, 0]
        self.y = self.x @ COEFFICIENTS + torch.randn(64, dtype=F64, generator=generator)
        self.gram, self.moment = self.x.T @ self.x, self.x.T @ self.y
        self.precision = self.gram + torch.eye(8, dtype=F64) / SLAB
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = self.covariance @ self.moment

    def log_evidence(self, included):
        """Up to what all models share."""
        gram, moment = self.gram[included][:, included], self.moment[included]
        precision = gram + torch.eye(len(moment), dtype=F64) / SLAB
        return 0.5 * (
            moment @ torch.linalg.solve(precision, moment) - torch.logdet(precision) - len(moment) * math.log(SLAB)
        )

    def enumerated(self, groups):
        """The exact inclusion probability of each group of coefficients."""
        models = torch.tensor(list(itertools.product([False, True], repeat=len(groups))))
        members = torch.zeros(len(groups), 8, dtype=torch.bool)
        for row, group in zip(members, groups, strict=True):
            row[list(group)] = True
        evidences = torch.stack([self.log_evidence((members & model[:, None]).any(0)) for model in models])
        count = models.double().sum(1)
        log_joint = evidences + count * math.log(INCLUSION) + (len(groups) - count) * math.log1p(-INCLUSION)
        return log_joint.softmax(0) @ models.double()

    def coordinate_ascent(self, rounds=3000):
        """Variational inclusion probabilities (Carbonetto & Stephens 2012), an independent algorithm."""
        gram = self.gram.diagonal()
        variance = 1 / (gram + 1 / SLAB)
        phi, mu = torch.full((8,), 0.5, dtype=F64), torch.zeros(8, dtype=F64)
        for k in itertools.islice(itertools.cycle(range(8)), rounds):
            others = self.gram[k] @ (phi * mu) - gram[k] * phi[k] * mu[k]
            mu[k] = variance[k] * (self.moment[k] - others)
            odds = (
                math.log(INCLUSION / (1 - INCLUSION))
                + 0.5 * (variance[k] / SLAB).log()
                + 0.5 * mu[k] ** 2 / variance[k]
            )
            phi[k] = odds.sigmoid()
        return phi


SINGLE = [(k,) for k in range(8)]
PAIRS = [(0, 1), (2, 3), (4, 5), (6, 7)]


@pytest.mark.parametrize("seed", range(3))
def test_orthogonal_designs_are_exact(seed):
    problem = Regression(0.0, seed)
    exact = problem.enumerated(SINGLE)
    assert exact.max() > 0.9 > 0.1 > exact.min()
    found = log_odds(problem.mean, problem.covariance.diagonal(), SLAB, INCLUSION)
    torch.testing.assert_close(found.sigmoid(), exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(problem.coordinate_ascent(), exact, rtol=0, atol=1e-10)
    evidence = log_odds(problem.mean, problem.covariance.diagonal(), SLAB, 0.5)  # π = ½ leaves the weights' evidence
    pairs = math.log(INCLUSION / (1 - INCLUSION)) + evidence.view(4, 2).sum(1)
    torch.testing.assert_close(pairs.sigmoid(), problem.enumerated(PAIRS), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("correlation", "marginal", "ascent"), [(0.5, 0.54, 0.60), (0.9, 0.45, 0.60)])
def test_correlated_designs_are_within_bounds(correlation, marginal, ascent):
    problem = Regression(correlation)
    exact = problem.enumerated(SINGLE)
    found = log_odds(problem.mean, problem.covariance.diagonal(), SLAB, INCLUSION).sigmoid()
    assert (found - exact).abs().max() < marginal
    assert (problem.coordinate_ascent() - exact).abs().max() < ascent


def test_conditional_variances_select_too_much_of_correlated_weights_and_marginal_ones_too_little():
    over, under = 0.0, 0.0
    for seed in range(5):
        problem = Regression(0.9, seed)
        exact = problem.enumerated(SINGLE)
        conditional = log_odds(problem.mean, 1 / problem.precision.diagonal(), SLAB, INCLUSION).sigmoid()
        marginal = log_odds(problem.mean, problem.covariance.diagonal(), SLAB, INCLUSION).sigmoid()
        over = max(over, (conditional - exact).max().item())
        under = max(under, (exact - marginal).max().item())
        assert (marginal - exact).max() < (conditional - exact).max()
    assert over > 0.5
    assert under > 0.2


def test_a_duplicated_column_shares_its_probability_and_only_a_group_sees_it():
    problem = Regression(0.0, duplicated=True)
    exact = problem.enumerated(SINGLE)
    assert exact[0].item() == pytest.approx(exact[1].item())
    assert exact[0] < 0.95
    marginal = log_odds(problem.mean, problem.covariance.diagonal(), SLAB, INCLUSION).sigmoid()
    conditional = log_odds(problem.mean, 1 / problem.precision.diagonal(), SLAB, INCLUSION).sigmoid()
    assert (conditional[:2] > 0.99).all()
    assert (marginal[:2] < 0.5).all()
    assert problem.enumerated(PAIRS)[0] > 0.999


@given(st.floats(-50, 50), st.floats(-20, 20), st.floats(-20, 20), st.floats(1e-12, 1 - 1e-12), st.floats(-20, 20))
def test_log_odds_are_the_formula_and_the_unit_of_the_weight_does_not_matter(mean, log_s2, log_slab, inclusion, log_c):
    s2, slab, c = math.exp(log_s2), math.exp(log_slab), math.exp(log_c)
    found = float(log_odds(mean, s2, slab, inclusion))
    prior = math.log(inclusion / (1 - inclusion))
    assert found == pytest.approx(prior + 0.5 * (log_s2 - log_slab) + mean**2 / (2 * s2), rel=1e-9, abs=1e-9)
    assert float(log_odds(c * mean, c * c * s2, c * c * slab, inclusion)) == pytest.approx(found, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("inclusion", [0.0, 1.0, -0.1, math.nan])
def test_a_certain_inclusion_is_refused(inclusion):
    for ask in (
        lambda: log_odds(0.0, 1.0, 1.0, inclusion),
        lambda: responsibility(0.0, 0.1, 1.0, inclusion),
        lambda: mixture_log_density(torch.zeros(1), 0.1, 1.0, inclusion),
        lambda: indicator_kl(torch.zeros(1), torch.zeros(1), inclusion),
        lambda: build_pruner("pip-laplace", inclusion=inclusion),
    ):
        with pytest.raises(UsageError, match="inclusion"):
            ask()


def test_variances_out_of_range_are_refused_by_name():
    for name, arguments in (
        ("variance", (0.0, 0.0, 1.0)),
        ("slab_variance", (0.0, 1.0, 0.0)),
        ("mean", (math.nan, 1.0, 1.0)),
    ):
        with pytest.raises(UsageError, match=f"^{name} must be"):
            log_odds(*arguments)
    with pytest.raises(UsageError, match=r"spike_variance must be below slab_variance, got 1 and 0\.5"):
        responsibility(0.0, 1.0, 0.5)
    with pytest.raises(UsageError, match="spike_variance must be positive"):
        responsibility(0.0, 0.0, 0.5)


# ------------------------------------------------------------------ a spike with a width


def test_responsibility_is_bayes_rule_and_its_threshold_the_published_one():
    weight = torch.linspace(-0.3, 0.3, 61, dtype=F64)
    slab, spike = (Normal(torch.zeros((), dtype=F64), v**0.5).log_prob(weight).exp() for v in (1e-2, 1e-4))
    expected = 0.1 * slab / (0.1 * slab + 0.9 * spike)
    torch.testing.assert_close(responsibility(weight.square(), 1e-4, 1e-2, 0.1).sigmoid(), expected)
    torch.testing.assert_close(mixture_log_density(weight, 1e-4, 1e-2, 0.1), (0.1 * slab + 0.9 * spike).log())
    threshold = math.sqrt(math.log((1 - 1e-5) / 1e-5 * 10) / (0.5 / 1e-4 - 0.5 / 1e-2))
    assert threshold == pytest.approx(0.0528, abs=1e-4)  # the setting of Sun, Song, Liang
    assert abs(float(responsibility(threshold**2, 1e-4, 1e-2, 1e-5))) < 1e-9
    single = mixture_log_density(torch.tensor([0.0, 30.0]), 1e-4, 1.0, 1e-6)
    assert torch.isfinite(single).all()


def test_expected_responsibility_is_an_integral(generator):
    means = 0.3 * torch.randn(20, dtype=F64, generator=generator)
    variances = 0.05 * torch.rand(20, dtype=F64, generator=generator) + 1e-3
    found = expected_log_odds(means, variances, 0.05, 1.0, INCLUSION).sigmoid()
    for mean, variance, value in zip(means.tolist(), variances.tolist(), found.tolist(), strict=True):
        s = math.sqrt(variance)

        def integrand(z, mean=mean, s=s):
            r = float(responsibility((mean + s * z) ** 2, 0.05, 1.0, INCLUSION).sigmoid())
            return r * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)

        assert value == pytest.approx(quad(integrand, -9, 9, epsabs=1e-11)[0], abs=2e-3)
    torch.testing.assert_close(expected_log_odds(means, variances, 0.05, 1.0, INCLUSION).sigmoid(), found)
    extreme = expected_log_odds(torch.tensor([0.0, 30.0]), 1e-8, 1e-4, 1.0, 1e-6)
    assert torch.isfinite(extreme).all()  # where the probabilities are 0 and 1
    certain = expected_log_odds(means, torch.full_like(means, 1e-16), 0.05, 1.0, INCLUSION).sigmoid()
    torch.testing.assert_close(certain, responsibility(means.square(), 0.05, 1.0, INCLUSION).sigmoid())


# ------------------------------------------------------------------ a trained indicator


def test_the_divergence_of_an_indicator_is_that_of_its_parts(generator):
    odds, mean = torch.randn(2, 9, dtype=F64, generator=generator)
    variance = torch.rand(9, dtype=F64, generator=generator) + 0.1
    normal = kl_divergence(Normal(mean, variance.sqrt()), Normal(torch.zeros_like(mean), math.sqrt(2.0)))
    torch.testing.assert_close(slab_kl(mean, variance, 2.0), normal)
    prior = Bernoulli(torch.full((9,), INCLUSION, dtype=F64))
    expected = kl_divergence(Bernoulli(logits=odds), prior) + odds.sigmoid() * normal
    torch.testing.assert_close(indicator_kl(odds, normal, INCLUSION), expected)
    certain = indicator_kl(torch.tensor([-500.0, 500.0]), torch.ones(2), 1e-6)
    torch.testing.assert_close(certain, torch.tensor([-math.log1p(-1e-6), 1 - math.log(1e-6)]))


def test_the_bound_is_stationary_at_the_exact_probabilities_of_an_orthogonal_design():
    problem = Regression(0.0)
    odds = log_odds(problem.mean, problem.covariance.diagonal(), SLAB, INCLUSION).requires_grad_()
    mean = problem.mean.clone().requires_grad_()
    variance = problem.covariance.diagonal().clone().requires_grad_()
    phi = odds.sigmoid()
    first, second = phi * mean, phi * (mean.square() + variance)
    loss = -problem.moment @ first + 0.5 * problem.gram.diagonal() @ second  # E ½ |y - Xw|², X'X diagonal
    bound = loss + indicator_kl(odds, slab_kl(mean, variance, SLAB), INCLUSION).sum()
    for gradient in torch.autograd.grad(bound, [odds, mean, variance]):
        assert gradient.abs().max() < 1e-9


# ------------------------------------------------------------------ selection and the method


def test_false_discoveries_are_bounded_in_the_mean():
    pip = torch.tensor([0.2, 0.99, 0.95, 0.91, 0.6])
    assert false_discovery_selection(pip).tolist() == [False, True, True, True, False]
    assert false_discovery_selection(pip, 0.0).tolist() == [False] * 5
    assert false_discovery_selection(pip, 1.0).all()


def trained_state(units, inference):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()
    network = build("mlp", (6,), 2, seed=0, widths=[12])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return State(network, units(network), Split(x, y), inference)


@pytest.mark.parametrize("units", [weight_units, group_units])
def test_the_median_model_at_even_odds_is_what_the_evidence_keeps(units):
    pruner = build_pruner("pip-laplace")
    state = trained_state(units, pruner.inference())
    scores = pruner.score(state)
    assert pruner.keep_above == 0
    decision = reduction(state, "zero")
    torch.testing.assert_close(scores, -decision.delta_f)
    assert torch.equal(decided(scores, state, pruner), ~decision.rejected)
    rarer = build_pruner("pip-laplace", inclusion=0.01).score(state)
    torch.testing.assert_close(scores - rarer, torch.full_like(scores, math.log(99)))


def test_a_given_slab_is_the_prior_trained_under():
    pruner = build_pruner("pip-laplace", slab_variance=0.25)
    assert pruner.inference() == MAP(4.0)
    state = trained_state(weight_units, pruner.inference())
    posterior = state.posterior
    name = next(iter(state.weights()))
    expected = log_odds(posterior.mean[name], posterior.variance[name], 0.25)
    torch.testing.assert_close(pruner.score(state)[: expected.numel()], expected.flatten())
    with pytest.raises(UsageError, match="not both"):
        build_pruner("pip-laplace", slab_variance=0.25, precision=3.0)
    with pytest.raises(UsageError, match="slab_variance must be positive"):
        build_pruner("pip-laplace", slab_variance=0.0)


def linear_state(problem, pruner):
    """The regression as a network without a bias, at its exact posterior mean."""
    network = nn.Linear(8, 1, bias=False, dtype=F64)
    network.weight.data.copy_(problem.mean)
    return State(network, weight_units(network), Split(problem.x, problem.y.unsqueeze(1)), pruner.inference())


@pytest.mark.parametrize("variance", ["conditional", "kronecker", "full"])
def test_the_method_is_exact_for_orthogonal_designs(variance):
    problem = Regression(0.0)
    pruner = build_pruner("pip-laplace", slab_variance=SLAB, inclusion=INCLUSION, variance=variance)
    state = linear_state(problem, pruner)
    torch.testing.assert_close(pruner.score(state).sigmoid(), problem.enumerated(SINGLE), rtol=0, atol=1e-10)
    assert pruner.report is not None
    assert pruner.report(state)["variance"] == variance


@pytest.mark.parametrize("variance", ["kronecker", "full"])
@pytest.mark.parametrize("problem", [Regression(0.9), Regression(0.0, duplicated=True)], ids=["AR(0.9)", "duplicated"])
def test_marginal_variances_are_those_of_the_inverse_and_select_less_than_conditional_ones(variance, problem):
    pruner = build_pruner("pip-laplace", slab_variance=SLAB, inclusion=INCLUSION, variance=variance)
    found = pruner.score(linear_state(problem, pruner))
    torch.testing.assert_close(found, log_odds(problem.mean, problem.covariance.diagonal(), SLAB, INCLUSION))
    conditional = build_pruner("pip-laplace", slab_variance=SLAB, inclusion=INCLUSION)
    scores = conditional.score(linear_state(problem, conditional))
    assert (found > 0).sum() < (scores > 0).sum()
    error = found.sigmoid() - problem.enumerated(SINGLE)
    assert error.max() < 0.45  # 1.5 times the 0.30 of another such design
    assert error.max() < (scores.sigmoid() - problem.enumerated(SINGLE)).max() - 0.1


def test_the_whole_curvature_is_tempered_as_its_diagonal():
    """Real targets: prior and noise come from the evidence, and the noise is in the posterior's curvature alone."""
    pruner = build_pruner("pip-laplace", variance="full")
    problem = Regression(0.0)
    scores, noisy = (pruner.score(linear_state(p, pruner)) for p in (problem, with_noise(problem, 3.0)))
    conditional = build_pruner("pip-laplace")
    torch.testing.assert_close(scores, conditional.score(linear_state(problem, conditional)), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(scores, noisy)


def with_noise(problem, factor):
    noisy = Regression(0.0)
    noisy.y = problem.x @ COEFFICIENTS + factor * (problem.y - problem.x @ COEFFICIENTS)
    return noisy


def test_the_whole_curvature_is_that_of_explicit_jacobians(generator):
    network = build("mlp", (3,), 2, seed=0, widths=[4]).double()
    x, y = torch.randn(7, 3, dtype=F64, generator=generator), torch.randn(7, 2, dtype=F64, generator=generator)
    parameters = list(network.parameters())
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(v, parameters, retain_graph=True)])
            for v in network(x).flatten()]  # fmt: skip
    jacobian = torch.stack(rows)
    found = dense(network, Split(x, y))
    torch.testing.assert_close(found.h, jacobian.T @ jacobian)
    delta = torch.rand(len(found.h), dtype=F64, generator=generator) + 0.1
    whole = found.h + delta.diag()
    torch.testing.assert_close(found.determined(delta), 1 - delta * whole.inverse().diagonal())
    torch.testing.assert_close(found.log_det_ratio(delta), torch.logdet(whole) - delta.log().sum())
    torch.testing.assert_close(found.scaled(2.0).precision(delta), 2 * found.h.diagonal() + delta)
    kept = torch.arange(len(delta)) % 2 == 0
    assert found.masked(kept).h[~kept].eq(0).all()


def test_a_curvature_too_large_to_hold_is_refused():
    with pytest.raises(UsageError, match="use 'kronecker'"):
        dense(nn.Linear(200, 100), Split(torch.zeros(2, 200), torch.zeros(2, 100)))
