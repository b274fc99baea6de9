"""The prior's part of an optimiser's step, taken implicitly: a proximal step in the optimiser's own metric.

An optimiser that goes from θ by -η D⁻¹ g, D the diagonal by which it divides (√v̂ + ε of Adam, 1 of gradient descent),
minimises g'Δ + Δ'DΔ / 2η. With the quadratic ½ Σ λ θ² of a prior added to that, not to g, the step ends at

    θ ← D (θ - η D⁻¹ g) / (D + η λ),

whose fixed points are those of the explicit step, g = -λ θ. That one, however, resolves nothing below the learning
rate: Adam's steps have its size whatever λ is, so that weights that a precision of 10⁴ wants at 0 tremble about it, and
gradient descent diverges from η λ = 2 on. This one is stable for every λ >= 0.

Parikh and Boyd, "Proximal algorithms", 2014, section 4.2; in the metric of Adam: Yun, Lozano, Yang, "Adaptive proximal
gradient methods for structured neural networks", NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def pull_(optimizer: torch.optim.Optimizer, pulls: Mapping[nn.Parameter, Tensor]) -> None:
    """After the step of `optimizer` on the loss alone: that of ½ Σ λ θ², λ >= 0 by parameter in `pulls`, in place.

    Of Adam and its relatives, that keep "exp_avg_sq" (their amsgrad aside), and of gradient descent. What has no
    gradient stays.
    """
    for group in optimizer.param_groups:
        rate = group["lr"] / (1 - group.get("momentum", 0.0))  # along a gradient that stays
        for p in group["params"]:
            if p.grad is not None and p in pulls:
                scale = _scale(optimizer.state[p], group)
                p.mul_(scale / (scale + rate * pulls[p]))


def _scale(state: Mapping[str, Any], group: Mapping[str, Any]) -> Tensor | float:
    """D of the step that has been taken."""
    if "exp_avg_sq" not in state:
        return 1.0
    step = torch.as_tensor(state["step"])  # on the device, maybe in single precision, where 1 - β₂ᵗ loses digits
    correction = -torch.expm1(step * math.log(group["betas"][1]))
    return (state["exp_avg_sq"] / correction).sqrt_().add_(group["eps"])
