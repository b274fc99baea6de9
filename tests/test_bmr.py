"""Bayesian model reduction against quadrature, exact evidences of Bayesian linear regression, and enumeration."""

import itertools
import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.contract import TINY, check_on
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import leave
from bayesprune.bench.training.loop import train as fit
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.curvature_matrix import Dense
from bayesprune.methods.closed_forms.model_reduction import (
    delta_f,
    delta_f_multivariate,
    savage_dickey,
    spike_delta_f,
    without,
)
from bayesprune.methods.closed_forms.posteriors import Laplace
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.opd import opd
from bayesprune.methods.pruner import State
from bayesprune.methods.reduction.decision import reduction, spike, threshold, tied_share
from bayesprune.methods.variational.student import StudentT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn
from torch.distributions import MultivariateNormal, Normal

F64 = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=F64)


# ------------------------------------------------------------------ independent weights


def by_quadrature(mu, s2, m, sigma2, m_, gamma2):
    """log ∫ q p̃ / p, around the maximum of the integrand."""

    def log_integrand(w):
        return -0.5 * (
            (w - mu) ** 2 / s2
            + (w - m_) ** 2 / gamma2
            - (w - m) ** 2 / sigma2
            + math.log(2 * math.pi * s2 * gamma2 / sigma2)
        )

    q = 1 / s2 + 1 / gamma2 - 1 / sigma2
    peak, width = (mu / s2 + m_ / gamma2 - m / sigma2) / q, q**-0.5
    area, _ = quad(
        lambda w: math.exp(log_integrand(w) - log_integrand(peak)), peak - 12 * width, peak + 12 * width, epsabs=1e-13
    )
    return math.log(area) + log_integrand(peak)


def test_delta_f_is_the_integral(generator):
    mean, prior_mean, reduced_mean = 2 * torch.randn(3, 200, dtype=F64, generator=generator)
    variance, prior_variance, reduced_variance = torch.rand(3, 200, dtype=F64, generator=generator) * 2 + 0.02
    proper = 1 / variance + 1 / reduced_variance > 1.05 / prior_variance
    arguments = [t[proper] for t in (mean, variance, prior_mean, prior_variance, reduced_mean, reduced_variance)]
    assert (arguments[1] > arguments[3]).any()  # posteriors wider than their prior
    assert (arguments[5] > arguments[3]).any()  # reduced priors that are wider
    expected = torch.tensor([by_quadrature(*map(float, row)) for row in zip(*arguments, strict=True)], dtype=F64)
    torch.testing.assert_close(delta_f(*arguments), expected, rtol=1e-10, atol=1e-10)


MEANS = st.floats(-100, 100)
LOG_VARIANCES = st.floats(-60, 60)


@given(MEANS, MEANS, LOG_VARIANCES, LOG_VARIANCES)
def test_a_spike_is_the_savage_dickey_ratio_at_any_precision(mean, prior_mean, log_variance, log_prior):
    s2, sigma2 = math.exp(log_variance), math.exp(log_prior)
    found = delta_f(mean, s2, prior_mean, sigma2, 0.0, 0.0)
    expected = 0.5 * (log_prior - log_variance - mean**2 / s2 + prior_mean**2 / sigma2)
    assert float(found) == pytest.approx(expected, rel=1e-12, abs=1e-10)


@given(MEANS, MEANS, LOG_VARIANCES, LOG_VARIANCES)
def test_an_unchanged_prior_changes_nothing(mean, prior_mean, log_variance, log_prior):
    s2, sigma2 = math.exp(min(log_variance, log_prior)), math.exp(log_prior)
    size = (mean - prior_mean) ** 2 / sigma2
    assert abs(float(delta_f(mean, s2, prior_mean, sigma2, prior_mean, sigma2))) <= 1e-14 * (100 + size)


