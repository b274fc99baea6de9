"""What weights and structures are worth under variational dropout: one threshold for weights and factors.

Worth is -log α. A structure is worth its own factor, and no more than the best weight that it scales: it leaves when
its factor does, and when nothing reads it. A weight is worth its own, and no more than the structures that own it. So
one threshold on worth prunes weights and factors separately, the published rule, and what is behind a pruned factor
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..closed_forms.posteriors import Gaussian
from ..pruner import State
from ..variational.weight_dropout import TINY
from .structures import Structure, Weights, combined

# Of a weight's own worth: it ranks the weights of one structure, and changes no decision.
TIE_BREAK = 1e-9


@dataclass(frozen=True)
class StructuredGaussian(Gaussian):
    """Independent Gaussians over the weights of a network and over factors on some of its structures.

    Attributes:
        structures: of the network, all of them.
        factors: `mean` and `precision` by the name of their structure.
    """

    structures: tuple[Structure, ...]
    factors: Gaussian


@dataclass(frozen=True)
class Worth:
    """Worths, or whether something stays, as 1 and 0.

    Attributes:
        weights: by the name of the parameter.
        published: the same without the factors of gates (published accounting).
        units: by the name of their structure; a gate is worth its best weight: without weights it is constant.
    """

    weights: dict[str, Tensor]
    published: dict[str, Tensor]
    units: dict[str, Tensor]


def worths(posterior: StructuredGaussian) -> Worth:
    """The worth of all weights and structures."""
    return propagated(minus_log_alpha(posterior), minus_log_alpha(posterior.factors), posterior.structures)


def minus_log_alpha(posterior: Gaussian) -> dict[str, Tensor]:
    """- log α of each entry."""
    return {n: (mean.square() + TINY).log() + posterior.precision[n].log() for n, mean in posterior.mean.items()}


def propagated(own: Weights, factors: Mapping[str, Tensor], structures: tuple[Structure, ...]) -> Worth:
    """Worths from those that weights and factors have by themselves; a structure without factors has no bound."""
    units = {s.name: s.best(own) for s in structures}
    units = {name: torch.minimum(best, factors.get(name, best)) for name, best in units.items()}
    published = dict(own)
    for s in structures:
        if s.kind != "gate":
            published = combined(published, s.owned, units[s.name], torch.minimum)
    weights = published
    for s in structures:
        if s.kind == "gate" and s.name in factors:
            weights = combined(weights, s.owned, factors[s.name], torch.minimum)
    units |= {s.name: s.best(weights) for s in structures if s.kind in ("gate", "word")}
    return Worth(weights, published, units)


def worth(state: State[Any]) -> Tensor:
    """Worth of single weights, of equal ones that of the weight itself, or of whole structures; (units.n,)."""
    found = worths(state.posterior)
    groups = state.units.groups
    if state.units.removable:
        return torch.cat([found.units[group.name] for group in groups])
    own = minus_log_alpha(state.posterior)
    return torch.cat([(found.weights[g.name] + TIE_BREAK * own[g.name]).flatten() for g in groups])
