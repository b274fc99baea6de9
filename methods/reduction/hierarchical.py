"""Bayesian model reduction to a narrower prior instead of a spike: rows of weights under the regularised horseshoe.

Marković, Friston, Kiebel, arXiv 2309.12095; "BMR-RHS" of their published code, where it is no default. With the
posterior of the weights fixed, the reduced prior of row i of a layer is N(0, γ_i² σ²), σ² being the prior's variance,
with γ from `horseshoe_prior`, whose factors h have independent log-normals q that maximise

    E_q(h)[ Σ_i ΔF_i(γ_i) ] - KL(q(h) ‖ p(h))    in nats, by Adam, from γ near 1.

As there, the reduced scale of a row is E[γ⁻²]^(-1/2), and a row of a hidden layer leaves if it is below 1e-6. There
scales multiply from call to call until they get so low, which one call hardly does. What decides first is therefore
this suite's: a row leaves where even the prior of its reduced scale has no more evidence than a spike, ties included:
ΔF_i(γ_i) - ΔF_i(0) < 0.15 nats. With one weight, and γ at its optimum, that is m² ≤ v of its pseudo-observation, but
for the ties. The last layer has one scale for all its weights, and stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..closed_forms.lognormal import kl_to_gamma
from ..closed_forms.posteriors import Conjugate
from ..closed_forms.row_evidence import RowEvidence, Rows
from ..pruner import State
from ..variational.horseshoe_prior import horseshoe_prior
from ..variational.scale_factors import LOG_SPREAD, Layer, Prior, by_factor, expanded, layers
from . import TIE
from .decision import present

Posterior = TypeVar("Posterior", bound=Conjugate)

TAU0 = 1e-2
GONE = 1e-6  # the scale below which rows leave in the published code
STEPS, DRAWS, RATE = 500, 16, 0.05
AVERAGED = 50  # last steps whose bounds are averaged


@dataclass(frozen=True)
class FittedScales:
    """What the evidence makes of the scales.

    Attributes:
        inverse_square: E[γ⁻²] of rows by the name of their layer's weight, shape (R,).
        bound: E[ΔF] - KL at each step, in nats, estimated from that step's draws.
    """

    inverse_square: Mapping[str, Tensor]
    bound: Sequence[float]


@torch.enable_grad()
def fit_scales(
    evidence: RowEvidence, prior: Prior, kl: float = 1.0, steps: int = STEPS, draws: int = DRAWS, seed: int = 0
) -> FittedScales:
    """Raises the bound by Adam, with fresh draws at each step, at a rate that falls to 0.

    Args:
        evidence: of all rows.
        prior: factors, and the scales, of rank 1, of the parts that the rows consist of, in their order.
        kl: weight of the divergence: 1 is the bound; 0 finds the scales of the largest evidence, empirical Bayes.
        steps: of Adam.
        draws: of all factors, at each step.
        seed: of the draws.
    """
    factors, scales = prior
    a, b, location = (expanded(factors, attrgetter(part), evidence.value) for part in ("a", "b", "start"))
    log_spread, generator = torch.full_like(location, LOG_SPREAD), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([location.requires_grad_(), log_spread.requires_grad_()], RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, steps)
    bound: list[float] = []
    for _ in range(steps):
        noise = torch.randn(draws, len(location), generator=generator, dtype=location.dtype).to(location.device)
        drawn = _log_squares(prior, torch.addcmul(location, log_spread.exp(), noise))
        loss = kl * kl_to_gamma(location, log_spread, a, b).sum() - evidence(drawn).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bound.append(-loss.item())
    means, variances = (by_factor(factors, value.detach()) for value in (location, (2 * log_spread).exp()))
    return FittedScales({name: scale.inverse_square(means, variances) for name, scale in scales.items()}, bound)


def _log_squares(prior: Prior, logs: Tensor) -> Tensor:
    """log γ² of all rows, (S, R), from the factors' logs (S, F)."""
    factors, scales = prior

    def of_one(drawn: dict[str, Tensor]) -> Tensor:
        return torch.cat([scale.log(drawn) for scale in scales.values()])

    return 2 * torch.vmap(of_one)(by_factor(factors, logs))


# ---------------------------------------------------------------------- which rows leave