@given(MEANS, MEANS, MEANS, *[st.floats(-8, 8)] * 3, st.floats(-20, 20), st.floats(-50, 50))
def test_units_and_origin_of_a_weight_do_not_matter(mean, prior_mean, reduced_mean, s2, sigma2, gamma2, log_c, shift):
    sigma2 = max(s2, sigma2)
    variances, c = [math.exp(v) for v in (s2, sigma2, gamma2)], math.exp(log_c)
    means = (mean, prior_mean, reduced_mean)
    first = delta_f(*(x for pair in zip(means, variances, strict=True) for x in pair))
    moved = [c * (m + shift) for m in means]
    second = delta_f(*(x for pair in zip(moved, (c * c * v for v in variances), strict=True) for x in pair))
    scale = sum((a - b) ** 2 for a, b in itertools.combinations(means, 2)) / min(variances)
    assert float(second) == pytest.approx(float(first), rel=1e-9, abs=1e-9 + 1e-11 * scale)


@given(st.floats(-30, 30), st.floats(-12, 6), st.floats(-12, 6), st.floats(-12, 6))
def test_reducing_twice_is_reducing_once(mean, s2, sigma2, gamma2):
    """The evidences of three priors: log p̃/p = log p̃/p' + log p'/p, from the posterior under p'."""
    s2, middle, last = (math.exp(v) for v in (s2, sigma2, gamma2))
    prior = 2 * max(s2, middle)
    v = s2 + middle - s2 * middle / prior
    between = delta_f(mean, s2, 0.0, prior, 0.0, middle)
    onward = delta_f(middle * mean / v, s2 * middle / v, 0.0, middle, 0.0, min(last, middle))
    straight = delta_f(mean, s2, 0.0, prior, 0.0, min(last, middle))
    assert float(between + onward) == pytest.approx(float(straight), rel=1e-8, abs=1e-8)


@given(st.floats(-1e150, 1e150), *[st.floats(1e-100, 1e100)] * 2, st.floats(0, 1))
def test_never_a_nan(mean, variance, prior_variance, share):
    assert not torch.isnan(delta_f(mean, variance, 0.0, prior_variance, 0.0, share * prior_variance))
    assert not torch.isnan(delta_f(mean, variance, 0.0, prior_variance, 0.0, 0.0))


def test_as_the_reduced_prior_narrows_the_spike_is_reached_and_the_sign_is_a_signal_to_noise_rule(generator):
    mean, variance = torch.randn(100, dtype=F64, generator=generator), torch.rand(100, dtype=F64, generator=generator)
    exact = delta_f(mean, variance, 0.0, 1.5, 0.0, 0.0)
    errors = [(delta_f(mean, variance, 0.0, 1.5, 0.0, g**2) - exact).abs() for g in (1e-4, 1e-5)]
    torch.testing.assert_close(errors[0] / errors[1], torch.full((100,), 100.0, dtype=F64), rtol=0.02, atol=0)
    assert torch.equal(exact > 0, mean.square() / variance < (1.5 / variance).log())


def test_pseudo_observations_and_a_prior_tuned_for_each_weight(generator):
    """ΔF = log N(m; 0, v+γ²) - log N(m; 0, v+σ²), largest at γ² = max(0, m²-v): where σ² is that, no spike gains."""
    m, v = 2 * torch.randn(50, dtype=F64, generator=generator), torch.rand(50, dtype=F64, generator=generator) + 0.1
    zero = torch.zeros_like(m)

    def posterior(sigma2):
        variance = 1 / (1 / v + 1 / sigma2)
        return variance * m / v, variance

    gamma2 = torch.rand(50, dtype=F64, generator=generator)
    expected = Normal(zero, (v + gamma2).sqrt()).log_prob(m) - Normal(zero, (v + 1).sqrt()).log_prob(m)
    torch.testing.assert_close(delta_f(*posterior(torch.ones_like(m)), 0.0, 1.0, 0.0, gamma2), expected)
    tuned = (m.square() - v).clamp_min(0)
    assert (delta_f(*posterior(torch.ones_like(m)), 0.0, 1.0, 0.0, tuned) >= expected).all()
    tuned = tuned[active := tuned > 0]
    mean, variance = (t[active] for t in posterior((m.square() - v).clamp_min(1e-9)))
    assert (delta_f(mean, variance, 0.0, tuned, 0.0, 0.0) <= 1e-12).all()


