"""BMRS against quadrature, gradients, invariances, and its own theory."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build as build_network
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.running.modes import evaluating
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.contract import TINY, check_on
from bayesprune.bench.spec.run import Choice
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.bmrs import delta_f_lognormal, delta_f_loguniform
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.truncated_draws import draw
from bayesprune.methods.closed_forms.truncated_lognormal import kl_to_loguniform, log_mass, noise_mean, noise_snr
from bayesprune.methods.noise.multiplicative import MultiplicativeNoise
from bayesprune.methods.pruner import State
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import half_mask
from oracles import Windows
from scipy import stats
from torch import Tensor, nn

A, B = -20.0, 0.0
SPIKE = (-20.0, 1e-12)

# ---------------------------------------------------------------------- the oracle: quadrature on geometric panels

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(30)
_EDGES = np.concatenate([[0.0], np.geomspace(1e-14, 64, 56)])


def panels(centres, a=A, b=B):
    """Nodes x = centre + d in [a, b], finest near every centre: (centre, d, weights), each centre its own cell."""
    centres = sorted({min(max(c, a), b) for c in centres})
    borders = [a, *((lo + hi) / 2 for lo, hi in itertools.pairwise(centres)), b]
    parts = []
    for centre, lo, hi in zip(centres, borders, borders[1:], strict=False):
        for sign, reach in ((1, hi - centre), (-1, centre - lo)):
            edges = np.minimum(_EDGES, reach)
            half = np.diff(edges) / 2
            d = edges[:-1, None] + half[:, None] * (_NODES + 1)
            parts.append((np.full(d.size, centre), sign * d.ravel(), (half[:, None] * _WEIGHTS).ravel()))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def normal(grid, mean, variance):
    """log of exp(-(x - mean)² / 2 variance), from differences that keep their digits."""
    centre, d, _ = grid
    return -0.5 * ((centre - mean) + d) ** 2 / variance


def log_integral(grid, log_values):
    top = log_values.max()
    return top + math.log(np.sum(grid[2] * np.exp(log_values - top)))


class Quadrature:
    """All quantities of one truncated log-normal, by integration."""

    def __init__(self, mu, log_sigma, a=A, b=B):
        self.mu, self.variance, self.a, self.b = mu, math.exp(2 * log_sigma), a, b

    def log_ratio(self, centres, factor):
        """log E_q[exp(factor)], both integrals on one grid."""
        grid = panels([self.mu, self.a, self.b, *centres], self.a, self.b)
        q = normal(grid, self.mu, self.variance)
        return log_integral(grid, q + factor(grid)) - log_integral(grid, q)

    def kl(self):
        grid = panels([self.mu, self.a, self.b], self.a, self.b)
        q = normal(grid, self.mu, self.variance)
        log_q = q - log_integral(grid, q)
        return float(np.sum(grid[2] * np.exp(log_q) * log_q)) + math.log(self.b - self.a)

    def log_mean(self):
        return self.log_ratio([self.mu + self.variance], lambda grid: grid[0] + grid[1])

    def snr(self):
        """From moments of θ/θ₀ - 1, θ₀ at the mode."""
        grid = panels([self.mu, self.a, self.b, self.mu + self.variance, self.mu + 2 * self.variance], self.a, self.b)
        q = normal(grid, self.mu, self.variance)
        p = grid[2] * np.exp(q - log_integral(grid, q))
        u = np.expm1(grid[0] - min(max(self.mu, self.a), self.b) + grid[1])
        mean = np.sum(p * u)
        return (1 + mean) / math.sqrt(np.sum(p * (u - mean) ** 2))

    def delta_f_lognormal(self, mean, variance):
        mode = (self.mu * variance + mean * self.variance) / (variance + self.variance)
        grid = panels([mean, self.a, self.b], self.a, self.b)
        normaliser = log_integral(grid, normal(grid, mean, variance))
        ratio = self.log_ratio([mean, mode], lambda grid: normal(grid, mean, variance))
        return ratio - normaliser + math.log(self.b - self.a)

    def delta_f_loguniform(self, p1, p2):
        low, high = -p2 * math.log(2), -p1 * math.log(2)
        grid = panels([self.mu, low, high], low, high)
        whole = panels([self.mu, self.a, self.b], self.a, self.b)
        parts = [log_integral(g, normal(g, self.mu, self.variance)) for g in (grid, whole)]
        return parts[0] - parts[1] + math.log((self.b - self.a) / (high - low))


MUS = [-24, -22, -20, -18, -15, -12, -10, -8, -5, -2, -1, -0.1, 0, 0.05, 1, 2]
GRID = [(float(mu), log_s) for mu in MUS for log_s in np.linspace(-5, 5, 13)]
Q = [Quadrature(*point) for point in GRID]
MU, LOG_S = torch.tensor(GRID, dtype=torch.float64).unbind(1)


def assert_close(found: Tensor, expected, tolerance=1e-8):
    expected = torch.tensor(expected, dtype=torch.float64)
    error = (found - expected).abs() / expected.abs().clamp_min(1)
    worst = int(error.argmax())
    assert error[worst] < tolerance, (GRID[worst], found[worst].item(), expected[worst].item())


def test_the_divergence_is_the_integral():
    assert_close(kl_to_loguniform(MU, LOG_S), [q.kl() for q in Q])


def test_the_mean_is_the_integral():
    assert_close(noise_mean(MU, LOG_S).log(), [q.log_mean() for q in Q])


def test_the_signal_to_noise_ratio_is_the_integral():
    expected = torch.tensor([q.snr() for q in Q])
    relative = noise_snr(MU, LOG_S) / expected
    assert_close(relative, [1.0] * len(relative))


@pytest.mark.parametrize(
    "reduced", [SPIKE, (-20, 1e-4), (-20, 1), (-15, 4), (-10, 1e-2), (-10, 100), (-3, 0.25), (-20, 1e6)]
)
def test_delta_f_of_a_lognormal_is_the_integral(reduced):
    mean, variance = reduced
    found = delta_f_lognormal(MU, LOG_S, reduced_mean=mean, reduced_variance=variance)
    assert_close(found, [q.delta_f_lognormal(mean, variance) for q in Q])


@pytest.mark.parametrize("exponents", [(8, 23), (4, 23), (1, 23), (16, 23), (2, 11)])
def test_delta_f_of_a_loguniform_is_the_integral(exponents):
    found = delta_f_loguniform(MU, LOG_S, p1=exponents[0], p2=exponents[1])
    assert_close(found, [q.delta_f_loguniform(*exponents) for q in Q])


def test_the_published_values():
    start = torch.tensor([0.0]), torch.tensor([-5.0])
    collapsed = torch.tensor([-10.0]), torch.tensor([20.0])
    assert kl_to_loguniform(*start).item() == pytest.approx(7.26994, abs=1e-5)
    assert noise_mean(*start).item() == pytest.approx(0.994647, abs=1e-6)
    assert noise_snr(*start).item() == pytest.approx(246.70, abs=1e-2)
    assert kl_to_loguniform(*collapsed).item() == pytest.approx(0, abs=1e-3)
    assert noise_mean(*collapsed).item() == pytest.approx(0.0500, abs=1e-4)
    assert noise_snr(*collapsed).item() == pytest.approx(0.3334, abs=1e-3)


# ---------------------------------------------------------------------- gradients

TAILS = [(0.0, -5.0), (0.05, -5.0), (1.0, -3.0), (2.0, -1.0), (-1.0, 1.0), (-9.0, 3.0), (-19.0, 0.0), (-24.0, -2.0)]


@pytest.mark.parametrize(
    "function",
    [
        kl_to_loguniform,
        lambda mu, log_s: noise_mean(mu, log_s).log(),
        noise_snr,
        lambda mu, log_s: delta_f_lognormal(mu, log_s) / 1e4,
        lambda mu, log_s: delta_f_lognormal(mu, log_s, reduced_mean=-10, reduced_variance=1e-2) / 1e4,
        lambda mu, log_s: delta_f_loguniform(mu, log_s) / 1e4,
        lambda mu, log_s: draw(
            mu, log_s, torch.tensor([[0.01], [0.5], [0.97]], dtype=torch.float64).expand(3, len(mu))
        ),
    ],
    ids=["kl", "log mean", "snr", "lognormal", "lognormal mid", "loguniform", "draw"],
)
def test_gradients(function):
    at = torch.tensor(TAILS, dtype=torch.float64).unbind(1)
    assert torch.autograd.gradcheck(function, [value.clone().requires_grad_() for value in at], rtol=1e-4)


def test_gradients_far_outside_of_the_bounds_are_finite():
    """Where Φ and φ have long underflowed, and where a float32 layer would return nan."""
    mu = torch.tensor([5.0, -40.0, 0.5, -1.0, 0.0], requires_grad=True)
    log_s = torch.tensor([-5.0, -5.0, -20.0, -20.0, 30.0], requires_grad=True)
    uniform = torch.tensor([[0.0], [1e-12], [0.5], [1 - 1e-12]], dtype=torch.float64).expand(4, 5)
    for value in (kl_to_loguniform(mu, log_s), noise_mean(mu, log_s), noise_snr(mu, log_s), draw(mu, log_s, uniform)):
        assert value.isfinite().all()
        for gradient in torch.autograd.grad(value.sum(), (mu, log_s)):
            assert gradient.isfinite().all()


# ---------------------------------------------------------------------- invariances

locations = st.floats(-30, 5)
log_scales = st.floats(-5, 5)
shifts = st.floats(-50, 50)
quick = settings(max_examples=60, deadline=None)


def pair(mu, log_s):
    return torch.tensor([mu], dtype=torch.float64), torch.tensor([log_s], dtype=torch.float64)


def agrees(one: Tensor, two: Tensor, tolerance=1e-7):
    assert one.item() == pytest.approx(two.item(), rel=tolerance, abs=tolerance)


@quick
@given(locations, log_scales, shifts)
def test_translation(mu, log_s, shift):
    """Bounds, posterior and reduced prior shifted together: evidence, divergence and SNR stay, the mean is scaled."""
    here, there = pair(mu, log_s), pair(mu + shift, log_s)
    bounds = {"a": A + shift, "b": B + shift}
    agrees(kl_to_loguniform(*here), kl_to_loguniform(*there, **bounds), 1e-5)
    agrees(noise_mean(*here).log() + shift, noise_mean(*there, **bounds).log(), 1e-6)
    agrees(noise_snr(*here), noise_snr(*there, **bounds), 1e-6)
    moved = delta_f_lognormal(*there, **bounds, reduced_mean=-15 + shift, reduced_variance=0.1)
    agrees(delta_f_lognormal(*here, reduced_mean=-15, reduced_variance=0.1), moved, 1e-6)


@quick
@given(locations, log_scales)
def test_reflection_leaves_the_divergence(mu, log_s):
    agrees(kl_to_loguniform(*pair(mu, log_s)), kl_to_loguniform(*pair(-mu, log_s), a=-B, b=-A))


@quick
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_mass_is_symmetric_and_additive(one, two):
    low, high = (torch.tensor([bound], dtype=torch.float64) for bound in (min(one, two), max(one, two) + 0.1))
    middle = (low + high) / 2
    agrees(log_mass(low, high), log_mass(-high, -low), 1e-12)
    agrees(log_mass(low, high), torch.logaddexp(log_mass(low, middle), log_mass(middle, high)), 1e-10)


@quick
@given(locations, st.floats(-7, 30))
def test_divergence_and_mean_keep_their_ranges(mu, log_s):
    assert kl_to_loguniform(*pair(mu, log_s)).item() >= -1e-9
    assert A - 1e-9 <= noise_mean(*pair(mu, log_s)).log().item() <= B + 1e-9
    assert noise_snr(*pair(mu, log_s)).item() > 0


@quick
@given(locations, log_scales)
def test_no_reduction_no_difference(mu, log_s):
    agrees(delta_f_lognormal(*pair(mu, log_s), reduced_variance=1e14), torch.zeros(1), 1e-6)
    whole = {"p1": -B / math.log(2), "p2": -A / math.log(2) * (1 - 1e-15)}
    agrees(delta_f_loguniform(*pair(mu, log_s), **whole), torch.zeros(1), 1e-6)


@quick
@given(locations, log_scales)
def test_a_loguniform_reduction_gains_no_more_than_its_width(mu, log_s):
    for p1, most in ((8, 0.654), (4, 0.418)):
        assert delta_f_loguniform(*pair(mu, log_s), p1=p1).item() <= most + 1e-3


@pytest.mark.parametrize(("p1", "p2"), [(23, 8), (8, 8), (8, 40), (-1, 23)])
def test_an_impossible_reduced_prior_is_refused(p1, p2):
    with pytest.raises(UsageError, match="p1 < p2"):
        delta_f_loguniform(MU, LOG_S, p1=p1, p2=p2)


# ---------------------------------------------------------------------- draws


@pytest.mark.parametrize("point", [(0.0, -5.0), (0.3, -5.0), (-3.0, 0.0), (-10.0, 3.0), (-26.0, -1.0)])
def test_draws_follow_the_distribution(point):
    mu, log_s = pair(*point)
    uniform = torch.rand(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theta = draw(mu, log_s, uniform)
    assert (theta.log() >= A).all()
    assert (theta <= 1).all()
    s = math.exp(point[1])
    below = log_mass((A - mu) / s, (theta.log() - mu) / s) - log_mass((A - mu) / s, (B - mu) / s)
    assert stats.kstest(below.exp().flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("point", [(0.0, -5.0), (-1.0, 0.5), (-10.0, 3.0)])
def test_draws_have_the_gradient_of_the_mean(point):
    """Pathwise derivatives of a stratified average against the closed form."""
    at = [value.requires_grad_() for value in pair(*point)]
    strata = (torch.arange(20000, dtype=torch.float64) + 0.5).div(20000).unsqueeze(1)
    sampled = torch.autograd.grad(draw(*at, strata).mean(), at)
    exact = torch.autograd.grad(noise_mean(*at).sum(), at)
    for one, two in zip(sampled, exact, strict=True):
        assert one.item() == pytest.approx(two.item(), rel=1e-2, abs=1e-6)


def test_draws_in_single_precision():
    """Far outside, inside, and where a float32 probability would underflow: as precise as float32 is."""
    mu, log_s = torch.tensor(TAILS, dtype=torch.float64).unbind(1)
    uniform = torch.rand(50, len(mu), generator=torch.Generator().manual_seed(0)).clamp(0.01, 0.99)
    torch.testing.assert_close(draw(mu, log_s, uniform).double(), draw(mu, log_s, uniform.double()), rtol=1e-3, atol=0)


# ---------------------------------------------------------------------- theory: the spike at the lower bound

THRESHOLD = -0.5 * math.log(2 * math.pi)


@quick
@given(st.floats(-9.99, 5), log_scales)
def test_a_spike_at_the_lower_bound_never_wins_right_of_the_middle(mu, log_s):
    """The density at a is the least of a unimodal density whose mode is nearer to b: ΔF = log q(a) / p(a) < 0."""
    assert delta_f_lognormal(*pair(mu, log_s)).item() < 0


@quick
@given(st.floats(-19.5, 0), st.floats(-1, 5))
def test_a_spike_is_the_density_ratio(mu, log_s):
    """Savage-Dickey: ΔF -> log q(a) / p(a)."""
    mu, log_s = pair(mu, log_s)
    s = log_s.exp()
    log_z = log_mass((A - mu) / s, (B - mu) / s)
    density = -0.5 * ((A - mu) / s).square() - log_s - 0.5 * math.log(2 * math.pi) - log_z
    agrees(delta_f_lognormal(mu, log_s), density + math.log(B - A), 1e-4)


def test_units_that_the_data_ignore_are_pruned_by_all_rules_but_the_exact_one():
    """Down the divergence alone, from the default start: the exact ΔF rises to zero and never reaches it."""
    mu, log_s = (value.requires_grad_() for value in pair(0.0, -5.0))
    optimizer = torch.optim.Adam([mu, log_s], 0.05)
    exact = []
    for _ in range(400):
        optimizer.zero_grad()
        kl_to_loguniform(mu, log_s).sum().backward()
        optimizer.step()
        exact.append(delta_f_lognormal(mu, log_s).item())
    assert max(exact) < 0
    assert exact[0] < THRESHOLD < exact[-1]
    assert delta_f_lognormal(mu, log_s, reduced_mean=-10, reduced_variance=1e-2).item() >= 0
    assert delta_f_loguniform(mu, log_s, p1=4).item() >= 0
    assert noise_snr(mu, log_s).item() < 1


def test_decisions_fall_where_the_note_says():
    """The smallest s at which a unit of a given μ leaves."""
    s = torch.logspace(-1, 2, 3001, dtype=torch.float64)

    def smallest(mu: float, leaves) -> float:
        return s[leaves(torch.full_like(s, mu), s.log())][0].item()

    for mu, shifted, u8, u4, snr in ((0, 12.5, 16.2, 6.5, 2.6), (-1, 12.0, 13.4, 5.8, 2.1), (-2, 11.5, 10.9, 4.8, 1.2)):
        assert smallest(mu, lambda *q: delta_f_lognormal(*q) >= THRESHOLD) == pytest.approx(shifted, abs=0.1)
        assert smallest(mu, lambda *q: delta_f_loguniform(*q) >= 0) == pytest.approx(u8, abs=0.1)
        assert smallest(mu, lambda *q: delta_f_loguniform(*q, p1=4) >= 0) == pytest.approx(u4, abs=0.1)
        assert smallest(mu, lambda *q: noise_snr(*q) <= 1) == pytest.approx(snr, abs=0.1)


# ---------------------------------------------------------------------- noise on a network

FAMILIES = [Choice(name="mlp", options={"widths": [16, 12], "activation": "tanh"}), *TINY[1:-1]]  # no recurrent one
family = pytest.mark.parametrize("choice", FAMILIES, ids=lambda choice: choice.label)
METHODS = ["bmrs-n", "bmrs-n-exact", "bmrs-n-mid", "bmrs-u", "snr", "noise-mean"]


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=120)


def noisy(choice: Choice, data, grown: float = 1.0, **options):
    """A network with random noise on its structures."""
    network = build_network(choice.name, data.input_shape, data.outputs, seed=0, **choice.options)
    inference = MultiplicativeNoise(**options)
    inference.attach(network, weight_units(network), data.train)
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(inference.steps.shape, generator=generator, dtype=torch.float64) * grown
    inference.load_tensors({"steps": steps + torch.tensor([[0.0], [4.0 * grown]])})
    return network, inference


@family
def test_the_mean_folds_into_the_weights(choice, data):
    """In evaluation mode the attached network computes what the plain one computes after it; then no hook is left."""
    network, inference = noisy(choice, data)
    with evaluating(network), torch.no_grad():
        attached = network(data.train.x)
        plain = copy.deepcopy(network)
        inference.detach(network)
        torch.testing.assert_close(network(data.train.x), attached, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain(data.train.x), attached)  # a copy carries the noise on
    assert not [m for m in network.modules() if m._forward_pre_hooks or m._forward_hooks]


@family
def test_masked_and_compact_networks_agree(choice, data):
    network, inference = noisy(choice, data)
    mask = half_mask(network)
    inference.reduce(network, mask)
    mask.apply_(network)
    with evaluating(network), torch.no_grad():
        masked = network(data.train.x)
    inference.detach(network)
    certify(network, compact(network, mask, data.train.x), data.train.x, 1e-5)
    with evaluating(network), torch.no_grad():
        torch.testing.assert_close(network(data.train.x), masked, rtol=1e-4, atol=1e-5)


def read_noise(network, inference, x) -> dict[str, Tensor]:
    """The noise that every reader's input was multiplied by, channels last."""
    found: dict[str, Tensor] = {}
    for carrier in inference.noise.carriers:
        module = network.get_submodule(carrier.layer)
        before: list[Tensor] = []
        module.register_forward_pre_hook(lambda _, given, before=before: before.append(given[0]), prepend=True)

        def after(_, given, carrier=carrier, before=before):
            found[carrier.layer] = carrier.last(given[0] / before[-1]).detach()

        module.register_forward_pre_hook(after)
    torch.manual_seed(0)
    network.train()(x)
    return found


