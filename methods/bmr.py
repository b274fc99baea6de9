"""BMR: Bayesian model reduction prunes what the evidence is better off without.

Marković, Friston, Kiebel, "Bayesian sparsification of deep neural networks with Bayesian model reduction",
arXiv 2309.12095 (IEEE Access 12, 2024). With the change of evidence ΔF of setting a weight to 0 (see
`model_reduction`), what has ΔF > ζ leaves, where ζ is one threshold for each layer.

ΔF decides; it is no ranking. On a Laplace posterior it calls weights that are surely small, but used, less worth
keeping than those the data never touched. A requested sparsity is therefore met by ranking by posterior damage
½ θ² Λ, without ΔF. Unlike the authors' code it decides about the last layer too, as
every method here does, and never about norms and embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..architectures.units import prunable
from .curvature import CurvatureKind
from .gaussian import MAP
from .model_reduction import delta_f, delta_f_multivariate, savage_dickey, without
from .opd import opd
from .posteriors import Laplace
from .pruner import Pruner, State, register

__all__ = ["Reduction", "delta_f", "delta_f_multivariate", "reduction", "savage_dickey", "threshold", "without"]

Rule = Literal["vb4", "zero"]

# Coordinate-ascent steps of the beta-Bernoulli rule; they run away from 0 without end, so their number matters.
STEPS = 4
# Nats within which a weight is a tie: it is the optimiser's noise that decides about it.
TIE = 0.15


def threshold(delta_f: Tensor, rule: Rule = "vb4", steps: int = STEPS) -> float:
    """ζ of one layer, in nats: what has ΔF > ζ leaves.

    "zero": 0. "vb4": the spike-and-slab prior λ_i ~ Bernoulli(p), p ~ Beta(1, 1) over the weights of the layer,
    by coordinate ascent from ζ = 0: q(λ_i = 1) = sigmoid(ζ - ΔF_i), then ζ = ψ(1 + Σ q) - ψ(1 + Σ (1 - q)).
    """
    zeta = delta_f.new_zeros(())
    for _ in range(steps if rule == "vb4" else 0):
        kept = torch.sub(zeta, delta_f).sigmoid_().sum()
        zeta = torch.digamma(1 + kept) - torch.digamma(1 + delta_f.numel() - kept)
    return float(zeta)


def tied_share(delta_f: Tensor, within: float = TIE) -> float:
    """Share of units about which the evidence is indifferent, |ΔF| < `within` nats; 0 of none.

    Without it a pruned share means nothing: which side of ζ a tie falls on is chance.
    """
    return _share(delta_f.abs() < within)


def _share(of: Tensor) -> float:
    return int(of.sum()) / max(of.numel(), 1)


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


def reduction(state: State[Laplace], rule: Rule = "vb4") -> Reduction:
    """The decision about every unit, from the spike's ΔF on a diagonal Laplace posterior with zero prior mean.

    The ΔF of a unit is the sum over its weights and biases. Units whose weights are all 0 have left before,
    and leave.
    """
    units = state.units
    present = units.gather({name: (w != 0).double() for name, w in state.weights().items()}) > 0
    changes = units.gather(spike(state))
    layers = zip(units.layer_names, units.split(changes), units.split(present), strict=True)
    zeta = {name: threshold(change[live], rule) for name, change, live in layers}
    pairs = zip(units.split(changes), zeta.values(), strict=True)
    rejected = torch.cat([change > limit for change, limit in pairs]) | ~present
    return Reduction(changes, present, zeta, rejected)


def spike(state: State[Laplace]) -> dict[str, Tensor]:
    """ΔF of setting each weight (and bias of a layer with prunable weights) to 0, in nats, by parameter name."""
    posterior = state.posterior
    layers = {name.rpartition(".")[0] for name in prunable(state.network)}
    return {
        name: delta_f(mean, posterior.variance[name], 0.0, posterior.prior[name].reciprocal(), 0.0, 0.0)
        for name, mean in posterior.mean.items()
        if name.rpartition(".")[0] in layers
    }


# ---------------------------------------------------------------------- the method


@register("bmr-laplace")
def bmr_laplace_pruner(
    rule: Rule = "vb4", precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn"
) -> Pruner[Laplace]:
    """Bayesian model reduction on a Laplace posterior with evidence-tuned layerwise prior (Marković et al. 2024)."""
    inference = partial(MAP, precision, kind, "diag", "layerwise")
    return Pruner(inference, opd, decide=partial(kept, rule=rule), report=partial(summary, rule=rule))


def kept(state: State[Laplace], rule: Rule = "vb4") -> Tensor:
    """The units that the evidence does not reject: ΔF ≤ ζ; boolean, (units.n,)."""
    return ~reduction(state, rule).rejected


def summary(state: State[Laplace], rule: Rule = "vb4") -> dict[str, Any]:
    """What the evidence says: shares pruned and tied, and the thresholds."""
    return reduction(state, rule).summary()
