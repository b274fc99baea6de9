"""Where a method moves survivors: asked for under the seal, checked, and left to the engine to carry out."""

from __future__ import annotations

import torch
from torch import nn

from ...architectures.units.mask import Mask
from ...methods.conditioning.adjust import ADJUST
from ...methods.pruner import Adjusted, Pruner, State


class AdjustError(ValueError):
    """New weights that do not fit the network, or are not finite."""


def adjusted(pruner: Pruner, state: State, mask: Mask) -> Adjusted:
    """What the pruner's `adjust` says of a state and a mask; raises AdjustError where the network cannot take it."""
    adjust = ADJUST[pruner.adjust] if isinstance(pruner.adjust, str) else pruner.adjust
    with torch.no_grad():
        found = adjust(state, mask)
    if not isinstance(found, Adjusted):
        raise AdjustError(f"adjust must return an Adjusted, got {type(found).__name__}")
    parameters = dict(state.network.named_parameters())
    for name, value in found.tensors.items():
        if name not in parameters or value.shape != parameters[name].shape:
            raise AdjustError(f"adjust gave a tensor {name!r} of shape {tuple(value.shape)} that the network has not")
        if not torch.isfinite(value).all():
            raise AdjustError(f"adjust gave {name!r} weights that are not finite")
    return found


@torch.no_grad()
def take_(network: nn.Module, found: Adjusted) -> None:
    """Put new weights in the place of the network's, in place."""
    for name, value in found.tensors.items():
        network.get_parameter(name).copy_(value)