def spread(noise: Tensor, axes) -> float:
    """Largest standard deviation over some axes; what was multiplied was zero where the noise is nan."""
    noise = noise.movedim(axes, tuple(range(len(axes)))).flatten(0, len(axes) - 1)
    seen = noise.isfinite().sum(0) > 1
    centred = (noise - noise.nanmean(0))[:, seen]
    return centred.nan_to_num(0).abs().max().item()


@pytest.mark.parametrize("draws", ["example", "minibatch", "element"])
def test_what_has_noise_of_its_own(draws, data):
    network, inference = noisy(FAMILIES[1], data, draws=draws)
    noise = read_noise(network, inference, data.train.x[:16])["conv2"]
    assert noise.shape[-1] == 6
    assert (spread(noise, (1, 2)) < 1e-4) == (draws != "element")
    assert (spread(noise, (0,)) < 1e-4) == (draws == "minibatch")
    assert spread(noise, (3,)) > 0.1


def test_all_that_read_a_structure_share_its_noise(data):
    """A residual stream is read by several convolutions: it has one noise, not one in every place."""
    network, inference = noisy(FAMILIES[2], data)
    noise = read_noise(network, inference, data.train.x[:8])
    per_channel = [noise[name].nanmean((1, 2)) for name in ("stages.1.0.conv1", "stages.1.0.project")]
    torch.testing.assert_close(*per_channel, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_filters_own_the_columns_that_flattening_makes_of_them(data):
    network, inference = noisy(FAMILIES[1], data)
    noise = read_noise(network, inference, data.train.x[:8])["fc1"].view(8, 16, -1)
    assert spread(noise, (2,)) < 1e-4
    assert spread(noise, (1,)) > 0.1


def test_the_weight_of_the_divergence(data):
    """In nats for the whole training set, of which the loop takes 1 / N."""
    penalties = {kl: noisy(FAMILIES[0], data, kl=kl) for kl in ("elbo", "paper_mean", 2.5)}
    network, inference = penalties["elbo"]
    kl = kl_to_loguniform(inference.mu, inference.log_sigma)
    first, second = kl.split([16, 12])
    expected = {
        "elbo": kl.sum(),
        "paper_mean": len(data.train) * (first.mean() + second.mean()) / 2,
        2.5: 2.5 * kl.sum(),
    }
    for weight, (network, inference) in penalties.items():
        torch.testing.assert_close(inference.penalty(network), expected[weight])


@pytest.mark.parametrize("kl", ["elbo", "paper_mean", "mean_of_present", 2.5])
@pytest.mark.parametrize("granularity", ["groups", "weights"])
def test_structures_that_have_left_are_not_penalised(granularity, kl, data):
    """A structure has left when none of its weights stays, whatever was pruned."""
    network, inference = noisy(FAMILIES[0], data, kl=kl)
    mask = half_mask(network)
    left = ~mask.kept
    if granularity == "weights":
        weights = weight_units(network)
        mask = Mask(weights, torch.cat([mask.tensors[name].flatten() for name in weights.layer_names]))
    inference.reduce(network, mask)
    inference.penalizer(network, 1.0)()
    gradient = inference.steps.grad
    assert gradient is not None
    assert torch.equal((gradient == 0).all(0), left)


def test_what_the_mean_is_taken_over_when_structures_have_left(data):
    """As published, all that there were; or those that are there, which are then pressed harder."""
    for kl, over in (("paper_mean", lambda layer: len(layer)), ("mean_of_present", lambda layer: int(layer.sum()))):
        network, inference = noisy(FAMILIES[0], data, kl=kl)
        mask = half_mask(network)
        inference.reduce(network, mask)
        for weights, kept in zip(*(inference.units.split(v) for v in (inference.weights, mask.kept)), strict=True):
            expected = kept.double() * len(data.train) / (2 * over(kept))
            torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("kl", ["paper_mean", 3.0])
def test_the_gradient_of_the_divergence_in_closed_form(kl, data):
    network, inference = noisy(FAMILIES[0], data, kl=kl, lr_factor=2.0, grown=1.5)
    inference.load_tensors({"steps": inference.steps.detach() * 2})  # and some log s beyond the clamp
    assert inference.log_sigma.max() > 5
    (0.1 * inference.penalty(network)).backward()
    expected = inference.steps.grad
    assert expected is not None
    inference.steps.grad = torch.ones_like(expected)
    inference.penalizer(network, 0.1)()
    torch.testing.assert_close(inference.steps.grad, expected + 1)


def test_the_noise_can_learn_faster_than_the_weights(data):
    network, inference = noisy(FAMILIES[0], data, grown=0.0, lr_factor=10.0)
    (parameter,) = inference.parameters()
    optimizer = torch.optim.Adam([parameter], 1e-3)
    inference.penalizer(network, 1.0)()
    optimizer.step()
    torch.testing.assert_close(inference.log_sigma, torch.full_like(inference.log_sigma, -5 + 1e-2))


def test_what_was_learned_comes_back(data):
    network, inference = noisy(FAMILIES[0], data)
    other, fresh = noisy(FAMILIES[0], data, grown=0.0)
    fresh.load_tensors(inference.tensors())
    with evaluating(network, other), torch.no_grad():
        assert torch.equal(network(data.train.x), other(data.train.x))


def test_nothing_stale_is_left_after_loading(data):
    """A network that has been evaluated computes with the noise that is loaded then."""
    network, inference = noisy(FAMILIES[0], data)
    before = {name: tensor.clone() for name, tensor in inference.tensors().items()}
    with evaluating(network), torch.no_grad():
        first = network(data.train.x)
        inference.load_tensors({"steps": inference.steps.detach() + 1})
        assert not torch.allclose(network(data.train.x), first)
        inference.load_tensors(before)
        assert torch.equal(network(data.train.x), first)


def test_hyperparameters_that_cannot_be_are_refused(data):
    for options in ({"kl": -1.0}, {"lr_factor": 0.0}, {"a": 0.0}):
        with pytest.raises(UsageError, match=next(iter(options))):
            MultiplicativeNoise(**options)
    with pytest.raises(UsageError, match="p1 < p2"):
        build_pruner("bmrs-u", p1=24)
    with pytest.raises(UsageError, match="kl='evidence'"):
        build_pruner("bmrs-n", kl="evidence")


def test_maps_of_one_pixel_in_half_precision(data):
    """Shapes are those of the activations, whatever axes have length one; the noise itself stays in float64."""
    layers = [nn.Conv2d(1, 2, 8), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 10)]
    network, inference = nn.Sequential(*layers), MultiplicativeNoise()
    inference.attach(network, weight_units(network), data.train)
    network.bfloat16()
    noise = read_noise(network, inference, data.train.x[:5].bfloat16())
    assert {name: tuple(n.shape) for name, n in noise.items()} == {"2": (5, 1, 1, 2), "5": (5, 2)}
    assert inference.mean().dtype == torch.float64