@dataclass(frozen=True)
class HierarchicalReduction:
    """What the reduced prior says about the rows of every layer, by the name of its weight.

    Attributes:
        scale: E[γ⁻²]^(-1/2), the reduced prior's width in units of the prior's, shape (R,); the last layer has one.
        excess: ΔF_i(0) - ΔF_i(γ_i), nats by which a spike is better than that, shape (R,).
        rejected: which units leave, boolean (units.n,).
        bound: of the evidence gained over the prior, in nats.
    """

    scale: Mapping[str, Tensor]
    excess: Mapping[str, Tensor]
    rejected: Tensor
    bound: float


def hierarchical_reduction(state: State[Posterior]) -> HierarchicalReduction:
    """Fits the scales to the posterior of `state`, and decides row by row.

    A unit leaves if the shares that its weights have in their rows' excess add up to more than 0. Weights that are 0
    have left before and take no part.
    """
    found = list(layers(state.network, state.posterior.mean))
    rows = {layer.weight: _rows(layer, state.posterior) for layer in found}
    evidence = RowEvidence.of(list(rows.values()))
    fitted = fit_scales(evidence, _prior(found, rows))
    squares = torch.cat(list(fitted.inverse_square.values())).reciprocal()
    worse = evidence.spike - evidence(squares.log().unsqueeze(0)).squeeze(0)
    scale, excess = (_by_layer(rows, values) for values in (squares.sqrt(), worse))
    leaving = {
        name: _along_rows(_nats_per_weight(layer, scale[layer.weight], excess[layer.weight]), shape)
        for layer in found
        for name, shape in layer.members.items()
    }
    rejected = (state.units.gather(leaving) > 0) | ~present(state)
    return HierarchicalReduction(scale, excess, rejected, sum(fitted.bound[-AVERAGED:]) / AVERAGED)


def _by_layer(rows: Mapping[str, Rows], values: Tensor) -> dict[str, Tensor]:
    parts = values.split([len(row.mean) for row in rows.values()])
    return dict(zip(rows, parts, strict=True))


def _nats_per_weight(layer: Layer, scale: Tensor, excess: Tensor) -> Tensor:
    """Each weight's share of its row's excess over a tie, (rows,): ∞ of rows that are gone, 0 in the last layer."""
    if layer.last:
        return excess.new_zeros(layer.rows)
    size = sum(shape.numel() for shape in layer.members.values()) / layer.rows
    return torch.where(scale < GONE, math.inf, (excess + TIE) / size)


def _prior(found: Sequence[Layer], rows: Mapping[str, Rows]) -> Prior:
    """The horseshoe of the rows of all layers, in units of the prior's width."""
    factors, scales = {}, {}
    for layer in found:
        members = {layer.weight: rows[layer.weight].mean.shape[:1]}
        own = horseshoe_prior(replace(layer, members=members, rms=1.0), TAU0)
        factors |= own[0]
        scales |= own[1]
    return factors, scales


def _rows(layer: Layer, posterior: Conjugate) -> Rows:
    """One row for each output unit, with its bias; one in all of the last layer."""

    def joined(of: Mapping[str, Tensor]) -> Tensor:
        parts = torch.cat([of[name].reshape(layer.rows, -1).double() for name in layer.members], 1)
        return parts.reshape(1, -1) if layer.last else parts

    mean, prior_variance = joined(posterior.mean), joined(posterior.prior).reciprocal()
    # A variational posterior may be wider than the prior, of weights the data say nothing about.
    variance = torch.minimum(joined(posterior.marginal_precision).reciprocal(), prior_variance)
    return Rows(mean, variance, prior_variance, mean != 0)


def _along_rows(values: Tensor, shape: torch.Size) -> Tensor:
    return values.view(-1, *[1] * (len(shape) - 1)).expand(shape)


def kept(state: State[Posterior]) -> Tensor:
    """The units that the hierarchical reduced prior does not reject; boolean, (units.n,)."""
    return ~hierarchical_reduction(state).rejected


def summary(state: State[Posterior]) -> dict[str, Any]:
    """Share pruned, the bound, and of each layer the quartiles of the scales and the share of them below 1e-6."""
    found, here = hierarchical_reduction(state), present(state)
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return {
        "pruned": found.rejected[here].double().mean().item() if here.any() else 0.0,
        "bound": found.bound,
        "scale": {name: scale.cpu().quantile(levels).tolist() for name, scale in found.scale.items()},
        "gone": {name: (scale < GONE).double().mean().item() for name, scale in found.scale.items()},
    }