def test_shapes_broadcast_single_precision_is_raised_and_gradients_flow():
    mean = torch.randn(3, 1, 40_000)  # more than one block
    variance = torch.rand(2, 1) + 0.1
    found = delta_f(mean, variance, 0.0, 2.0, 0.0, 0.0)
    assert found.shape == (3, 2, 40_000)
    assert found.dtype == F64
    row = delta_f(mean[1, 0].double(), float(variance[1]), 0.0, 2.0, 0.0, 0.0)
    torch.testing.assert_close(found[1, 1], row, rtol=1e-14, atol=1e-14)
    assert delta_f(torch.empty(0), 1.0, 0.0, 1.0, 0.0, 0.0).shape == (0,)
    inputs = [
        tensor(0.3, -2.0),
        tensor(0.2, 0.5),
        tensor(0.1, 0.0),
        tensor(1.0, 2.0),
        tensor(0.0, 0.4),
        tensor(0.3, 1.0),
    ]
    assert torch.autograd.gradcheck(delta_f, [t.requires_grad_() for t in inputs])


GOOD = {
    "mean": 0.1, "variance": 0.5, "prior_mean": 0.0, "prior_variance": 1.0, "reduced_mean": 0.0, "reduced_variance": 0.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *((name, bad) for name in GOOD for bad in (math.nan, math.inf)),
        *(("variance", bad) for bad in (0.0, -1.0)),
        *(("prior_variance", bad) for bad in (0.0, -1.0)),
        ("reduced_variance", -1e-9),
    ],
)
def test_what_is_no_gaussian_is_refused_by_name(name, bad):
    with pytest.raises(UsageError, match=f"^{name} must be"):
        delta_f(**GOOD | {name: torch.tensor([GOOD[name], bad])})


def test_a_reduced_posterior_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match=r"reduced_variance .* lower reduced_variance"):
        delta_f(0.0, 2.0, 0.0, 1.0, 0.0, 2.0)
    eye = torch.eye(2)
    with pytest.raises(UsageError, match="reduced_covariance"):
        delta_f_multivariate(eye[0], 2 * eye, eye[0], eye, eye[0], 2 * eye)


# ------------------------------------------------------------------ correlated weights


def random_covariance(generator, p, scale=1.0):
    root = torch.randn(p, p, dtype=F64, generator=generator)
    return scale * (root @ root.T / p + 0.2 * torch.eye(p, dtype=F64))


def regression(correlation, n=40, p=5, noise=0.7):
    """A Bayesian linear regression: design, targets, posterior, prior covariance and log evidence of any prior."""
    generator = torch.Generator().manual_seed(1)
    mixing = correlation ** (torch.arange(p)[:, None] - torch.arange(p)).abs().double()
    x = torch.randn(n, p, dtype=F64, generator=generator) @ torch.linalg.cholesky(mixing).T
    y = x @ tensor(1.0, 0.0, -0.5, 0.0, 0.1) + noise * torch.randn(n, dtype=F64, generator=generator)
    prior_mean, prior = 0.3 * torch.randn(p, dtype=F64, generator=generator), random_covariance(generator, p)
    covariance = torch.linalg.inv(x.T @ x / noise**2 + torch.linalg.inv(prior))
    mean = covariance @ (x.T @ y / noise**2 + torch.linalg.solve(prior, prior_mean))

    def log_evidence(m, c):
        return MultivariateNormal(x @ m, noise**2 * torch.eye(n, dtype=F64) + x @ c @ x.T).log_prob(y)

    return mean, covariance, prior_mean, prior, log_evidence


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_any_reduced_prior_gives_the_exact_bayes_factor_of_linear_regression(correlation, generator):
    mean, covariance, prior_mean, prior, log_evidence = regression(correlation)
    reduced_mean, reduced = torch.randn(5, dtype=F64, generator=generator), random_covariance(generator, 5, 0.3)
    found = delta_f_multivariate(mean, covariance, prior_mean, prior, reduced_mean, reduced)
    exact = log_evidence(reduced_mean, reduced) - log_evidence(prior_mean, prior)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_dropping_any_subset_gives_the_exact_bayes_factor_and_moves_the_kept(correlation):
    mean, covariance, prior_mean, prior, log_evidence = regression(correlation)
    for subset in itertools.product([False, True], repeat=5):
        removed = torch.tensor(subset)
        if not removed.any() or removed.all():
            continue
        kept_mean, kept_prior = without(prior_mean, prior, removed)
        reduced_mean, reduced = torch.zeros(5, dtype=F64), torch.zeros(5, 5, dtype=F64)
        reduced_mean[~removed] = kept_mean
        reduced[(~removed).outer(~removed)] = kept_prior.flatten()
        exact = log_evidence(reduced_mean, reduced) - log_evidence(prior_mean, prior)
        arguments = (mean, covariance, prior_mean, prior)
        torch.testing.assert_close(savage_dickey(*arguments, removed), exact, rtol=1e-9, atol=1e-9)
        singular = delta_f_multivariate(*arguments, reduced_mean, reduced)
        torch.testing.assert_close(singular, exact, rtol=1e-9, atol=1e-9)
        moved, narrowed = without(mean, covariance, removed)
        precision = torch.linalg.inv(covariance)
        inner = torch.linalg.inv(precision[~removed][:, ~removed])
        torch.testing.assert_close(narrowed, inner)
        torch.testing.assert_close(moved, inner @ (precision @ mean)[~removed])  # the mode on the plane w_R = 0


