"""What a network is worth once its weights have no more bits than their posterior knows (`closed_forms.bits`)."""

from __future__ import annotations

import torch
from torch import nn

from ...architectures.running.plain import copied
from ...architectures.units.mask import Mask
from ...architectures.units.prunable import prunable
from ...datasets.data import Data
from ...methods.closed_forms.bits import bits, grid, rounded
from ...methods.closed_forms.posteriors import Gaussian
from ..spec.metrics import register
from .evaluate import brief

FULL = 32  # bits of a weight that is not rounded
QUALITY = ("accuracy", "nll", "rmse")


@register("bits")
@torch.no_grad()
def bits_of(network: nn.Module, posterior: Gaussian, mask: Mask, data: Data) -> dict[str, float]:
    """Bits of a kept weight on the average, what that saves, and the quality of the network with rounded weights.

    Columns: `bits_per_weight`; `bits_compression`: bits of all prunable weights before over those of the kept ones now,
    without what it takes to say which these are; `bits_accuracy` and `bits_nll`, or `bits_rmse`. Layers whose weights
    the posterior does not know keep 32 bits.
    """
    small, spent, kept = copied(network), 0, 0
    for name, weight in prunable(small).items():
        stays = mask.tensors[name].to(weight.device) if name in mask.tensors else torch.ones_like(weight).bool()
        own, count = weight[stays], int(stays.sum())
        kept += count
        step = grid(posterior.variance[name].to(weight.device)[stays]) if name in posterior.variance and count else 0.0
        if step:
            weight[stays] = rounded(own, step)
        spent += count * (bits(own, step) if step else FULL)
    found = brief(small, data)
    whole = FULL * sum(weight.numel() for weight in prunable(small).values())
    return {
        **({"bits_per_weight": spent / kept, "bits_compression": whole / spent} if kept else {}),
        **{f"bits_{name}": found[name] for name in QUALITY if name in found},
    }
