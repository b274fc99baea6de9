"""Input features as units: the columns of the first layer of a network for tables."""

from __future__ import annotations

import torch
from torch import nn

from ...datasets.errors import UsageError
from .prunable import prunable
from .slices import Group, Slice
from .vector import Units


def feature_units(network: nn.Module) -> Units:
    """Each unit is the column of one input feature; raises UsageError unless a linear layer comes first."""
    weights = prunable(network)
    name = next(iter(weights), "")
    first = network.get_submodule(name.rpartition(".")[0])
    if not isinstance(first, nn.Linear):
        raise UsageError(
            f"the first layer of {type(network).__name__} with weights is no linear layer: it does not read features "
            "of a table one by one"
        )
    shape = weights[name].shape
    column = Slice(name, 1, torch.arange(shape[1]).unsqueeze(1), shape)
    return Units((Group("features", "feature", (column,)),))