def test_independent_weights_add_up_and_correlated_ones_do_not(generator):
    mean, prior_mean, reduced_mean = torch.randn(3, 4, dtype=F64, generator=generator)
    variance, reduced = torch.rand(2, 4, dtype=F64, generator=generator) * 0.5 + 0.1
    single = delta_f(mean, variance, prior_mean, 1.0, reduced_mean, reduced)
    eye = torch.eye(4, dtype=F64)
    joint = delta_f_multivariate(mean, variance.diag(), prior_mean, eye, reduced_mean, reduced.diag())
    torch.testing.assert_close(joint, single.sum())
    covariance, zero, everything = random_covariance(generator, 4, 0.3), torch.zeros(4, dtype=F64), torch.ones(4) > 0
    together = savage_dickey(mean, covariance, zero, eye, everything)
    apart = delta_f(mean, covariance.diag(), 0.0, 1.0, 0.0, 0.0).sum()
    assert abs(together - apart) > 0.1


def test_conditional_variances_keep_a_useless_regressor_that_the_evidence_drops():
    """Two regressors, correlation .95: the marginal of the full posterior is right, mean field is not."""
    precision = 30 * tensor(1.0, 0.95, 0.95, 1.0).view(2, 2) + torch.eye(2, dtype=F64)
    covariance, mean = torch.linalg.inv(precision), tensor(1.0, 0.45)
    exact = savage_dickey(mean, covariance, torch.zeros(2), torch.eye(2), torch.tensor([False, True]))
    marginal = delta_f(mean[1], covariance[1, 1], 0.0, 1.0, 0.0, 0.0)
    torch.testing.assert_close(marginal, exact)
    assert exact > 0 > delta_f(mean[1], 1 / precision[1, 1], 0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["covariance", "prior_covariance", "reduced_covariance"])
def test_matrices_that_are_no_covariance_are_refused_by_name(name):
    eye, zero = torch.eye(3, dtype=F64), torch.zeros(3)
    arguments = {
        "mean": zero, "covariance": 0.5 * eye, "prior_mean": zero, "prior_covariance": eye, "reduced_mean": zero,
        "reduced_covariance": 0.1 * eye,
    }  # fmt: skip
    for bad in (-eye, math.nan * eye):
        with pytest.raises(UsageError, match=f"^{name} must"):
            delta_f_multivariate(**arguments | {name: bad})


# ------------------------------------------------------------------ which weights leave


def test_the_threshold_runs_away_from_zero_step_by_step():
    ties = torch.full((10_000,), 0.5, dtype=F64)
    found = [threshold(ties, steps=steps) for steps in (1, 2, 4, 8, 50)]
    assert found == pytest.approx([-0.5, -1.0, -2.0, -4.0, -8.9], rel=0.01)
    assert threshold(ties, "zero") == 0
    assert threshold(ties[:0]) == 0
    assert threshold(-ties) == pytest.approx(-threshold(ties))
    dead = torch.cat([torch.full((1000,), -0.14, dtype=F64), torch.zeros(9000, dtype=F64)])
    assert 0 < threshold(dead) < threshold(dead[:1000])  # weights without information dilute it


