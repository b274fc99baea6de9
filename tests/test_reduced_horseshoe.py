"""The hierarchical reduced prior: closed forms of single weights, spike limits, rows planted dead, and the options."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.bench.contract import TINY, check_on
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.model_reduction import delta_f, spike_delta_f
from bayesprune.methods.closed_forms.row_evidence import RowEvidence, Rows
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.mean_field import MeanField
from bayesprune.methods.pruner import State
from bayesprune.methods.reduction import hierarchical as reduced_horseshoe
from bayesprune.methods.reduction.hierarchical import fit_scales, hierarchical_reduction
from bayesprune.methods.variational.horseshoe_prior import horseshoe_prior
from bayesprune.methods.variational.scale_factors import Factor, Layer, Scale, by_factor
from bayesprune.methods.variational.student import StudentT

F64 = torch.float64


def random_rows(generator, rows=12, n=5):
    mean = torch.randn(rows, n, dtype=F64, generator=generator)
    variance = 0.05 + 0.9 * torch.rand(rows, n, dtype=F64, generator=generator)
    prior = 1 + torch.rand(rows, n, dtype=F64, generator=generator)
    return Rows(mean, variance, prior, torch.rand(rows, n, generator=generator) < 0.8)


def pseudo_observed(generator, rows=30):
    """Rows of one weight under a unit prior, whose likelihood is N(m; w, v)."""
    m = 2 * torch.randn(rows, 1, dtype=F64, generator=generator)
    v = torch.rand(rows, 1, dtype=F64, generator=generator) + 0.1
    variance, one = 1 / (1 / v + 1), torch.ones_like(m)
    return m.squeeze(1), v.squeeze(1), Rows(variance * m / v, variance, one, one > 0)


# ------------------------------------------------------------------ the evidence of rows


def test_the_table_is_the_sum_of_the_weights_changes(generator):
    rows = random_rows(generator)
    log_square = -24 + 32 * torch.rand(40, 12, dtype=F64, generator=generator)
    evidence = RowEvidence.of([rows])
    square = log_square.exp().unsqueeze(2)
    single = delta_f(rows.mean, rows.variance, 0.0, rows.prior_variance, 0.0, square * rows.prior_variance)
    expected = (single * rows.live).sum(2)
    torch.testing.assert_close(evidence(log_square), expected, rtol=1e-4, atol=2e-4)
    spike = (spike_delta_f(rows.mean, 1 / rows.variance, 1 / rows.prior_variance) * rows.live).sum(1)
    torch.testing.assert_close(evidence.spike, spike, rtol=1e-9, atol=1e-9)
    assert torch.equal(evidence(torch.full((1, 12), -90.0, dtype=F64))[0], evidence.spike)


def test_the_interpolation_is_smooth(generator):
    evidence = RowEvidence.of([random_rows(generator, 3)])
    log_square = (-6 + 8 * torch.rand(5, 3, dtype=F64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(evidence, (log_square,))


def test_the_expected_inverse_square_is_that_of_draws(generator):
    factors, scales = horseshoe_prior(Layer("w", {"w": torch.Size([4])}, 1.0, False), 0.1)
    total = sum(f.shape.numel() for f in factors.values())
    mean, deviation = torch.randn(2, total, dtype=F64, generator=generator) * 0.4
    noise = torch.randn(400_000, total, dtype=F64, generator=generator)
    drawn = torch.vmap(scales["w"].log)(by_factor(factors, mean + deviation * noise))
    told = scales["w"].inverse_square(by_factor(factors, mean), by_factor(factors, deviation.square()))
    torch.testing.assert_close((-2 * drawn).exp().mean(0), told, rtol=0.02, atol=0)


# ------------------------------------------------------------------ the fit


def flat_prior(rows):
    """One free factor for each row."""
    return {"s": Factor(torch.Size([rows]), 1.0, 1.0)}, {"w": Scale(1, 0.0, ("s",), ())}


def test_without_a_hyperprior_single_weights_get_the_closed_form(generator):
    """γ² = max(0, m² - v)."""
    m, v, rows = pseudo_observed(generator)
    found = 1 / fit_scales(RowEvidence.of([rows]), flat_prior(30), kl=0.0).inverse_square["w"]
    expected = (m.square() - v).clamp_min(0)
    assert (expected == 0).any()
    assert (expected > 0).any()
    torch.testing.assert_close(found[expected > 0], expected[expected > 0], rtol=5e-3, atol=5e-3)
    assert (found[expected == 0] < 0.1 * v[expected == 0]).all()


def test_the_bound_rises_and_stays_below_the_largest_evidence(generator):
    rows = random_rows(generator, 20, 8)
    evidence = RowEvidence.of([rows])
    prior = horseshoe_prior(Layer("w", {"w": torch.Size([20])}, 1.0, False), 1e-2)
    bound = torch.tensor(fit_scales(evidence, prior).bound, dtype=F64)
    means = bound.view(5, 100).mean(1)
    noise = bound.view(5, 100).std(1).max() / 10
    assert (means.diff() > -2 * noise).all()
    assert means[-1] > means[0] + 10
    places = torch.linspace(-30, 10, 2000, dtype=F64).unsqueeze(1).expand(-1, 20)
    assert means[-1] < evidence(places).amax(0).sum()


def test_the_hyperprior_shrinks_rows_without_signal_and_leaves_those_with_it(generator):
    mean = 1e-3 * torch.randn(20, 30, dtype=F64, generator=generator)
    mean[:5] = torch.randn(5, 30, dtype=F64, generator=generator)
    one = torch.ones_like(mean)
    evidence = RowEvidence.of([Rows(mean, 0.01 * one, one, one > 0)])
    prior = horseshoe_prior(Layer("w", {"w": torch.Size([20])}, 1.0, False), 1e-2)
    scale = fit_scales(evidence, prior).inverse_square["w"].rsqrt()
    rms = mean[:5].square().mean(1).sqrt()
    assert (scale[:5] / rms).log().abs().max() < 0.4
    assert scale[5:].max() < 0.05
    assert scale[5:].max() < scale[:5].min() / 10


# ------------------------------------------------------------------ on networks


def planted(units=weight_units, precision=1.0, dead=6, size=1.0):
    """A mean-field posterior whose first hidden rows are the prior, and whose others are sure."""
    inference = MeanField(precision=precision)
    torch.manual_seed(0)
    network = build("mlp", (20,), 3, seed=0, widths=[12])
    data = Split(torch.randn(4, 20), torch.arange(4) % 3)
    inference.attach(network, units(network), data)
    width = precision**-0.5
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(width * size * torch.randn(parameter.shape))
            rows = slice(dead) if name.startswith("layers.0") else slice(0)
            parameter[rows] = 1e-2 * width * torch.randn(parameter[rows].shape)
        inference.log_sigma.fill_(math.log(0.1 * width))
        for name, part in zip(inference.names, inference._parts(inference.log_sigma), strict=True):
            if name.startswith("layers.0"):
                part.view(12, -1)[:dead] = math.log(width)
    return State(network, units(network), data, inference)


@pytest.mark.parametrize("precision", [1.0, 1e4])
def test_rows_that_are_their_prior_leave_and_no_others(precision):
    state = planted(precision=precision)
    with torch.no_grad():
        found = hierarchical_reduction(state)
    expected = torch.zeros(12, 20, dtype=torch.bool)
    expected[:6] = True
    first, last = state.units.split(found.rejected)
    assert torch.equal(first.view(12, 20), expected)
    assert not last.any()
    assert found.scale["layers.0.weight"][:6].max() < found.scale["layers.0.weight"][6:].min()
    assert found.scale["layers.1.weight"].shape == (1,)
    assert torch.equal(build_pruner("bmr", reduced="horseshoe").decide(state), ~found.rejected)  # pyright: ignore
    summary = build_pruner("bmr", reduced="horseshoe").report(state)  # pyright: ignore
    assert summary["pruned"] == pytest.approx(120 / 276)
    assert summary["bound"] == found.bound
    assert set(summary["gone"].values()) == {0.0}


def test_groups_leave_by_the_rows_they_own():
    found = hierarchical_reduction(planted(group_units))
    assert found.rejected.tolist() == [True] * 6 + [False] * 6


def test_the_width_of_the_prior_is_the_unit_of_the_scales():
    scales = [hierarchical_reduction(planted(precision=p)).scale["layers.0.weight"] for p in (1.0, 100.0)]
    torch.testing.assert_close(*scales, rtol=1e-3, atol=0)


def test_what_has_left_takes_no_part_and_leaves():
    state = planted()
    whole = hierarchical_reduction(state)
    with torch.no_grad():
        state.network.get_parameter("layers.0.weight")[-1, :10] = 0
    found = hierarchical_reduction(State(state.network, state.units, state.train, state.inference))
    first = state.units.split(found.rejected)[0].view(12, 20)
    assert first[-1].tolist() == [True] * 10 + [False] * 10
    name = "layers.0.weight"
    assert float(found.excess[name][-1]) != pytest.approx(float(whole.excess[name][-1]), rel=0.1)
    torch.testing.assert_close(found.excess[name][6:-1], whole.excess[name][6:-1], rtol=0.05, atol=0.5)


def test_rows_below_the_published_scale_leave_whatever_the_evidence(monkeypatch):
    monkeypatch.setattr(reduced_horseshoe, "GONE", math.inf)
    state = planted()
    first, last = state.units.split(hierarchical_reduction(state).rejected)
    assert first.all()
    assert not last.any()


@pytest.mark.parametrize(
    "inference", [StudentT(), MAP(prior="layerwise"), MAP(curvature="kfac")], ids=["student", "diag", "kfac"]
)
@pytest.mark.parametrize("architecture", [TINY[1], TINY[6], TINY[7]], ids=lambda choice: choice.name)
def test_any_posterior_of_any_network_gives_a_finite_decision(architecture, inference):
    torch.manual_seed(0)
    network = build(architecture.name, (1, 8, 8), 10, seed=0, **architecture.options)
    data = Split(torch.randn(6, 1, 8, 8), torch.arange(6))
    inference.attach(network, weight_units(network), data)
    found = hierarchical_reduction(State(network, weight_units(network), data, inference))
    assert math.isfinite(found.bound)
    for scale in found.scale.values():
        assert torch.isfinite(scale).all()
        assert (scale > 0).all()


def test_options_of_spikes_are_refused():
    for option in ({"rule": "zero"}, {"population": "full"}):
        for method in ("bmr", "bmr-laplace"):
            with pytest.raises(UsageError, match="leave both out"):
                build_pruner(method, reduced="horseshoe", **option)
    with pytest.raises(UsageError, match="reduced"):
        build_pruner("bmr", reduced="cauchy")
    assert build_pruner("bmr", reduced="horseshoe", preset="authors").decide is not None


@pytest.mark.parametrize("method", ["bmr", "bmr-laplace"])
def test_the_contract(method):
    for verdict in check_on(method, TINY[0], "weights", reduced="horseshoe"):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"
