"""Where survivors go when a mask takes the others: `Pruner.adjust`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...architectures.units.mask import Mask
from ...datasets.errors import UsageError
from ..closed_forms.conditioning import Conditional
from ..closed_forms.flat import flat, named
from ..closed_forms.posteriors import Gaussian, Laplace
from ..pruner import Adjusted, State
from .reads import Through, entries, leaving_freely, unread


def condition(state: State[Any], mask: Mask, through: Through = "reads") -> Adjusted:
    """Survivors become the mean of the posterior given that the others are 0; see `closed_forms.conditioning`.

    The report holds the costs z and c in nats, ΔF where it is known and a bound from below, how far the survivors
    moved as a share of their norm, and what the solver left. Raises ArithmeticError for a posterior that is singular
    on what stays, UsageError for one that is no Gaussian.
    """
    posterior = _gaussian(state)
    kept, free = entries(state.units, mask.kept, posterior.mean), _free(state, mask, posterior, through)
    mean = flat(posterior.mean)
    found = posterior.condition(mean.masked_fill(free, 0), kept)
    report = {
        "zeroing": float(found.zeroing),
        "cost": float(found.cost),
        "steps": found.steps,
        "residual": found.residual,
        **_evidence(state, posterior, kept, free, found),
    }
    return settled(state, found.mean, mean, kept, report, through)


def singles(state: State[Any], mask: Mask, through: Through = "reads") -> Adjusted:
    """The papers' rule: the sum of what each leaving weight alone would have moved the survivors by.

    w_R = μ_R - Σ_q Σ_Rq μ_q / Σ_qq (Singh, Alistarh, NeurIPS 2020), which takes correlated weights' part more than
    once. Raises UsageError for a posterior that has no curvature.
    """
    posterior = _gaussian(state)
    if not isinstance(posterior, Laplace):
        raise UsageError("update: singles needs a Laplace posterior; choose update: joint")
    kept, free = entries(state.units, mask.kept, posterior.mean), _free(state, mask, posterior, through)
    mean = flat(posterior.mean)
    pull = (mean.masked_fill(free, 0) * flat(posterior.marginal_precision)).masked_fill_(kept, 0)
    moved = (mean - posterior.whole.solve(flat(posterior.prior), pull)).masked_fill_(~kept, 0)
    return settled(state, moved, mean, kept, {}, through)


ADJUST: Mapping[str, Callable[[State[Any], Mask], Adjusted]] = {"condition": condition}


def _gaussian(state: State[Any]) -> Gaussian:
    if not isinstance(state.posterior, Gaussian):
        raise UsageError(f"survivors are adjusted on a Gaussian posterior, not on a {type(state.posterior).__name__}")
    return state.posterior


def _free(state: State[Any], mask: Mask, posterior: Gaussian, through: Through) -> Tensor:
    return leaving_freely(state.network, state.units, mask.kept, posterior.mean, through)


def _evidence(
    state: State[Any], posterior: Gaussian, kept: Tensor, free: Tensor, found: Conditional
) -> dict[str, float | None]:
    if not isinstance(posterior, Laplace):
        return {}
    everyone = torch.ones(state.units.n, dtype=torch.bool) if state.present is None else state.present
    present = entries(state.units, everyone.to(kept.device), posterior.mean) & ~free
    exact = posterior.delta_f(present, kept, found)
    least = posterior.least_delta_f(present & ~kept, found.cost)
    return {"delta_f": None if exact is None else float(exact), "delta_f_at_least": float(least)}


def settled(
    state: State[Any], moved: Tensor, before: Tensor, kept: Tensor, report: dict[str, Any], through: Through = "reads"
) -> Adjusted:
    """The survivors, (P,), in place of what was there `before`, and by what share of their norm they moved.

    Raises ArithmeticError, naming the tensor, where a weight is not finite.
    """
    norm = before.masked_fill(~kept, 0).norm()
    step = (moved - before).masked_fill_(~kept, 0).norm()
    report = {**report, "moved": float(step / norm) if norm else 0.0}
    if missing := unread(state.network, state.units, through):
        report["not_adjusted"] = missing
    parameters = dict(state.network.named_parameters())
    tensors = {name: value.to(parameters[name]) for name, value in named(moved, state.posterior.mean).items()}
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ArithmeticError(
                f"adjusting gave {name!r} weights that are not finite: choose a larger prior precision"
            )
    return Adjusted(tensors, report)