def bound(changes, zeta, kept, removed):
    """The evidence bound of the spike-and-slab with q(λ) = sigmoid(ζ - ΔF), q(p) = Beta(kept, removed)."""
    q = torch.sigmoid(zeta - changes)
    beta = torch.distributions.Beta(kept, removed)
    log_p, log_not = (
        torch.digamma(kept) - torch.digamma(kept + removed),
        torch.digamma(removed) - torch.digamma(kept + removed),
    )
    entropy = torch.distributions.Bernoulli(q).entropy()
    uniform = torch.distributions.Beta(tensor(1.0), tensor(1.0))
    divergence = torch.distributions.kl_divergence(beta, uniform).squeeze()
    return ((1 - q) * changes + q * log_p + (1 - q) * log_not + entropy).sum() - divergence


def test_the_bound_of_the_beta_bernoulli_rule_rises_and_stays_below_the_enumerated_evidence(generator):
    changes = 3 * torch.randn(10, dtype=F64, generator=generator)
    configurations = torch.tensor(list(itertools.product([0, 1], repeat=10)), dtype=F64)
    count = configurations.sum(1)
    log_prior = torch.lgamma(1 + count) + torch.lgamma(11 - count) - math.lgamma(12)
    log_joint = log_prior + (1 - configurations) @ changes
    exact, values, zeta = log_joint.logsumexp(0), [], tensor(0.0)
    for steps in range(40):
        q = torch.sigmoid(zeta - changes)
        values.append(bound(changes, zeta, 1 + q.sum(), 11 - q.sum()))
        zeta = tensor(threshold(changes, steps=steps + 1))
    assert (torch.stack(values).diff() >= -1e-12).all()
    assert values[-1] <= exact
    inclusion = (log_joint - exact).exp() @ configurations
    assert (torch.sigmoid(zeta - changes) - inclusion).abs().max() < 0.1


def test_ties_are_counted():
    assert tied_share(tensor(0.1, -0.1, 0.2, -5.0)) == 0.5
    assert tied_share(tensor()) == 0


# ------------------------------------------------------------------ the method


@pytest.fixture(scope="module")
def trained():
    """A network, a little trained, and its data."""
    data = load("digits", subset=300)
    network = build("mlp", data.input_shape, data.outputs, seed=0, widths=[20, 15])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.train.x), data.train.y).backward()
        optimizer.step()
    return network, data.train


def state_of(trained, units):
    network, train = trained
    return State(network, units(network), train, MAP(prior="layerwise"))


def test_the_spike_on_a_laplace_posterior_is_that_of_the_curvature(trained):
    """ΔF = ½ log(1 + h/δ) - ½ (h + δ) θ²."""
    state = state_of(trained, weight_units)
    posterior = state.posterior
    for name, change in spike(state).items():
        h, delta, theta = posterior.curvature[name], posterior.prior[name], posterior.mean[name]
        torch.testing.assert_close(change, 0.5 * (h / delta).log1p() - 0.5 * (h + delta) * theta.square())


@pytest.mark.parametrize("rule", ["zero", "vb4"])
@pytest.mark.parametrize("units", [weight_units, group_units])
def test_own_threshold_is_the_decision_and_a_sparsity_ranks_by_damage(trained, units, rule):
    state = state_of(trained, units)
    pruner, decision = build_pruner("bmr-laplace", rule=rule), reduction(state, rule)
    scores = pruner.score(state)
    assert torch.equal(scores, opd(state))
    assert pruner.decide is not None
    assert pruner.report is not None
    assert torch.equal(pruner.decide(state), ~decision.rejected)
    assert pruner.report(state) == decision.summary()
    for change, rejected, zeta in zip(
        state.units.split(decision.delta_f), state.units.split(decision.rejected), decision.zeta.values(), strict=True
    ):
        assert torch.equal(change > zeta, rejected)
        assert zeta == threshold(change, rule)
    assert decision.rejected.any() or units is group_units
    summary = decision.summary()
    assert summary["pruned"] == pytest.approx(decision.rejected.double().mean().item())
    assert summary["tied"] == tied_share(decision.delta_f)
    assert list(summary["zeta"]) == list(state.units.layer_names)


