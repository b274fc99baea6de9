"""Selection: exact counts, stable ties, allocations."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.bench.pruning.allocation import apportion
from bayesprune.bench.pruning.mask_for import mask_for
from bayesprune.bench.pruning.ranking import ScoreError, keep_count
from bayesprune.bench.pruning.select import decided, select
from bayesprune.bench.spec.budget import Budget
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.lamp import lamp_scores
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.magnitude import magnitude
from bayesprune.methods.pruner import Pruner, State
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn


def state_of(network, granularity=weight_units):
    return State(network, granularity(network), Split(torch.zeros(2, 4), torch.tensor([0, 1])), MAP())


@pytest.fixture(scope="module")
def state():
    return state_of(build("mlp", (4,), 2, seed=0, widths=[7, 5]))


@settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(0, 999))
def test_keep_count_is_the_share_rounded_half_up(n, thousandths):
    """In whole numbers: the share kept is (1000 - k) / 1000, which no floating-point number is."""
    expected = (2 * n * (1000 - thousandths) + 1000) // 2000
    if expected:
        assert keep_count(n, thousandths / 1000) == expected
    else:
        with pytest.raises(UsageError, match="remove every one"):
            keep_count(n, thousandths / 1000)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_global_selection_is_exact_best_and_stable(state, data):
    n = state.units.n
    scores = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, -3.5]), min_size=n, max_size=n)))
    keep = data.draw(st.integers(1, n))
    assume(len(scores.unique()) > 1)
    kept = select(scores, state, keep)
    expected = sorted(range(n), key=lambda i: (-scores[i].item(), i))[:keep]
    assert kept.nonzero().flatten().tolist() == sorted(expected)


@settings(deadline=None, max_examples=40)
@given(
    keep=st.integers(1, 73), allocation=st.sampled_from(["global", "layerwise", "erk", "lamp"]), seed=st.integers(0, 9)
)
def test_every_allocation_keeps_exactly_the_budget_and_ranks_inside_layers(state, keep, allocation, seed):
    scores = torch.rand(state.units.n, generator=torch.Generator().manual_seed(seed))
    kept = select(scores, state, keep, allocation)
    assert int(kept.sum()) == keep
    for layer, chosen in zip(state.units.split(scores), state.units.split(kept), strict=True):
        if chosen.any() and not chosen.all():
            assert layer[chosen].min() >= layer[~chosen].max()


def test_layerwise_gives_every_layer_the_same_density(state):
    kept = select(torch.rand(state.units.n), state, state.units.n // 2, "layerwise")
    for chosen in state.units.split(kept):
        assert abs(chosen.double().mean().item() - 0.5) <= 0.5 / len(chosen) + 0.05


def test_erk_densities_of_a_known_network():
    """[64,3,3,3], [128,64,3,3], [10,128] at 10 %: densities 0.9967, 0.06336 and 1."""
    network = nn.ModuleList([nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 3), nn.Linear(128, 10)])
    state = state_of(network)
    kept = select(torch.rand(state.units.n), state, keep_count(state.units.n, 0.9), "erk")
    densities = [chosen.double().mean().item() for chosen in state.units.split(kept)]
    assert densities == pytest.approx([0.9967, 0.06336, 1.0], abs=2e-3)


def test_lamp_allocation_counts_like_a_global_lamp_ranking(state):
    keep = 30
    scores = torch.cat([lamp_scores(w).flatten() for w in state.weights().values()])
    best = scores.argsort(descending=True)[:keep]
    expected = torch.zeros(state.units.n, dtype=torch.bool).index_fill_(0, best, True)
    kept = select(torch.rand(state.units.n), state, keep, "lamp")
    assert [int(c.sum()) for c in state.units.split(kept)] == [int(c.sum()) for c in state.units.split(expected)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 100)), min_size=1, max_size=8), st.data())
def test_apportion_sums_respects_capacity_and_floor(layers, data):
    capacity, weights = [c for c, _ in layers], [w for _, w in layers]
    floor = data.draw(st.integers(0, 2))
    low = sum(min(floor, c) for c in capacity)
    keep = data.draw(st.integers(low, sum(capacity)))
    counts = apportion(weights, capacity, keep, floor)
    assert sum(counts) == keep
    assert all(min(floor, c) <= k <= c for k, c in zip(counts, capacity, strict=True))


def test_what_was_removed_stays_removed(state):
    among = torch.zeros(state.units.n, dtype=torch.bool)
    among[::2] = True
    for allocation in ("global", "layerwise", "lamp"):
        assert not (select(torch.rand(state.units.n), state, 10, allocation, among) & ~among).any()


def test_groups_keep_a_floor_in_every_layer():
    state = state_of(build("mlp", (4,), 2, seed=0, widths=[7, 5]), group_units)
    scores = torch.tensor([9.0] * 7 + [1.0] * 5)
    for allocation in ("global", "layerwise"):
        kept = select(scores, state, 3, allocation, floor=1)
        assert int(kept.sum()) == 3
        assert all(chosen.any() for chosen in state.units.split(kept))
    with pytest.raises(UsageError, match="lower sparsity"):
        select(scores, state, 1, floor=1)
    with pytest.raises(UsageError, match="ERK"):
        select(scores, state, 3, "erk")


def test_own_threshold_is_the_same_operation(state):
    scores = torch.linspace(-1, 1, state.units.n)
    kept = decided(scores, state, Pruner(MAP, magnitude, keep_above=0.0))
    assert torch.equal(kept, select(scores, state, int(kept.sum())))
    assert not decided(scores, state, Pruner(MAP, magnitude, keep_above=5.0)).any()


def test_a_decision_needs_no_threshold_but_the_right_shape(state):
    scores = torch.linspace(-1, 1, state.units.n)
    every_other = torch.arange(state.units.n) % 2 == 0
    pruner = Pruner(MAP, magnitude, decide=lambda state: every_other)
    assert pruner.decides
    assert torch.equal(decided(scores, state, pruner), every_other)
    with pytest.raises(ScoreError, match="boolean"):
        decided(scores, state, Pruner(MAP, magnitude, decide=lambda state: scores))
    with pytest.raises(UsageError, match="no threshold"):
        decided(scores, state, Pruner(MAP, magnitude))
    with pytest.raises(UsageError, match="not by both"):
        Pruner(MAP, magnitude, keep_above=0.0, decide=lambda state: every_other)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_cannot_rank_are_refused(state, bad):
    scores = torch.rand(state.units.n)
    scores[3] = bad
    with pytest.raises(ScoreError, match="1 of 73 scores are not finite"):
        select(scores, state, 5)
    with pytest.raises(ScoreError, match="shape"):
        select(scores[1:], state, 5)


def patterned(shape, seed=0):
    """A linear layer of `shape`, distinct scores, and the 2:4 selection among them."""
    state = state_of(nn.Linear(shape[1], shape[0]))
    scores = torch.randperm(state.units.n, generator=torch.Generator().manual_seed(seed)).double()
    return scores.view(shape), select(scores, state, keep_count(state.units.n, 0.5), "2:4").view(shape)


@given(st.integers(1, 6), st.integers(1, 13), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_two_of_four_keeps_the_best_two_of_every_four_and_half_exactly(rows, width, seed):
    scores, kept = patterned((rows, width), seed)
    assert int(kept.sum()) == keep_count(rows * width, 0.5)
    for row, chosen in zip(scores, kept, strict=True):
        for block, mask in zip(row.split(4), chosen.split(4), strict=True):
            if len(block) == 4:
                assert mask.sum() == 2
            assert int(mask.sum()) in (len(block) // 2, (len(block) + 1) // 2)
            assert not mask.any() or mask.all() or block[mask].min() > block[~mask].max()


def test_two_of_four_follows_the_inputs_of_a_convolution_and_refuses_other_budgets():
    state = state_of(nn.Conv2d(4, 3, 3))
    scores = torch.rand(state.units.n, dtype=torch.float64)
    kept = select(scores, state, keep_count(state.units.n, 0.5), "2:4")
    assert (kept.view(3, 4, 9).sum(1) == 2).all()  # of the four channels, at every place of the kernel
    with pytest.raises(UsageError, match="2:4 pattern keeps half"):
        select(scores, state, 10, "2:4")
    groups = state_of(build("mlp", (4,), 2, seed=0, widths=[8, 8]), group_units)
    with pytest.raises(UsageError, match="single weights"):
        select(torch.rand(16), groups, 8, "2:4")


LAYERS = [
    (nn.Conv2d(8, 6, 3), 1),
    (nn.Conv1d(5, 4, 3), 1),
    (nn.Conv2d(16, 8, 3, groups=2), 1),
    (nn.ConvTranspose2d(8, 6, 3), 0),
    (nn.ConvTranspose1d(16, 6, 3, groups=2), 0),
    (nn.Bilinear(3, 6, 4), 2),
]


@pytest.mark.parametrize(("layer", "axis"), LAYERS, ids=lambda value: str(value))
def test_two_of_four_inputs_at_one_output_and_place(layer, axis):
    """Against blocks found one by one: every stretch of four inputs, of one group, keeps its best two."""
    state = state_of(layer)
    scores = torch.randperm(state.units.n, generator=torch.Generator().manual_seed(0)).double()
    kept = select(scores, state, keep_count(state.units.n, 0.5), "2:4").view(layer.weight.shape)
    scores = scores.view(layer.weight.shape)
    groups = getattr(layer, "groups", 1) if axis == 0 else 1
    for part, chosen in zip(scores.chunk(groups, 0), kept.chunk(groups, 0), strict=True):
        lines, masks = (tensor.movedim(axis, -1).flatten(0, -2) for tensor in (part, chosen))
        for line, mask in zip(lines, masks, strict=True):
            for four, two in zip(line.split(4), mask.split(4), strict=True):
                if len(four) == 4:
                    assert two.nonzero().flatten().tolist() == sorted(four.topk(2).indices.tolist())


def test_round_sizes_revive_nothing_that_left_in_an_earlier_round():
    state = state_of(build("mlp", (4,), 2, seed=0, widths=[16, 16]), group_units)
    scores, pruner = torch.arange(32.0), Pruner(MAP, magnitude)
    among = torch.ones(32, dtype=torch.bool)
    among[10:16] = False  # the best of the first layer have left
    mask = mask_for(scores, state, pruner, 0.7, among, Budget(round_to=8))
    first, second = state.units.split(mask.kept)
    assert not mask.kept[~among].any()
    assert (int(first.sum()), int(second.sum())) == (8, 16)
