"""Scores against their oracles: explicit Hessians, brute force, closed forms."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.ranking import keep_count
from bayesprune.bench.pruning.select import select, shuffled_within_layers
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.build import options
from bayesprune.methods.lamp import lamp_scores
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.pruner import State
from bayesprune.methods.scores.scratch import balanced_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import flat, hessian_gradient, tiny_conv_net, weights_of
from torch import nn


def conv_state(batch_norm=False, n=8):
    network = tiny_conv_net(batch_norm)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    y = torch.arange(n) % 4
    return State(network, weight_units(network), Split(x, y), MAP())


def cross_entropy(y, temperature=1.0):
    return lambda outputs: nn.functional.cross_entropy(outputs / temperature, y)


# ------------------------------------------------------------------ GraSP


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("with_norm", [False, True])
def test_grasp_is_the_explicit_hessian_gradient_product(temperature, with_norm, batch_norm):
    state = conv_state(with_norm)
    x, y = state.train.x, state.train.y
    network = state.network.train(batch_norm == "train")
    _, hg = hessian_gradient(network, x, cross_entropy(y, temperature))
    pruner = build_pruner("grasp", temperature=temperature, batch_norm=batch_norm)
    expected = flat(weights_of(state.network).values()) * hg
    torch.testing.assert_close(pruner.score(state), expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())
    absolute = build_pruner("grasp", temperature=temperature, batch_norm=batch_norm, absolute=True)
    torch.testing.assert_close(
        absolute.score(state), expected.abs(), rtol=1e-9, atol=1e-12 * expected.abs().max().item()
    )


def test_grasp_keeps_the_weights_whose_removal_lowers_the_gradient_flow():
    """The first-order meaning: removing θ_q changes |g|² by about -2 θ_q (Hg)_q, so kept ones lower it most."""
    state = conv_state()
    loss = cross_entropy(state.train.y)
    step = 1e-4

    def flow(network):
        gradients = torch.autograd.grad(loss(network(state.train.x)), [p for p in network.parameters() if p.dim() > 1])
        return sum(g.square().sum() for g in gradients).item()

    score = build_pruner("grasp", temperature=1.0).score(state)
    base, weight, changes = flow(state.network), state.network[7].weight, []
    for i in range(weight.numel()):
        original = weight.data.view(-1)[i].item()
        weight.data.view(-1)[i] *= 1 - step
        changes.append((flow(state.network) - base) / step)
        weight.data.view(-1)[i] = original
    torch.testing.assert_close(
        -2 * score[-weight.numel() :], torch.tensor(changes, dtype=torch.float64), rtol=0.02, atol=1e-6
    )


def test_grasp_sums_to_minus_the_gradient_norm_behind_batch_norm():
    """A filter that BatchNorm follows is scale invariant, so Σ θ·(Hg) = -|g|² over its weights."""
    state = conv_state(batch_norm=True)
    state.network[1].eps = 1e-14  # the invariance holds up to eps
    x, y = state.train.x, state.train.y
    gradient, _ = hessian_gradient(state.network.train(), x, cross_entropy(y))
    score = build_pruner("grasp", temperature=1.0).score(state)
    filters = slice(0, 27)
    torch.testing.assert_close(
        score[filters].view(3, 9).sum(1), -gradient[filters].view(3, 9).square().sum(1), rtol=1e-9, atol=1e-15
    )


# ------------------------------------------------------------------ SNIP, SynFlow


def test_snip_is_the_derivative_with_respect_to_the_mask():
    state = conv_state()
    weights = weights_of(state.network)
    masks = {n: torch.ones_like(w, requires_grad=True) for n, w in weights.items()}
    rest = {n: p for n, p in state.network.named_parameters() if n not in weights}
    outputs = torch.func.functional_call(
        state.network, {n: w * masks[n] for n, w in weights.items()} | rest, state.train.x
    )
    cross_entropy(state.train.y)(outputs).backward()
    expected = flat(m.grad.abs() for m in masks.values())
    torch.testing.assert_close(build_pruner("snip").score(state), expected, rtol=1e-10, atol=1e-15)


def test_snip_sums_gradients_before_the_absolute_value():
    """One batch twice gives the scores of the batch; opposite examples cancel instead of adding up."""
    network = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    x, y = torch.tensor([[1.0], [1.0]], dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    y[0], y[1] = network.weight.item() + 1, network.weight.item() - 1  # residuals +1 and -1
    state = State(network, weight_units(network), Split(x, y), MAP())
    assert build_pruner("snip").score(state).item() == pytest.approx(0, abs=1e-12)


def bias_free(depth=3):
    torch.manual_seed(0)
    layers = [m for i in range(depth) for m in (nn.Linear(4, 4, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double()


def synflow_state(network, shape=(4,)):
    x = torch.randn(5, *shape, dtype=torch.float64)
    return State(network, weight_units(network), Split(x, torch.zeros(5, dtype=torch.long)), MAP())


def test_synflow_is_conserved_across_layers_and_has_its_closed_form():
    network = bias_free()
    state = synflow_state(network)
    score = build_pruner("synflow").score(state)
    a, b, c = (w.abs() for w in weights_of(network).values())
    ones = torch.ones(4, dtype=torch.float64)
    total = ones @ c @ b @ a @ ones
    for layer in state.units.split(score):
        assert layer.sum().item() == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(state.units.split(score)[1].view(4, 4), b * torch.outer(ones @ c, a @ ones))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4, eps=0.0)])
def test_synflow_sees_through_norms_at_initialisation(norm):
    """A norm measures nothing of an input of ones: flow passes its affine part, which is the identity at first."""
    plain = bias_free()
    normed = nn.Sequential(plain[0], norm.double(), *plain[1:]).train()
    found = build_pruner("synflow").score(synflow_state(normed))
    torch.testing.assert_close(found, build_pruner("synflow").score(synflow_state(plain)))
    assert not norm._forward_hooks


def test_synflow_survives_depth_and_keeps_signs():
    torch.manual_seed(0)
    deep = nn.Sequential(*[m for _ in range(150) for m in (nn.Linear(64, 64, bias=False), nn.ReLU())])
    before = {n: t.clone() for n, t in deep.state_dict().items()}
    scores = build_pruner("synflow").score(synflow_state(deep, (64,)))
    assert torch.isfinite(scores).all()
    assert scores.max() > torch.finfo(torch.float32).max  # float32 would have overflowed
    assert all(torch.equal(t, before[n]) for n, t in deep.state_dict().items())


def test_synflow_rounds_avoid_the_layer_collapse_of_one_shot_magnitude():
    network = build("mlp", (1, 8, 8), 10, seed=0, widths=[300, 100])
    units = weight_units(network)
    state = State(network, units, Split(torch.randn(2, 1, 8, 8), torch.tensor([0, 1])), MAP())
    pruner, kept = build_pruner("synflow"), None
    for i in range(pruner.rounds):
        mask = Mask(
            units, select(pruner.score(state), state, keep_count(units.n, 1 - 0.005 ** ((i + 1) / 100)), among=kept)
        )
        mask.apply_(network)
        kept = mask.kept
    assert mask.count == keep_count(units.n, 0.995)
    assert min(mask.layer_density().values()) > 0


# ------------------------------------------------------------------ magnitude, LAMP, random, OPD


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(float, st.integers(1, 12), elements=st.floats(-10, 10, allow_subnormal=False)))
def test_lamp_equals_brute_force(values):
    weight = torch.from_numpy(values)
    squares = weight.square()
    if len(set(squares.tolist())) < len(squares):  # brute force leaves the order of ties open
        return
    expected = [s / squares[squares >= s].sum() if s > 0 else torch.zeros(()) for s in squares]
    torch.testing.assert_close(lamp_scores(weight), torch.stack([e.double() for e in expected]))


def test_lamp_gives_the_largest_weight_of_a_layer_one_and_survives_wide_ranges():
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(100_000, dtype=torch.float64) * 1e-6, torch.tensor([3.0, -2.0])])
    scores = lamp_scores(weight)
    assert scores.max() == 1
    assert lamp_scores(torch.tensor([1e-160], dtype=torch.float64)) == 1  # its square is a subnormal number
    assert scores[-2] == 1
    assert torch.all(scores[weight.abs().argsort()].diff() >= 0)
    assert torch.equal(lamp_scores(torch.zeros(3)), torch.zeros(3, dtype=torch.float64))


def test_magnitude_sums_over_the_slices_of_a_group():
    network = build("mlp", (4,), 2, seed=0, widths=[3])
    first, second = (p.detach().double().abs() for p in network.parameters() if p.dim() == 2)
    state = State(network, group_units(network), Split(torch.randn(2, 4), torch.tensor([0, 1])), MAP())
    torch.testing.assert_close(build_pruner("magnitude").score(state), first.sum(1) + second.sum(0))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_shuffling_keeps_the_layer_counts_and_nothing_else(seed, sparsity):
    state = conv_state()
    kept = select(build_pruner("magnitude").score(state), state, keep_count(state.units.n, sparsity))
    shuffled = shuffled_within_layers(kept, state.units, torch.Generator().manual_seed(seed))
    assert Mask(state.units, shuffled).layer_density() == Mask(state.units, kept).layer_density()


def test_random_like_takes_over_everything_but_the_choice_inside_layers():
    control = build_pruner("random", like="synflow")
    assert (control.when, control.rounds, control.shuffle) == ("before", 100, True)
    assert not build_pruner("synflow").shuffle
    for schedule in ({"rounds": 2}, {"when": "during"}):
        with pytest.raises(UsageError, match="shuffled control is not possible"):
            build_pruner("random", like="magnitude", **schedule)
    with pytest.raises(UsageError, match=r"leave precision=3\.0 out"):
        build_pruner("random", like="snip", precision=3.0)


def test_opd_is_half_posterior_precision_times_square_for_a_linear_gaussian_model():
    """For y = Xθ + noise at the mode, removing θ_k raises the negative log joint by ½ (x_k'x_k + δ) θ_k² exactly
    if the columns of X are orthogonal (spec: OPD/2 is the exact increase)."""
    columns = torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    x = columns * torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    y, delta = torch.randn(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.7
    mode = torch.linalg.solve(x.T @ x + delta * torch.eye(3, dtype=torch.float64), x.T @ y)
    network = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    network.weight.data = mode.T.clone()
    state = State(network, weight_units(network), Split(x, y), MAP(delta))

    def negative_log_joint(theta):
        return 0.5 * (x @ theta - y).square().sum() + 0.5 * delta * theta.square().sum()

    increases = []
    for k in range(3):
        theta = mode.clone()
        theta[k] = 0
        increases.append(negative_log_joint(theta) - negative_log_joint(mode))
    torch.testing.assert_close(
        build_pruner("opd", precision=delta).score(state), torch.stack(increases), rtol=1e-10, atol=0
    )


def test_opd_is_invariant_under_rescaling_of_relu_layers_where_magnitude_is_not():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    split = Split(torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,)))
    state = State(network, weight_units(network), split, MAP(0.0))
    score = build_pruner("opd", precision=0.0).score(state)
    network[0].weight.data *= 4
    network[2].weight.data /= 4
    rescaled = State(network, weight_units(network), split, MAP(0.0))
    torch.testing.assert_close(build_pruner("opd", precision=0.0).score(rescaled), score, rtol=1e-10, atol=1e-15)


# ------------------------------------------------------------------ MAP


def test_map_penalty_is_the_negative_log_prior_and_its_shortcut_is_its_gradient():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inference, scale = MAP(2.5), 0.1
    expected = -sum(
        torch.distributions.Normal(0.0, 2.5**-0.5).log_prob(p).sum()
        - torch.distributions.Normal(0.0, 2.5**-0.5).log_prob(torch.zeros_like(p)).sum()
        for p in network.parameters()
    )
    assert inference.penalty(network).item() == pytest.approx(expected.item(), rel=1e-5)
    (scale * inference.penalty(network)).backward()
    by_autograd = [p.grad.clone() for p in network.parameters()]
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    inference.penalizer(network, scale)()
    for p, g in zip(network.parameters(), by_autograd, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("precision", [-1.0, math.nan, math.inf])
def test_map_refuses_an_impossible_precision(precision):
    with pytest.raises(UsageError, match="precision"):
        MAP(precision)


# ------------------------------------------------------------------ batches and options


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 40), st.integers(0, 99))
def test_balanced_batch_is_as_even_as_the_classes_allow(labels, size, seed):
    y = torch.tensor(labels)
    batch = balanced_batch(
        Split(torch.arange(len(y)).float().unsqueeze(1), y), size, torch.Generator().manual_seed(seed)
    )
    assert len(batch) == min(size, len(y))
    assert len(batch.x.unique()) == len(batch)
    taken, there = torch.bincount(batch.y, minlength=5), torch.bincount(y, minlength=5)
    exhausted = taken == there
    assert (taken[~exhausted].max() - taken[~exhausted].min() <= 1) if (~exhausted).any() else True
    if (~exhausted).any():
        assert all(count <= taken[~exhausted].min() + 1 for count in taken[exhausted])


def test_schedule_options_work_for_every_method_and_defaults_disappear():
    pruner = build_pruner("lamp", when="during", rounds=3, allocation="erk")
    assert (pruner.when, pruner.rounds, pruner.allocation) == ("during", 3, "erk")
    assert options("lamp", {"when": "after", "rounds": 1, "precision": 1.0}) == {}
    assert options("synflow", {"rounds": 100}) == {}
    assert options("synflow", {"rounds": 10}) == {"rounds": 10}


@pytest.mark.parametrize(
    ("name", "given_options", "message"),
    [
        ("magnitud", {}, "did you mean 'magnitude'"),
        ("grasp", {"temprature": 3}, "did you mean 'temperature'"),
        ("magnitude", {"when": "later"}, "choose before, during, online, dynamic, after"),
        ("magnitude", {"rounds": 0}, "whole number >= 1"),
        ("magnitude", {"precision": "big"}, "precision='big'"),
        ("magnitude", {"precision": -3}, "precision"),
        ("random", {"like": "nothing"}, "unknown method 'nothing'"),
    ],
)
def test_unknown_names_options_and_values_are_refused(name, given_options, message):
    with pytest.raises(UsageError, match=message):
        options(name, given_options)