def test_a_group_is_judged_by_the_sum_over_what_it_owns(trained):
    state = state_of(trained, group_units)
    changes, found = spike(state), reduction(state).delta_f
    names = list(changes)
    assert names == [n for n, _ in state.network.named_parameters()]
    first = changes[names[0]].sum(1) + changes[names[1]] + changes[names[2]].sum(0)
    torch.testing.assert_close(found[:20], first)


def plainly(state, rule, population):
    """The decision, one line of the text at a time: no blocks, no buffers, no fused steps."""
    units, posterior = state.units, state.posterior
    changes = units.gather({n: 0.5 * ((posterior.marginal_precision[n] / posterior.prior[n]).log()
                                      - m.square() * posterior.marginal_precision[n])
                            for n, m in posterior.mean.items()})  # fmt: skip
    here = units.gather({name: (w != 0).double() for name, w in state.weights().items()}) > 0
    changes = torch.where(here, changes, 0.0)
    rejected = []
    for change, live in zip(units.split(changes), units.split(here), strict=True):
        judged = change if population == "full" else change[live]
        zeta = torch.zeros((), dtype=F64)
        for _ in range(4 if rule == "vb4" else 0):
            kept = torch.sigmoid(zeta - judged).sum()
            zeta = torch.digamma(1 + kept) - torch.digamma(1 + len(judged) - kept)
        rejected.append((change > zeta) | ~live)
    return changes, torch.cat(rejected)


@pytest.mark.parametrize("population", ["live", "full"])
@pytest.mark.parametrize("rule", ["zero", "vb4"])
@pytest.mark.parametrize("left", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("units", [weight_units, group_units])
def test_decisions_are_those_of_plain_code(units, left, rule, population):
    inference, generator = MeanField(precision=20.0), torch.Generator().manual_seed(0)
    network = build("mlp", (50,), 10, seed=0, widths=[300, 150])  # a layer of more than one block
    data = Split(torch.randn(4, 50, generator=generator), torch.arange(4))
    inference.attach(network, units(network), data)
    with torch.no_grad():
        inference.log_sigma.copy_(torch.empty_like(inference.log_sigma).uniform_(-4.0, -1.3, generator=generator))
        for weight in network.parameters():
            weight.mul_(torch.rand(weight.shape, generator=generator) >= left)
    state = State(network, units(network), data, inference)
    found, (changes, rejected) = reduction(state, rule, population), plainly(state, rule, population)
    torch.testing.assert_close(found.delta_f, changes, rtol=1e-12, atol=1e-12)
    assert torch.equal(found.rejected, rejected)
    assert left == 1.0 or units is group_units or 0 < rejected.double().mean() < 1


def test_units_that_have_left_do_not_shape_the_threshold_and_leave(trained):
    network, train = trained
    pruned = build("mlp", train.x.shape[1:], 10, seed=0, widths=[20, 15])
    pruned.load_state_dict(network.state_dict())
    name = next(n for n, p in pruned.named_parameters() if p.dim() == 2)
    with torch.no_grad():
        pruned.get_parameter(name)[:10] = 0
    state = State(pruned, weight_units(pruned), train, MAP(prior="layerwise"))
    decision = reduction(state)
    gone = pruned.get_parameter(name).flatten() == 0
    layer = decision.delta_f[: len(gone)]
    assert decision.rejected[: len(gone)][gone].all()
    assert decision.zeta[name] == pytest.approx(threshold(layer[~gone]), rel=1e-9)
    assert torch.isfinite(build_pruner("bmr-laplace").score(state)).all()


def test_norms_and_tables_are_not_judged_with_a_group():
    network = build("vit", (1, 8, 8), 10, seed=0, dim=16, depth=1)
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = State(network, group_units(network), Split(x, torch.arange(12) % 10), MAP(prior="layerwise"))
    owners = {type(network.get_submodule(name.rpartition(".")[0])) for name in spike(state)}
    assert nn.LayerNorm not in owners
    assert nn.Linear in owners


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_the_weights_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert threshold(tensor(*values)) == pytest.approx(threshold(tensor(*shuffled)), abs=1e-9)


# ------------------------------------------------------------------ on every posterior


def test_the_spike_is_the_general_form_without_variance(generator):
    mean, pi, delta = torch.randn(3, 50_000, dtype=F64, generator=generator).exp()  # more than one block
    expected = delta_f(mean, 1 / pi, 0.0, 1 / delta, 0.0, 0.0)
    torch.testing.assert_close(spike_delta_f(mean, pi, delta), expected, rtol=1e-12, atol=1e-12)
    single = spike_delta_f(mean.float(), pi.float(), delta.float())
    assert single.dtype == F64
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "bad"), [(n, b) for n in ("precision", "prior_precision") for b in (0.0, -1.0, math.inf)]
)
def test_precisions_that_are_none_are_refused_by_name(name, bad):
    arguments = {"mean": torch.zeros(2), "precision": torch.ones(2), "prior_precision": torch.ones(2)}
    with pytest.raises(UsageError, match=f"^{name} must be positive and finite"):
        spike_delta_f(**arguments | {name: torch.tensor([1.0, bad])})
    with pytest.raises(UsageError, match="diverged"):
        spike_delta_f(tensor(1e200), tensor(1.0), tensor(1.0))


