"""SparseGPT against optimal brain surgeon on the columns to come, taken literally, with an inverse for each."""

import pytest
import torch
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.mask_for import mask_for
from bayesprune.bench.pruning.ranking import ScoreError
from bayesprune.bench.pruning.select import select
from bayesprune.datasets.data import Split
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.column_sweep import swept, upper_root
from bayesprune.methods.conditioning.adjust import condition
from bayesprune.methods.laplace.layer_errors import LayerErrors
from bayesprune.methods.obc import obc
from bayesprune.methods.pruner import Pruner, State
from bayesprune.methods.sparsegpt import reselect, sparsegpt, sparsegpt_pruner, sweep
from bayesprune.methods.wanda import wanda
from torch import nn
from transformers.pytorch_utils import Conv1D

F64 = torch.float64
DAMPING = 0.01


def inputs(width, n=300, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=F64) / width**0.5
    return torch.randn(n, width, generator=generator, dtype=F64) @ mix


def layer(out=32, width=48, seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(width, out, bias=False)).double()
    with torch.no_grad():
        network[0].weight.normal_()
    x = inputs(width)
    return State(
        network, weight_units(network), Split(x, torch.zeros(len(x)).long()), LayerErrors(1.0, damping=DAMPING)
    )


def precision(x):
    a = x.T @ x
    return a + DAMPING * a.diagonal().mean() * torch.eye(len(a), dtype=F64)


def literally(w, h, kept, choose=lambda j, w, kept: None):
    """Each column in turn; what leaves of it moves those behind it by a row of the inverse of what is left of H."""
    w, cost = w.clone(), 0.0
    for j in range(w.shape[1]):
        choose(j, w, kept)
        inverse = torch.linalg.inv(h[j:, j:])
        for row, stays in zip(w, kept[:, j], strict=True):
            if not stays:
                cost += 0.5 * float(row[j] ** 2 / inverse[0, 0])
                row[j:] -= row[j] / inverse[0, 0] * inverse[0]
                row[j] = 0
    return w, cost


