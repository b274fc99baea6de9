"""Sparse subspace variational inference: what leaves, what grows, and how sure the newborn are."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.harness.workbench import Workbench
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.bench.training.loop import leave
from bayesprune.datasets.load import load
from bayesprune.datasets.split import Split
from bayesprune.methods.opd import opd
from bayesprune.methods.pruner import State
from bayesprune.methods.scores.scratch import balanced_batch
from bayesprune.methods.set import by_gradient
from bayesprune.methods.ssvi import SparseSubspace, ssvi_pruner
from torch import nn

F64 = torch.float64
DATA = load("digits", 0, subset=120)


def sparse(keep=3):
    """A network of which every `keep`-th weight is there, and its inference, with variances of all sizes."""
    network = build("mlp", DATA.input_shape, 10, seed=0, widths=[8]).double()
    inference = SparseSubspace(kl=0.1, warm_up=0.0)
    parts = weight_units(network)
    train = Split(DATA.train.x.double(), DATA.train.y, DATA.train.likelihood)
    inference.attach(network, parts, train)
    with torch.no_grad():
        inference.log_sigma.add_(
            torch.randn(inference.log_sigma.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
        )
    mask = Mask(parts, torch.arange(parts.n) % keep == 0)
    leave(network, inference, mask)
    return State(network, parts, train, inference), mask


def test_the_published_criterion_ranks_as_signal_over_noise():
    """E|θ| / sd|θ| of draws, and in closed form, rises with |μ|/σ."""
    r = torch.linspace(0, 8, 60, dtype=F64)
    folded = r * torch.erf(r / math.sqrt(2)) + math.sqrt(2 / math.pi) * (-r.square() / 2).exp()
    published = folded / (1 + r.square() - folded.square()).sqrt()
    assert bool((published.diff() > 0).all())
    draws = (r[::10, None] + torch.randn(6, 400_000, dtype=F64, generator=torch.Generator().manual_seed(0))).abs()
    torch.testing.assert_close(draws.mean(1) / draws.std(1), published[::10], rtol=0.01, atol=0)
    state, mask = sparse()
    q = state.posterior
    ratio = state.units.gather({name: mean.abs() * q.precision[name].sqrt() for name, mean in q.mean.items()})
    assert torch.equal(opd(state)[mask.kept].argsort(), ratio[mask.kept].argsort())


def test_absent_weights_have_the_gradient_of_the_bound():
    """By finite differences of the loss at the very same draw: moving an absent mean, one after the other."""
    state, mask = sparse()
    batch = len(DATA.train)
    worth = by_gradient(state, mask, examples=batch, drawn=True)
    generator = torch.Generator().manual_seed(0)
    drawn = balanced_batch(state.train, batch, generator)
    weights, layer = state.inference.sample(state.network, generator), "layers.0.weight"
    assert not weights[layer][~mask.tensors[layer]].any()
    assert not torch.equal(weights[layer], state.network.get_parameter(layer))

    def loss(row, column, step):
        moved = {name: w.detach().clone() for name, w in weights.items()}
        moved[layer][row, column] = step
        outputs = torch.func.functional_call(state.network.eval(), moved, (drawn.x,))
        return float(nn.functional.cross_entropy(outputs, drawn.y).detach())

    first = state.units.split(worth)[state.units.layer_names.index(layer)].view(weights[layer].shape)
    for row, column in [(0, 1), (3, 20), (7, 40)]:
        assert not mask.tensors[layer][row, column]
        slope = abs(loss(row, column, 1e-5) - loss(row, column, -1e-5)) / 2e-5
        assert float(first[row, column]) == pytest.approx(slope, rel=1e-3, abs=1e-8)


def test_the_newborn_are_as_sure_as_those_that_are_there():
    state, mask = sparse()
    before = {name: sigma.log() for name, sigma in state.inference.sigma().items()}
    state.inference.update(state.network, state.train, 1)
    for name, sigma in state.inference.sigma().items():
        kept = mask.tensors.get(name, torch.ones_like(sigma, dtype=torch.bool))
        torch.testing.assert_close(sigma.log()[kept], before[name][kept])
        if not kept.all():
            expected = before[name][kept].mean().expand(int((~kept).sum()))
            torch.testing.assert_close(sigma.log()[~kept], expected, rtol=1e-5, atol=1e-5)


def test_only_present_weights_diverge():
    state, mask = sparse()
    q, total = state.posterior, 0.0
    for name, mean in q.mean.items():
        kept = mask.tensors.get(name, torch.ones_like(mean, dtype=torch.bool))
        own = torch.distributions.Normal(mean[kept], q.precision[name][kept].rsqrt())
        other = torch.distributions.Normal(torch.zeros(int(kept.sum()), dtype=F64), 1.0)
        total += float(torch.distributions.kl_divergence(own, other).sum())
    assert float(state.inference.divergence(state.network).detach()) == pytest.approx(total, rel=1e-6)


def test_subspaces_are_exchanged_and_keep_their_size(tmp_path):
    run = Run(
        dataset=Choice(name="digits", options={"subset": 120}), sparsity=0.8, seed=0, method=Choice(name="ssvi"),
        architecture=Choice(name="mlp", options={"widths": [16, 12]}), finetune=Finetune(epochs=1),
        training=Training(epochs=7, lr=3e-3),
    )  # fmt: skip
    cell, masks = Workbench(run, DATA, Store(tmp_path), torch.device("cpu")), []
    settle = cell.engine.settle
    cell.engine.settle = lambda outcome, part=0: (masks.append(outcome.mask), settle(outcome, part))[1]
    outcome = cell.prune(0.8)
    assert len(masks) == 1 + 6
    assert all(mask.layer_density() == masks[0].layer_density() for mask in masks)
    assert int((masks[0].kept & ~masks[1].kept).sum()) > int((masks[-2].kept & ~masks[-1].kept).sum())
    for name, kept in outcome.mask.tensors.items():
        assert not outcome.network.get_parameter(name).detach()[~kept].any()


def test_the_authors_prior_is_narrow():
    inference = ssvi_pruner(preset="authors").inference()
    assert inference.precision == pytest.approx(1 / 0.005**2)
