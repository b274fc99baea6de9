"""Survivors on networks: what units are conditioned on, what is reported, and what is refused."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.adjusting import AdjustError, adjusted
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.build import options
from bayesprune.methods.closed_forms.flat import flat, named
from bayesprune.methods.closed_forms.model_reduction import without
from bayesprune.methods.conditioning.adjust import condition, singles
from bayesprune.methods.conditioning.costs import surgeon
from bayesprune.methods.conditioning.reads import deciding, unread
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.pruner import Adjusted, Pruner, State

F64 = torch.float64


def state_of(name, granularity, inference, n=40, **shape):
    network = build(name, (1, 8, 8), 4, seed=0, **shape).double()
    generator = torch.Generator().manual_seed(1)
    split = Split(torch.randn(n, 1, 8, 8, generator=generator, dtype=F64), torch.arange(n) % 4)
    return State(network, units(network, granularity, split.x[:2]), split, inference)


def with_one_of_each(state):
    """A mask that keeps some six tenths of the units, the first of every group among them."""
    kept = torch.rand(state.units.n, generator=torch.Generator().manual_seed(0)) > 0.4
    for part in state.units.split(kept):
        part[0] = True
    return Mask(state.units, kept)


def assert_compact_is_masked(state, mask, found):
    with torch.no_grad():
        for n, value in found.tensors.items():
            state.network.get_parameter(n).copy_(value)
    mask.apply_(state.network)
    torch.testing.assert_close(compact(state.network, mask)(state.train.x), state.network(state.train.x))


def small(granularity, curvature="full"):
    return state_of("mlp", granularity, MAP(2.0, curvature=curvature), widths=(8, 6))


@pytest.mark.parametrize("curvature", ["full", "lowrank", "kfac"])
def test_single_weights_get_the_conditional_mean_of_the_whole_network(curvature):
    state = small("weights", curvature)
    posterior = state.posterior
    mask = Mask(state.units, torch.rand(state.units.n, generator=torch.Generator().manual_seed(3)) > 0.6)
    found = condition(state, mask)
    identity = torch.eye(sum(m.numel() for m in posterior.mean.values()), dtype=F64)
    inverse = torch.stack([posterior.whole.solve(flat(posterior.prior), row) for row in identity])
    removed = torch.cat(
        [
            ~mask.tensors[n].flatten() if n in mask.tensors else torch.zeros(m.numel()).bool()
            for n, m in posterior.mean.items()
        ]
    )
    expected, _ = without(flat(posterior.mean), inverse, removed)
    got = torch.cat([t.flatten() for t in found.tensors.values()])
    torch.testing.assert_close(got[~removed], expected, atol=2e-4 if curvature == "kfac" else 1e-9, rtol=1e-9)
    assert not got[removed].any()
    assert found.report["cost"] <= found.report["zeroing"]
    assert found.report["moved"] > 0


def test_units_are_conditioned_on_what_reads_them_alone():
    """The reader's columns move each other; the writer's rows leave for nothing and move no other row."""
    state = small("groups", "kfac")
    kept = torch.ones(state.units.n, dtype=torch.bool)
    kept[[1, 4]] = False  # of the first hidden layer
    mask = Mask(state.units, kept)
    found = condition(state, mask).tensors
    weights = dict(state.network.named_parameters())
    untouched = weights["layers.0.weight"].detach().clone()
    untouched[[1, 4]] = 0
    assert torch.equal(found["layers.0.weight"], untouched)
    block, prior = state.posterior.whole.blocks["layers.1.weight"], torch.full((48,), 2.0, dtype=F64)
    removed = torch.zeros(6, 8, dtype=torch.bool)
    removed[:, [1, 4]] = True
    g, a = (factor[0] for factor in block.factors)
    inverse = torch.linalg.inv(torch.kron(g, a) + prior.diag())
    expected, _ = without(weights["layers.1.weight"].detach().flatten(), inverse, removed.flatten())
    torch.testing.assert_close(found["layers.1.weight"].flatten()[~removed.flatten()], expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("curvature", ["kfac", "full"])
def test_a_units_cost_is_what_conditioning_on_it_alone_costs(curvature):
    """Where one tensor reads it."""
    state = small("groups", curvature)
    costs = surgeon(state)
    for i in range(state.units.n):
        kept = torch.ones(state.units.n, dtype=torch.bool)
        kept[i] = False
        mean = flat(state.posterior.mean)
        stays = {n: torch.ones_like(m, dtype=torch.bool) for n, m in state.posterior.mean.items()}
        for group, part in zip(state.units.groups, state.units.split(kept), strict=True):
            for piece in deciding(state.network, group):
                stays[piece.name] &= piece.mask(part)
        alone = state.posterior.condition(mean, torch.cat([s.flatten() for s in stays.values()]))
        assert costs[i].item() == pytest.approx(float(alone.cost), rel=1e-8)


def test_a_weights_cost_is_the_surgeons():
    state = small("weights")
    covariance = state.posterior.covariance
    variances = named(covariance.diagonal(), state.posterior.mean)
    expected = state.units.gather({n: state.posterior.mean[n].square() / (2 * v) for n, v in variances.items()})
    torch.testing.assert_close(surgeon(state), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["lenet5", "resnet", "vit", "mixer"])
def test_adjusted_compact_computes_what_adjusted_masked_does(name):
    shape = {"dim": 16, "depth": 1} if name in ("vit", "mixer") else {}
    state = state_of(name, "groups", MAP(2.0, curvature="kfac"), **shape)
    state.network.eval()
    mask = with_one_of_each(state)
    assert_compact_is_masked(state, mask, adjusted(Pruner(MAP, surgeon, adjust="condition"), state, mask))


def test_what_cannot_be_told_apart_is_zeroed_and_named():
    network = build("lstm", (5, 7), 7, seed=0, hidden=6)
    split = Split(torch.randint(7, (8, 5)), torch.randint(7, (8, 5)))
    state = State(network, units(network, "groups", split.x[:2]), split, MAP(2.0, "rademacher", "kfac"))
    names = unread(network, state.units)
    assert names
    kept = torch.ones(state.units.n, dtype=torch.bool)
    kept[0] = False
    found = condition(state, Mask(state.units, kept))
    assert found.report["not_adjusted"] == names


def test_summed_single_moves_are_those_of_the_papers():
    state = small("weights")
    mask = Mask(state.units, torch.arange(state.units.n) % 3 > 0)
    found = singles(state, mask)
    mean, covariance = flat(state.posterior.mean), state.posterior.covariance
    expected = mean.clone()
    for q in torch.cat([~m.flatten() for m in _whole(state, mask)]).nonzero().squeeze(1):
        expected -= covariance[q] * mean[q] / covariance[q, q]
    got = torch.cat([t.flatten() for t in found.tensors.values()])
    gone = torch.cat([~m.flatten() for m in _whole(state, mask)])
    torch.testing.assert_close(got[~gone], expected[~gone], rtol=1e-9, atol=1e-12)
    assert not got[gone].any()


def _whole(state, mask):
    return [mask.tensors.get(n, torch.ones_like(m, dtype=torch.bool)) for n, m in state.posterior.mean.items()]


def test_a_mask_that_leaves_nothing_moves_nothing():
    state = small("weights", "kfac")
    nothing = condition(state, Mask(state.units, torch.zeros(state.units.n, dtype=torch.bool)))
    assert all(not nothing.tensors[n].any() for n in state.weights())
    assert nothing.report["cost"] == pytest.approx(nothing.report["zeroing"])


def test_weights_that_are_not_finite_fail_by_name():
    state = small("weights")
    mask = Mask(state.units, torch.arange(state.units.n) > 3)
    bad = lambda *_: Adjusted({"layers.0.weight": torch.full((8, 64), torch.nan)})  # noqa: E731
    with pytest.raises(AdjustError, match=r"'layers\.0\.weight' weights that are not finite"):
        adjusted(Pruner(MAP, surgeon, adjust=bad), state, mask)
    odd = lambda *_: Adjusted({"layers.7.weight": torch.ones(1)})  # noqa: E731
    with pytest.raises(AdjustError, match=r"'layers\.7\.weight' .* that the network has not"):
        adjusted(Pruner(MAP, surgeon, adjust=odd), state, mask)
    singular = State(state.network, state.units, state.train, MAP(0.0, curvature="full"))
    with pytest.raises(ArithmeticError, match="singular"):
        condition(singular, mask)


@pytest.mark.parametrize(
    ("method", "given", "why"),
    [
        ("opd", {"adjust": "condition"}, "choose curvature: kfac"),
        ("mean-field", {"adjust": "condition"}, "its posterior has none"),
        ("snip", {"adjust": "condition"}, "an untrained network is no mode"),
        ("obs", {"when": "online"}, "units may grow back"),
        ("magnitude", {"adjust": "yes"}, "choose none, condition"),
    ],
)
def test_what_cannot_be_adjusted_is_refused_when_the_method_is_built(method, given, why):
    with pytest.raises(UsageError, match=why):
        build_pruner(method, **given)


def test_old_cells_keep_their_options():
    assert options("opd", {"adjust": "none"}) == {}
    assert options("obs", {"adjust": "condition"}) == {}
    assert options("opd-kfac", {"adjust": "condition"}) == {"adjust": "condition"}
    pruner = build_pruner("magnitude", adjust="condition", curvature="kfac")
    assert pruner.inference().identity() == build_pruner("magnitude").inference().identity()


def test_spam_hands_on_how_survivors_move():
    pruner = build_pruner("spam-obs")
    assert (pruner.adjust, pruner.rounds) == ("condition", 15)
    assert pruner.inference().correlates
    assert build_pruner("spam-synflow").rounds == build_pruner("spam-opd").rounds == 1