def test_a_posterior_wider_than_its_prior_is_never_rejected_and_gives_no_nan():
    mean, pi = tensor(0.0, 0.1, 3.0), tensor(0.5, 1e-3, 1e-300)
    found = spike_delta_f(mean, pi, torch.ones(3, dtype=F64))
    assert torch.isfinite(found).all()
    assert (found < 0).all()
    assert math.isfinite(threshold(found))


def test_thresholds_of_any_evidence_are_finite():
    for values in (tensor(1e5, -1e5, 800.0), tensor(-1e300), tensor(1e300), torch.full((1000,), 1e4, dtype=F64)):
        assert math.isfinite(threshold(values))
    changes = torch.linspace(-30, 30, 70_000, dtype=F64)  # more than one block
    zeta = torch.zeros((), dtype=F64)
    for _ in range(4):
        kept = torch.sigmoid(zeta - changes).sum()
        zeta = torch.digamma(1 + kept) - torch.digamma(70_001 - kept)
    assert threshold(changes) == pytest.approx(float(zeta), abs=1e-9)


def test_correlated_posteriors_are_judged_by_their_marginals(generator):
    """The marginal of a full Laplace posterior gives the exact Bayes factor of linear regression, weight by weight."""
    mean, covariance, _, _, _ = regression(0.95)
    delta = torch.rand(5, dtype=F64, generator=generator) + 0.5
    h = torch.linalg.inv(covariance)
    h = h - 0.9 * torch.linalg.eigvalsh(h)[0] * torch.eye(5, dtype=F64)
    posterior = Laplace.at({"w": mean}, Dense(h), delta)
    sigma = torch.linalg.inv(h + delta.diag())
    torch.testing.assert_close(posterior.marginal_precision["w"], 1 / sigma.diagonal())
    found = spike_delta_f(mean, posterior.marginal_precision["w"], posterior.prior["w"])
    for i in range(5):
        removed = torch.arange(5) == i
        exact = savage_dickey(mean, sigma, torch.zeros(5, dtype=F64), (1 / delta).diag(), removed)
        torch.testing.assert_close(found[i], exact)


@pytest.mark.parametrize("curvature", ["diag", "kfac"])
def test_variances_of_kronecker_factors_are_those_of_the_inverse(trained, curvature):
    network, train = trained
    posterior = State(network, weight_units(network), train, MAP(prior="layerwise", curvature=curvature)).posterior
    for name, marginal in posterior.marginal_precision.items():
        assert (marginal > 0).all()
        assert (marginal <= posterior.precision[name] * (1 + 1e-9)).all()  # conditional variances are smaller
        assert (marginal >= posterior.prior[name] * (1 - 1e-6)).all()
    assert build_pruner("bmr-laplace", curvature=curvature).decide is not None


