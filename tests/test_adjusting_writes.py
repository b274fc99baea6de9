"""Kron-OBS: units that leave by what writes them, against closed forms of Kronecker factors and the dense formula."""

import pytest
import torch
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.pruning.adjusting import adjusted
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.flat import flat
from bayesprune.methods.closed_forms.model_reduction import without
from bayesprune.methods.conditioning.adjust import condition, singles
from bayesprune.methods.conditioning.costs import surgeon
from bayesprune.methods.conditioning.reads import deciding
from bayesprune.methods.laplace.map import MAP
from test_adjusting import assert_compact_is_masked, small, state_of, with_one_of_each

F64 = torch.float64


def test_rows_cost_and_move_as_in_closed_form():
    """At a prior next to nothing: ½ w'Aw / [G⁻¹]_qq, W_R + G_RR⁻¹ G_RS W_S; at any prior the dense formula."""
    for precision in (1e-7, 2.0):
        state = state_of("mlp", "groups", MAP(precision, curvature="kfac"), n=400, widths=(6, 3))
        with torch.no_grad():  # so that no neuron is dead, and both factors have full rank
            for i in (0, 1):
                state.network.get_parameter(f"layers.{i}.bias").add_(1.0)
        block = state.posterior.whole.blocks["layers.1.weight"]
        g, a = (factor[0] for factor in block.factors)
        w = state.network.get_parameter("layers.1.weight").detach()
        bias = state.network.get_parameter("layers.1.bias").detach()
        found = surgeon(state, "writes")[6:]
        of_bias = 0.5 * bias.square() * state.posterior.marginal_precision["layers.1.bias"]
        inverse = torch.linalg.inv(torch.kron(g, a) + precision * torch.eye(18, dtype=F64))
        at = torch.arange(18).view(3, 6)
        dense = [0.5 * w[q] @ torch.linalg.solve(inverse[at[q]][:, at[q]], w[q]) for q in range(3)]
        torch.testing.assert_close(found, torch.stack(dense) + of_bias, rtol=1e-6, atol=0)
        gone = torch.tensor([1])
        kept = torch.ones(state.units.n, dtype=torch.bool)
        kept[6 + gone] = False
        moved = condition(state, Mask(state.units, kept), "writes").tensors
        removed = torch.zeros(3, 6, dtype=torch.bool)
        removed[gone] = True
        expected, _ = without(w.flatten(), inverse, removed.flatten())
        torch.testing.assert_close(moved["layers.1.weight"][~removed], expected, rtol=1e-6, atol=1e-9)
        if precision < 1:
            closed = 0.5 * ((w @ a) * w).sum(1) / torch.linalg.inv(g).diagonal()
            torch.testing.assert_close(found - of_bias, closed, rtol=1e-3, atol=0)
            stays = torch.tensor([0, 2])
            formula = w[stays] + torch.linalg.solve(g[stays][:, stays], g[stays][:, gone] @ w[gone])
            torch.testing.assert_close(moved["layers.1.weight"][stays], formula, rtol=1e-3, atol=1e-5)
        reader = state.network.get_parameter("layers.2.weight").detach().clone()
        reader[:, gone] = 0  # zeroed, and nothing else moves for it
        assert torch.equal(moved["layers.2.weight"], reader)


@pytest.mark.parametrize("curvature", ["kfac", "full"])
def test_a_units_cost_is_what_conditioning_on_its_rows_costs(curvature):
    """But for the bias of a full posterior, whose part is added."""
    state = small("groups", curvature)
    costs, mean = surgeon(state, "writes"), flat(state.posterior.mean)
    for i in range(state.units.n):
        kept = torch.ones(state.units.n, dtype=torch.bool)
        kept[i] = False
        total = 0.0
        pieces = [(g, p) for g, p in zip(state.units.groups, state.units.split(kept), strict=True) if not p.all()]
        ((group, part),) = pieces
        for piece in deciding(state.network, group, "writes"):
            stays = {n: torch.ones_like(m, dtype=torch.bool) for n, m in state.posterior.mean.items()}
            stays[piece.name] &= piece.mask(part)
            total += float(state.posterior.condition(mean, torch.cat([s.flatten() for s in stays.values()])).cost)
        assert costs[i].item() == pytest.approx(total, rel=1e-7)


def test_writes_and_reads_share_no_slice_and_the_readers_of_none_are_conditioned_on():
    state = small("groups", "kfac")
    for group in state.units.groups:
        sides = [{(p.name, p.axis) for p in deciding(state.network, group, side)} for side in ("reads", "writes")]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == {(p.name, p.axis) for p in group.slices}


@pytest.mark.parametrize("rule", [condition, singles])
def test_adjusted_compact_computes_what_adjusted_masked_does(rule):
    state = state_of("lenet5", "groups", MAP(2.0, curvature="kfac"))
    state.network.eval()
    mask = with_one_of_each(state)
    update = {condition: "joint", singles: "singles"}[rule]
    pruner = build_pruner("obs", through="writes", update=update)
    found = adjusted(pruner, state, mask)
    assert all(torch.equal(value, found.tensors[n]) for n, value in rule(state, mask, "writes").tensors.items())
    assert_compact_is_masked(state, mask, found)


def test_other_sides_are_refused():
    with pytest.raises(UsageError, match="through"):
        build_pruner("obs", through="both")
    assert build_pruner("obs", through="writes", update="none").adjust == "none"