def test_a_network_without_structures_is_refused(data):
    with pytest.raises(UsageError, match="noise needs structures"):
        MultiplicativeNoise().attach(nn.Linear(64, 10), weight_units(nn.Linear(64, 10)), data.train)


def test_examples_without_a_place_of_their_own_are_refused(data):
    network, inference = Windows(), MultiplicativeNoise()
    inference.attach(network, weight_units(network), data.train)
    with pytest.raises(UsageError, match="choose draws: minibatch"):
        network(data.train.x[:4])
    inference.draws = "minibatch"
    assert network(data.train.x[:4]).shape == (4, 10)


# ---------------------------------------------------------------------- methods


def scored(method: str, inference, network, units, data, **options):
    pruner = build_pruner(method, **options)
    return pruner.score(State(network, units, data.train, inference)), pruner.keep_above


def test_thresholds_are_those_of_the_rules(data):
    network, inference = noisy(FAMILIES[0], data, grown=1.8)
    q, units = (inference.mu.detach(), inference.log_sigma.detach()), group_units(network)
    removed = {
        "bmrs-n": delta_f_lognormal(*q) >= THRESHOLD,
        "bmrs-n-exact": delta_f_lognormal(*q) >= 0,
        "bmrs-n-mid": delta_f_lognormal(*q, reduced_mean=-10, reduced_variance=1e-2) >= 0,
        "bmrs-u": delta_f_loguniform(*q) >= 0,
        "snr": noise_snr(*q) <= 1,
        "noise-mean": noise_mean(*q) <= 0.1,
    }
    for method, expected in removed.items():
        scores, threshold = scored(method, inference, network, units, data)
        assert torch.equal(scores <= threshold, expected), method
    assert removed["snr"].any()
    assert not removed["snr"].all()