def pruned_once(inference, seed=0):
    data = load("digits", subset=300)
    network = build("mlp", data.input_shape, data.outputs, seed=seed, widths=[20, 15])
    units = weight_units(network)
    inference.attach(network, units, data.train)
    torch.manual_seed(seed)
    fit(network, data.train, inference, Training(batch_size=50, lr=0.02), 25, torch.Generator().manual_seed(seed))
    return network, units, data.train


@pytest.mark.parametrize(
    "make", [lambda: MeanField(precision=30.0), lambda: StudentT(kl=1.0, warm_up=0.0)], ids=["gaussian", "student"]
)
def test_reduction_on_mean_field_prunes_continues_and_revives_nothing(make):
    inference = make()
    network, units, train = pruned_once(inference)
    removed = torch.zeros(units.n, dtype=torch.bool)
    for _ in range(3):
        decision = reduction(State(network, units, train, inference))
        assert torch.equal(decision.present, ~removed)
        assert (decision.rejected | ~removed).all()
        assert not decision.delta_f[removed].any()
        removed = decision.rejected
        assert 0 < int(removed.sum()) < units.n
        mask = Mask(units, ~removed)
        leave(network, inference, mask)
        fit(network, train, inference, Training(batch_size=50, lr=0.02), 3, torch.Generator().manual_seed(1), mask)
        assert not any(network.get_parameter(n)[~m].any() for n, m in mask.tensors.items())


def test_the_full_population_counts_what_has_left_as_indifferent():
    inference = MeanField(precision=30.0)
    network, units, train = pruned_once(inference)
    state = State(network, units, train, inference)
    first = reduction(state)
    assert reduction(state, population="full").zeta == first.zeta  # all are there: both are the same
    leave(network, inference, Mask(units, ~first.rejected))
    again = State(network, units, train, inference)
    live, full = reduction(again), reduction(again, population="full")
    for change, rejected, name in zip(
        units.split(first.delta_f), units.split(first.rejected), units.layer_names, strict=True
    ):
        assert live.zeta[name] == pytest.approx(threshold(change[~rejected]), rel=1e-9)
        assert full.zeta[name] == threshold(change.masked_fill(rejected, 0.0))


def test_priors_fitted_to_single_weights_are_refused_by_the_reason():
    for prior in ("parameterwise", "unitwise"):
        with pytest.raises(UsageError, match="never gains"):
            build_pruner("bmr-spam", prior=prior)
    with pytest.raises(UsageError, match="prior"):
        build_pruner("bmr", prior="parameterwise")


def test_the_fitted_prior_of_map_leaves_out_what_has_left(trained):
    network, train = trained
    units = weight_units(network)
    replica = build("mlp", train.x.shape[1:], 10, seed=0, widths=[20, 15])
    replica.load_state_dict(network.state_dict())
    inference, kept = MAP(prior="layerwise"), torch.ones(units.n, dtype=torch.bool)
    kept[:600] = False
    mask = Mask(units, kept)
    mask.apply_(replica)
    forgetful = inference.posterior(replica, train).prior["layers.0.weight"][0, 0]
    inference.reduce(replica, mask)
    posterior = inference.posterior(replica, train)
    live = mask.tensors["layers.0.weight"]
    assert not posterior.curvature["layers.0.weight"][~live].any()
    delta, h = posterior.prior["layers.0.weight"][0, 0], posterior.curvature["layers.0.weight"][live]
    # MacKay's fixed point over what is there; what has left would have had a share in it.
    fixed = (h / (h + delta)).sum() / posterior.mean["layers.0.weight"].square().sum()
    assert float(fixed) == pytest.approx(float(delta), rel=0.02)
    assert float(forgetful) != pytest.approx(float(delta), rel=0.02)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("bmr", {}),
        ("bmr", {"prior": "layerwise", "warm_up": [0, 1], "rounds": 2}),
        ("bmr", {"preset": "authors", "when": "during"}),
        ("bmr-laplace", {"curvature": "kfac"}),
        ("bmr-spam", {"frequency": 1, "prior": "scalar"}),
        ("mean-field", {"precision": "tuned", "prior": "scalar"}),
    ],
    ids=str,
)
def test_the_contract(method, options):
    for verdict in check_on(method, TINY[0], "weights", **options):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"
