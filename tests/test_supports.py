"""Sets of weights chosen on the posterior's quadratic: swaps and thresholding, against brute force."""

from itertools import combinations

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.bench.pruning.mask_for import mask_for
from bayesprune.datasets.load import load
from bayesprune.methods import cbs
from bayesprune.methods.cbs import Swaps, cbs_pruner
from bayesprune.methods.chita import chita_pruner, thresholded
from bayesprune.methods.closed_forms.conditioning import dense
from bayesprune.methods.closed_forms.flat import flat
from bayesprune.methods.closed_forms.low_rank import Formed, LowRank, Outer
from bayesprune.methods.pruner import State

F64 = torch.float64


def problem(seed, n=9, rows=6, ridge=0.3):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, n, dtype=F64, generator=generator)
    a += torch.randn(rows, 1, dtype=F64, generator=generator)  # so that weights cancel one another
    w = torch.randn(n, dtype=F64, generator=generator)
    return a.T @ a + ridge * torch.eye(n, dtype=F64), w, torch.randperm(n, generator=generator) < n // 2


def zeroing(precision, w, kept):
    gone = w * ~kept
    return float(gone @ precision @ gone)


# ---------------------------------------------------------------- swaps


@pytest.mark.parametrize("seed", range(5))
def test_the_gain_of_every_swap_is_brute_force(seed):
    precision, w, kept = problem(seed)
    cells = torch.tensor([0] * 5 + [1] * 4)
    gains = Swaps(precision, w, cells).gains(precision @ (w * ~kept), kept)
    before = zeroing(precision, w, kept)
    for i in range(9):
        for j in range(9):
            if kept[i] or not kept[j] or cells[i] != cells[j]:
                assert gains[i, j] == -torch.inf
                continue
            other = kept.clone()
            other[i], other[j] = True, False
            assert float(gains[i, j]) == pytest.approx(before - zeroing(precision, w, other), abs=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_no_swap_is_left_that_gains(seed):
    precision, w, kept = problem(seed, n=12)
    stays = Swaps(precision, w, torch.zeros(12, dtype=torch.int64)).made(precision @ (w * ~kept), kept, 1e-12)
    found = zeroing(precision, w, stays)
    assert int(stays.sum()) == int(kept.sum())
    assert found <= zeroing(precision, w, kept)
    for i in (~stays).nonzero().flatten():
        for j in stays.nonzero().flatten():
            other = stays.clone()
            other[i], other[j] = True, False
            assert zeroing(precision, w, other) >= found - 1e-9


# ---------------------------------------------------------------- thresholding


def support(seed, n=10, **options):
    precision, w, _ = problem(seed, n, **options)

    def largest(v):
        stays = torch.zeros(n, dtype=torch.bool)
        stays[v.abs().topk(n // 2).indices] = True
        return stays

    def cost(kept):
        return float(dense(w, kept, precision).cost)

    first = largest(w)
    found = thresholded(w, first, lambda v: precision @ v, lambda kept: dense(w, kept, precision), largest, 20)
    return cost(first), cost(found), min(cost(_among(n, c)) for c in combinations(range(n), n // 2))


def _among(n, chosen):
    kept = torch.zeros(n, dtype=torch.bool)
    kept[list(chosen)] = True
    return kept


def test_no_support_costs_more_than_the_one_it_began_with():
    """Of forty correlated regressions it is a better one in a few, and never better than the best of all."""
    costs = [support(seed) for seed in range(40)]
    assert all(best - 1e-9 <= found <= first + 1e-12 for first, found, best in costs)
    assert sum(found < first - 1e-9 for first, found, _ in costs) >= 3


@pytest.mark.parametrize("seed", range(8))
def test_thresholding_recovers_a_planted_support(seed):
    """Sixty rows determine three weights among forty; the first support lacks two of them."""
    generator = torch.Generator().manual_seed(seed)
    a, n, k = torch.randn(60, 40, dtype=F64, generator=generator), 40, 3
    true = torch.zeros(n, dtype=F64)
    true[torch.randperm(n, generator=generator)[:k]] = 1.0
    precision = a.T @ a + 0.01 * torch.eye(n, dtype=F64)
    w = torch.linalg.solve(precision, a.T @ (a @ true))

    def largest(v):
        return _among(n, v.abs().topk(k).indices.tolist())

    first = _among(n, w.abs().topk(k + 2).indices.tolist()[2:])  # without the two largest
    found = thresholded(w, first, lambda v: precision @ v, lambda kept: dense(w, kept, precision), largest, 60)
    assert not torch.equal(first, true > 0)
    assert torch.equal(found, true > 0)


# ---------------------------------------------------------------- on rows, and on networks


def test_products_and_columns_are_those_of_the_matrix():
    generator = torch.Generator().manual_seed(0)
    g, a, b = (torch.randn(7, k, dtype=F64, generator=generator) for k in (3, 4, 5))
    whole = LowRank({"w": Outer(g, a), "b": Formed(b)}, (12, 5), 7).scaled(0.3)
    rows = torch.cat([torch.einsum("ni,nj->nij", g, a).flatten(1), b], 1)
    prior, v = torch.rand(17, dtype=F64, generator=generator) + 0.1, torch.randn(17, dtype=F64, generator=generator)
    precision = 0.3 * rows.T @ rows + prior.diag()
    torch.testing.assert_close(whole.product(prior, v), precision @ v)
    among = torch.arange(17) % 3 == 1
    columns = whole.columns(among)
    torch.testing.assert_close(columns.T @ columns, 0.3 * (rows.T @ rows)[among][:, among])
    left = torch.arange(17) > 4
    there = whole.masked(left)
    torch.testing.assert_close(
        there.product(prior, v), ((precision - prior.diag()) * left * left.unsqueeze(1)) @ v + prior * v
    )


@pytest.fixture(scope="module")
def state():
    data = load("digits", 0, subset=150)
    network = build("mlp", data.input_shape, 10, seed=0, widths=[9]).double()
    inference = cbs_pruner(prior=None, examples=60).inference()
    train = data.train
    return State(network, weight_units(network), type(train)(train.x.double(), train.y, train.likelihood), inference)


@pytest.mark.parametrize("allocation", ["global", "layerwise"])
@pytest.mark.parametrize("pruner", [cbs_pruner(), chita_pruner()])
def test_as_many_stay_and_they_cost_less(state, pruner, allocation):
    scores = pruner.score(state)
    pruner = type(pruner)(pruner.inference, pruner.score, reselect=pruner.reselect, allocation=allocation)
    plain = type(pruner)(pruner.inference, pruner.score, allocation=allocation)
    among = torch.arange(state.units.n) % 7 > 0
    ours, magnitudes = (mask_for(scores, state, p, 0.8, among) for p in (pruner, plain))
    assert ours.count == magnitudes.count
    assert not (ours.kept & ~among).any()
    if allocation == "layerwise":
        counts = [[int(part.sum()) for part in state.units.split(m.kept)] for m in (ours, magnitudes)]
        assert counts[0] == counts[1]
    mean = flat(state.posterior.mean)
    gone = {name: torch.ones_like(m, dtype=torch.bool) for name, m in state.posterior.mean.items()}
    costs = []
    for mask in (ours, magnitudes):
        kept = flat({**gone, **mask.tensors}).bool()
        found = state.posterior.condition(mean, kept)
        costs.append((float(found.zeroing), float(found.cost)))
    assert not torch.equal(ours.kept, magnitudes.kept)
    swaps = pruner.reselect.func.__module__.endswith("cbs")
    assert costs[0][not swaps] < costs[1][not swaps]


def test_starts_are_the_smallest_of_chunks_and_the_best_of_them_is_taken(state, monkeypatch):
    """Counts of cells stay, what has left stays away; in every chunk magnitudes rank; losses are those of a loop."""
    worth, n = state.units.gather({n: w.abs() for n, w in state.weights().items()}), state.units.n
    cells = torch.arange(n) % 2
    cells[::7] = -1
    kept = torch.zeros(n, dtype=torch.bool)
    for cell, share in ((0, 0.2), (1, 0.5)):
        own = (cells == cell).nonzero().squeeze(1)
        kept[own[worth[own].topk(int(share * len(own))).indices]] = True
    generator = torch.Generator().manual_seed(0)
    found = [cbs.chunked(worth, kept, cells, generator) for _ in range(4)]
    for other in found:
        assert not torch.equal(other, kept)
        assert not other[cells < 0].any()
        for cell in (0, 1):
            assert int(other[cells == cell].sum()) == int(kept[cells == cell].sum())
    monkeypatch.setattr(cbs, "CHUNK", n)  # one chunk of each cell: the magnitudes themselves
    assert torch.equal(cbs.chunked(worth, kept, cells, generator), kept)
    losses = []
    for mask in (kept, *found):
        stays = state.units.scatter(mask)
        masked = {name: w * stays[name] if name in stays else w for name, w in state.network.named_parameters()}
        outputs = torch.func.functional_call(state.network, masked, (state.train.x,))
        losses.append(float(torch.nn.functional.cross_entropy(outputs, state.train.y, reduction="sum").detach()))
    assert [cbs.masked_loss(state, mask) for mask in (kept, *found)] == pytest.approx(losses, rel=1e-9)
    monkeypatch.setattr(cbs, "CHUNK", 100)
    begun = []
    monkeypatch.setattr(cbs, "chunked", lambda *_: found[len(begun)])
    monkeypatch.setattr(cbs, "masked_loss", lambda _, mask: (begun.append(mask), [3.0, 2.0, 1.0][len(begun) - 1])[1])
    best = cbs.reselect(1, 3, state, kept, cells)
    monkeypatch.undo()
    assert torch.equal(best, cbs.reselect(1, 1, state, found[0], cells))
    assert not torch.equal(best, cbs.reselect(1, 1, state, kept, cells))
