"""Which groups of units a network can lose: each architecture declares its own, beside its forward pass.

An architecture registers one function of a few lines,

    @groups.register
    def mlp_groups(network: MLP) -> tuple[Group, ...]: ...

built from `parallel`, which states a group by the modules that write, normalise and read its units.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence

import torch
from torch import nn

from ..datasets.registry import UsageError
from .slices import Group, Slice

# Classes of other packages whose groups are declared in modules of ours. Those modules are imported when
# such a network is met, so that asking for units never loads timm by itself.
_DECLARED_IN = {"timm.models.vision_transformer": ".vit", "timm.models.mlp_mixer": ".mixer"}


@functools.singledispatch
def groups(network: nn.Module) -> tuple[Group, ...]:
    """The groups of units that can be removed from `network` without changing what stays.

    Raises UsageError where the groups of this class of network are not known.
    """
    if load_declarations(network):
        return groups.dispatch(type(network))(network)
    raise UsageError(
        f"groups of {type(network).__name__} are not known; its weights can still be pruned (units: weights)"
    )


def load_declarations(network: nn.Module) -> bool:
    """Import the module of ours that declares the groups of `network`'s class; say whether one was new."""
    homes = {_DECLARED_IN.get(parent.__module__) for parent in type(network).__mro__} - {None}
    missing = [home for home in homes if home and f"{__package__}{home}" not in sys.modules]
    for home in missing:
        importlib.import_module(home, __package__)
    return bool(missing)


def parallel(
    network: nn.Module,
    name: str,
    kind: str,
    *,
    writes: Sequence[str],
    norms: Sequence[str] = (),
    reads: Sequence[str],
    per_unit: int = 1,
) -> Group:
    """A group of units, stated by the names of the modules that touch them.

    Each tensor is cut along its axis into equal runs of consecutive positions, one run per unit: single
    rows for neurons, whole normalisation groups of channels under GroupNorm, and k columns per channel
    where a convolution is flattened into a linear layer.

    Args:
        network: The network, from which shapes are read.
        name: Name of the group, unique in the network.
        kind: What one unit is called.
        writes: Linear or convolution modules that compute the units (axis 0 of weight and bias).
        norms: Norm modules between writer and reader (weight, bias and running statistics).
        reads: Linear or convolution modules that use the units (axis 1 of the weight).
        per_unit: Rows of a writer that make one unit.
    """
    size = len(network.get_parameter(f"{writes[0]}.weight")) // per_unit

    def cut(axis: int, modules: Sequence[str], *parts: str) -> tuple[Slice, ...]:
        named = {f"{m}.{part}": getattr(network.get_submodule(m), part) for m in modules for part in parts}
        return tuple(runs(n, axis, size, tensor.shape) for n, tensor in named.items() if tensor is not None)

    slices = cut(0, [*writes, *norms], "weight", "bias") + cut(1, reads, "weight")
    return Group(name, kind, slices, cut(0, _tracking(network, norms), "running_mean", "running_var"))


def _tracking(network: nn.Module, norms: Sequence[str]) -> list[str]:
    return [name for name in norms if isinstance(network.get_submodule(name), nn.modules.batchnorm._NormBase)]


def runs(name: str, axis: int, size: int, shape: torch.Size) -> Slice:
    """A slice whose n = `size` units own equal, consecutive runs of positions along `axis`."""
    if shape[axis] % size:
        raise ValueError(f"axis {axis} of {name} has {shape[axis]} positions, not a multiple of {size}")
    return Slice(name, axis, torch.arange(shape[axis]).view(size, -1), shape)