@family
def test_single_weights_leave_with_their_structures(choice, data):
    """By the methods' own threshold, on single weights: those of structures that leave, and no others."""
    network, inference = noisy(choice, data, grown=1.5)
    structures = group_units(network)
    weights = weight_units(network)
    by_structure, threshold = scored("snr", inference, network, structures, data)
    scores, _ = scored("snr", inference, network, weights, data)
    masks = structures.scatter(by_structure > threshold)
    tensors = {name: p for name, p in network.named_parameters() if name in weights.shapes}
    expected = [masks.get(n, torch.ones_like(p, dtype=torch.bool)) & (p.detach() != 0) for n, p in tensors.items()]
    assert torch.equal(scores > threshold, torch.cat([e.flatten() for e in expected]))


def test_weights_of_structures_that_have_left_still_have_scores(data):
    network, inference = noisy(FAMILIES[0], data)
    half_mask(network).apply_(network)
    scores, _ = scored("bmrs-n", inference, network, weight_units(network), data)
    assert scores.isfinite().all()


def everything(network) -> Mask:
    units = group_units(network)
    return Mask(units, torch.ones(units.n, dtype=torch.bool))


@pytest.mark.parametrize(
    ("grown", "mask", "said"), [
        (0.0, everything, "rose by 0.00, to -5.00 at most, structures leave from about 2.5 on"),
        (1.0, everything, "structures leave from about 2.5 on"),
        (0.5, half_mask, "structures leave from about 0.0 on"),
        (1.8, everything, ""),
        (1.0, half_mask, ""),
        (0.0, None, ""),
    ],
)  # fmt: skip
def test_noise_that_has_not_grown_is_pointed_out(grown, mask, said, data, caplog):
    """Once, at the end, and only where something was to leave: with the way that log s came and what it takes."""
    network, inference = noisy(FAMILIES[0], data, grown=grown)
    if mask is not None:
        inference.reduce(network, mask(network))
    inference.detach(network)
    assert bool(caplog.text) == bool(said)
    assert said in caplog.text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("granularity", ["groups", "weights"])