@pytest.mark.parametrize("block", [1, 5, 128])
def test_the_sweep_is_the_surgeon_on_columns_to_come(block):
    h, w = precision(inputs(12)), torch.randn(4, 12, dtype=F64, generator=torch.Generator().manual_seed(2))
    values, vectors = torch.linalg.eigh(h)
    root = upper_root(values, vectors)
    torch.testing.assert_close(root.T @ root, torch.linalg.inv(h), rtol=1e-9, atol=1e-12)
    assert torch.equal(root, root.triu())
    kept = torch.rand(4, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    found = swept(w, root, kept.clone(), block)
    expected, cost = literally(w, h, kept)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert 0.5 * float(((found - w) @ h * (found - w)).sum()) == pytest.approx(cost, rel=1e-9)


def lowest(worth, n):
    return worth.flatten().sort().indices[:n]


@pytest.mark.parametrize("block", [8, 20, 48])
def test_blocks_choose_at_the_values_they_have_then(block):
    """The share of each block that leaves is that of the layer, to a weight; theirs are the least w²/U²."""
    state = layer(out=6)
    keep = 101
    kept = select(sparsegpt(state), state, keep, "layerwise")
    chosen = reselect(block, state, kept, torch.zeros(288, dtype=torch.int64)).view(6, 48)
    h = precision(state.train.x)

    def choose(j, w, mask):
        if j % block:
            return
        stop = min(j + block, 48)
        pivots = torch.stack([torch.linalg.inv(h[i:, i:])[0, 0] for i in range(j, stop)])
        gone = 6 * (stop - j) - (int(keep * stop / 48 + 0.5) - int(keep * j / 48 + 0.5))
        part = torch.ones(6, stop - j, dtype=torch.bool).flatten()
        part[lowest(w[:, j:stop] ** 2 / pivots, gone)] = False
        mask[:, j:stop] = part.view(6, -1)

    mask = torch.ones(6, 48, dtype=torch.bool)
    weights, _ = literally(state.network[0].weight.detach(), h, mask, choose)
    assert torch.equal(chosen, mask)
    assert chosen.sum() == keep
    if block < 48:
        assert not torch.equal(chosen.flatten(), kept)
    found = sweep(block, state, Mask(state.units, chosen.flatten())).tensors["0.weight"]
    torch.testing.assert_close(found, weights, rtol=1e-8, atol=1e-9)


def test_two_of_four_are_chosen_when_the_sweep_is_there():
    state, pruner = layer(out=5, width=16), sparsegpt_pruner()
    h = precision(state.train.x)

    def choose(j, w, mask):
        if j % 4 == 0:
            pivots = torch.stack([torch.linalg.inv(h[i:, i:])[0, 0] for i in range(j, j + 4)])
            for row, stays in zip(w, mask, strict=True):
                stays[j + lowest(row[j : j + 4] ** 2 / pivots, 2)] = False

    mask = torch.ones(5, 16, dtype=torch.bool)
    literally(state.network[0].weight.detach(), h, mask, choose)
    pruner = Pruner(pruner.inference, pruner.score, allocation="2:4", reselect=pruner.reselect)
    found = mask_for(sparsegpt(state), state, pruner, 0.5)
    assert torch.equal(found.tensors["0.weight"], mask)


@pytest.mark.parametrize(("allocation", "rows"), [("layerwise", None), ("rowwise", 24)])
def test_counts_hold_and_what_left_stays_away(allocation, rows):
    state, given = layer(), sparsegpt_pruner()
    pruner = Pruner(given.inference, given.score, allocation=allocation, reselect=given.reselect)
    among = torch.rand(state.units.n, generator=torch.Generator().manual_seed(4)) < 0.8
    with torch.no_grad():
        state.network[0].weight.mul_(among.view(32, 48))
    mask = mask_for(sparsegpt(state), state, pruner, 0.5, among)
    assert mask.count == 32 * 24
    assert not (mask.kept & ~among).any()
    assert rows is None or mask.tensors["0.weight"].sum(1).tolist() == [rows] * 32


def test_a_choice_of_other_counts_is_refused():
    state = layer()
    pruner = Pruner(sparsegpt_pruner().inference, sparsegpt, reselect=lambda state, kept, cells: torch.ones_like(kept))
    with pytest.raises(ScoreError, match="as many of every cell"):
        mask_for(sparsegpt(state), state, pruner, 0.5)


def test_the_order_of_the_methods_on_a_layers_error():
    """Half of a correlated layer, as the paper has it: wanda's and magnitude's masks refitted stand behind obc's."""
    state = layer()
    dense, half = state.network[0].weight.detach(), 32 * 24

    def error(weight):
        return float(((weight - dense) @ state.train.x.T).square().sum())

    def zeroed(score, allocation):
        return Mask(state.units, select(score(state), state, half, allocation))

    own = mask_for(sparsegpt(state), state, sparsegpt_pruner(), 0.5)
    once, joint = (move(state, own).tensors["0.weight"] for move in (lambda *a: sweep(128, *a), condition))
    plain = error(dense * zeroed(wanda, "rowwise").tensors["0.weight"])
    refit = error(condition(state, zeroed(obc, "layerwise")).tensors["0.weight"])
    assert refit < error(joint) < error(once) < plain


def test_a_weight_that_is_held_transposed_is_pruned_alike():
    torch.manual_seed(0)
    ours, theirs = nn.Sequential(Conv1D(5, 8)).double(), nn.Sequential(nn.Linear(8, 5)).double()
    with torch.no_grad():
        theirs[0].weight.copy_(ours[0].weight.normal_().T)
    split = Split(inputs(8), torch.zeros(300).long())
    states = [State(n, weight_units(n), split, LayerErrors(1.0, damping=DAMPING)) for n in (ours, theirs)]
    masks = [mask_for(sparsegpt(s), s, sparsegpt_pruner(block=3), 0.5) for s in states]
    assert torch.equal(masks[0].tensors["0.weight"].T, masks[1].tensors["0.weight"])
    moved = [sweep(3, s, m).tensors["0.weight"] for s, m in zip(states, masks, strict=True)]
    torch.testing.assert_close(moved[0].T, moved[1])


def test_the_groups_of_a_convolution_are_swept_one_by_one():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.Flatten()).double()
    x = torch.randn(20, 4, 6, 6, dtype=F64)
    state = State(network, weight_units(network), Split(x, torch.zeros(20).long()), LayerErrors(1.0, damping=DAMPING))
    mask = mask_for(sparsegpt(state), state, sparsegpt_pruner(), 0.5)
    found = sweep(128, state, mask).tensors["0.weight"]
    patches = nn.functional.unfold(x, 3).mT.reshape(-1, 2, 18)
    mean = sum((patches[:, g].T @ patches[:, g]).diagonal().mean() for g in range(2)) / 2
    for g, rows in enumerate((slice(0, 3), slice(3, 6))):
        h = patches[:, g].T @ patches[:, g] + DAMPING * mean * torch.eye(18, dtype=F64)
        dense, kept = (t[rows].flatten(1) for t in (network[0].weight.detach(), mask.tensors["0.weight"]))
        torch.testing.assert_close(found[rows].flatten(1), literally(dense, h, kept)[0], rtol=1e-8, atol=1e-9)


def test_the_networks_are_those_of_map():
    assert build_pruner("sparsegpt").inference().identity() == build_pruner("wanda").inference().identity()
