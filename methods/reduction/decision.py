"""BMR: Bayesian model reduction prunes what the evidence is better off without.

Marković, Friston, Kiebel, "Bayesian sparsification of deep neural networks with Bayesian model reduction",
arXiv 2309.12095 (IEEE Access 12, 2024). With the change of evidence ΔF of setting a weight to 0 (see
`model_reduction`), what has ΔF > ζ leaves, where ζ is one threshold for each layer.

ΔF decides; it is no ranking. On a Laplace posterior it calls weights that are surely small, but used, less worth
keeping than those the data never touched. A requested sparsity is therefore met by ranking by posterior damage
½ θ² Λ, half the squared ratio of signal to noise, without ΔF. Unlike the authors' code it decides about the last layer
too, as every method here does, and never about norms and embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ...architectures.units.prunable import prunable
from ..closed_forms.model_reduction import delta_f, delta_f_multivariate, savage_dickey, spike_delta_f, without
from ..closed_forms.posteriors import Conjugate
from ..pruner import State
from . import TIE
from .joint_spike import joint_spike

__all__ = ["Reduction", "delta_f", "delta_f_multivariate", "reduction", "savage_dickey", "threshold", "without"]

Rule = Literal["vb4", "zero"]
Population = Literal["live", "full"]
Posterior = TypeVar("Posterior", bound=Conjugate)

# Coordinate-ascent steps of the beta-Bernoulli rule; they run away from 0 without end, so their number matters.
STEPS = 4
# Numbers that a step of arithmetic takes at a time, so that they stay in a processor's cache.
BLOCK = 1 << 15


def threshold(delta_f: Tensor, rule: Rule = "vb4", steps: int = STEPS, absent: int = 0) -> float:
    """ζ of one layer, in nats: what has ΔF > ζ leaves.

    "zero": 0. "vb4": the spike-and-slab prior λ_i ~ Bernoulli(p), p ~ Beta(1, 1) over the weights of the layer,
    by coordinate ascent from ζ = 0: q(λ_i = 1) = sigmoid(ζ - ΔF_i), then ζ = ψ(1 + Σ q) - ψ(1 + Σ (1 - q)).

    `absent` of them have ΔF = 0 and take no part: they have left before.
    """
    if rule == "zero":
        return 0.0
    zeta, count = delta_f.new_zeros(()), delta_f.numel() - absent
    odds, scratch = _odds(delta_f), torch.empty_like(delta_f[:BLOCK])
    for _ in range(steps):
        kept = _expected_kept(odds, zeta.exp(), scratch) - absent * zeta.sigmoid()
        zeta = torch.digamma(1 + kept) - torch.digamma(1 + count - kept)
    return float(zeta)


def _odds(delta_f: Tensor) -> Sequence[Tensor]:
    """exp ΔF, of the reduced model against the full one, in blocks; exp2 takes half the time of exp."""
    blocks = torch.empty_like(delta_f).split(BLOCK)
    for change, block in zip(delta_f.split(BLOCK), blocks, strict=True):
        torch.mul(change, 1 / math.log(2), out=block).exp2_()
    return blocks


def _expected_kept(odds: Sequence[Tensor], factor: Tensor, scratch: Tensor) -> Tensor:
    """Σ factor / (factor + odds), the sum of sigmoid(ζ - ΔF); `scratch` holds a block."""
    total = torch.zeros_like(factor)
    for block in odds:
        total += torch.add(block, factor, out=scratch[: len(block)]).reciprocal_().sum()
    return factor * total


def tied_share(delta_f: Tensor, within: float = TIE) -> float:
    """Share of units about which the evidence is indifferent, |ΔF| < `within` nats; 0 of none.

    Without it a pruned share means nothing: which side of ζ a tie falls on is chance.
    """
    return _share(delta_f.abs() < within)


def _share(of: Tensor) -> float:
    return _count(of) / max(of.numel(), 1)


def _count(of: Tensor) -> int:
    return int(torch.count_nonzero(of))


@dataclass(frozen=True)
class Reduction:
    """What Bayesian model reduction decides about the units of a network.

    Attributes:
        delta_f: of removing each unit, nats, shape (units.n,).
        present: which units had not been removed before, boolean (units.n,); only they shape the thresholds.
        zeta: the threshold of each layer (group of units), by its name.
        rejected: which units leave, boolean (units.n,).
    """

    delta_f: Tensor
    present: Tensor
    zeta: Mapping[str, float]
    rejected: Tensor

    def summary(self) -> dict[str, Any]:
        """Share of present units that leave, share of ties among them, and the thresholds, as JSON."""
        pruned, tied = _share(self.rejected[self.present]), tied_share(self.delta_f[self.present])
        return {"pruned": pruned, "tied": tied, "zeta": dict(self.zeta)}


def reduction(state: State[Posterior], rule: Rule = "vb4", population: Population = "live") -> Reduction:
    """The decision about every unit, from the spike's ΔF on a Gaussian posterior with zero prior mean.

    The ΔF of a unit is the sum over its weights and biases, or, where the posterior has their covariance, that of
    removing all of them at once. Units whose weights are all 0 have left before, and leave. They take no part in the
    thresholds; or, with the "full" population of the published code, one of units about which the evidence is
    indifferent, ΔF = 0, as their posterior is their prior.
    """
    units, here = state.units, present(state)
    joint = units.removable and state.posterior.covariance is not None
    changes, gone = joint_spike(units, state.posterior, judged(state)) if joint else units.gather(spike(state)), ~here
    left = [_count(part) for part in units.split(gone)]
    if any(left):
        changes.mul_(here)
    layers = units.split(changes)
    absent = left if population == "live" else [0] * len(left)
    zetas = [threshold(change, rule, absent=n) for change, n in zip(layers, absent, strict=True)]
    rejected = torch.cat([change > zeta for change, zeta in zip(layers, zetas, strict=True)]).logical_or_(gone)
    return Reduction(changes, here, dict(zip(units.layer_names, zetas, strict=True)), rejected)


def present(state: State[Any]) -> Tensor:
    """Units some of whose weights are not 0; boolean, (units.n,)."""
    weights = state.weights()
    if all(_count(w) == w.numel() for w in weights.values()):  # nothing has left: no need to look unit by unit
        return torch.ones(state.units.n, dtype=torch.bool, device=next(iter(weights.values())).device)
    return state.units.gather({name: w.abs() for name, w in weights.items()}) > 0


def spike(state: State[Posterior], precision: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """ΔF of setting each weight (and bias of a layer with prunable weights) to 0, in nats, by parameter name.

    `precision`: marginal ones, by parameter name, if others than the posterior's own.
    """
    posterior = state.posterior
    own = posterior.marginal_precision if precision is None else precision
    return {n: spike_delta_f(posterior.mean[n], own[n], posterior.prior[n]) for n in judged(state)}


def judged(state: State[Posterior]) -> list[str]:
    """Parameters that evidence decides about, in the posterior's order: those of layers with prunable weights."""
    layers = {name.rpartition(".")[0] for name in prunable(state.network)}
    return [name for name in state.posterior.mean if name.rpartition(".")[0] in layers]


def kept(state: State[Posterior], rule: Rule = "vb4", population: Population = "live") -> Tensor:
    """The units that the evidence does not reject: ΔF ≤ ζ; boolean, (units.n,)."""
    return ~reduction(state, rule, population).rejected


def summary(state: State[Posterior], rule: Rule = "vb4", population: Population = "live") -> dict[str, Any]:
    """What the evidence says: shares pruned and tied, and the thresholds."""
    return reduction(state, rule, population).summary()