def test_the_contract(method, granularity):
    for verdict in check_on(method, TINY[0], granularity, lr_factor=20.0):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"


@pytest.mark.parametrize("schedule", [{"when": "during"}, {"rounds": 2}])
def test_other_schedules(schedule):
    for verdict in check_on("bmrs-n", TINY[0], "groups", **schedule):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"


@pytest.fixture(scope="module")
def trained():
    """Trained from the default start, until most structures carry more noise than signal."""
    data = load("digits", 0)
    network = build_network("mlp", data.input_shape, data.outputs, seed=0, widths=(50, 50), activation="tanh")
    inference = MultiplicativeNoise(lr_factor=10.0)
    torch.manual_seed(0)
    inference.attach(network, weight_units(network), data.train)
    training = Training(batch_size=32, lr=5e-3)
    train(network, data.train, inference, training, 12, torch.Generator().manual_seed(0))
    units = group_units(network)
    return lambda name, **options: scored(name, inference, network, units, data, **options)[0]


def test_trained_from_the_default_start_the_exact_rule_removes_nothing(trained):
    """And the two repairs of it, the published shift and a spike in the middle, remove nearly the same structures."""
    shifted, middle, exact = (trained(name) <= 0 for name in ("bmrs-n", "bmrs-n-mid", "bmrs-n-exact"))
    assert exact.sum() == 0
    assert 0.5 < shifted.double().mean() < 0.95
    assert (shifted ^ middle).double().mean() <= 0.03


def test_rankings_by_evidence_and_by_noise(trained):
    """ΔF of a spike ranks as the signal-to-noise ratio does; that of an interval rises and falls as the noise grows."""
    snr = trained("snr")

    def correlation(name, **options) -> float:
        return float(stats.spearmanr(snr, trained(name, **options)).statistic)

    assert correlation("bmrs-n") > 0.95
    assert correlation("noise-mean") > 0.95
    assert correlation("bmrs-u") < 0.65
    assert correlation("bmrs-u", p1=4) < 0.65


def test_wider_intervals_remove_more(trained):
    removed = [int((trained("bmrs-u", p1=p1) <= 0).sum()) for p1 in (16, 12, 8, 6, 4, 2)]
    assert removed == sorted(removed)
    assert removed[0] < removed[-1]
