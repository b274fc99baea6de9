"""Groups of units that a network can lose, as its class declares them.

An architecture registers one function of a few lines,

    @groups.register
    def mlp_groups(network: MLP) -> tuple[Group, ...]: ...

built from `parallel`, which states a group by the modules that write, normalise and read its units.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ...datasets.errors import UsageError
from ..layers.spread import is_spread
from ..units.slices import Group, Slice

# Classes of other packages whose groups are declared in modules of ours. Those modules are imported when
# such a network is met, so that asking for units never loads timm by itself.
_DECLARED_IN = {
    "timm.layers.attention": "..vit",
    "timm.models.vision_transformer": "..vit",
    "timm.models.mlp_mixer": "..mixer",
}


@functools.singledispatch
def groups(network: nn.Module) -> tuple[Group, ...]:
    """The groups that the class of `network` declares; none if it is a class of others."""
    return ()


def declared_groups(network: nn.Module) -> tuple[Group, ...]:
    """The same, whoever made the class: modules of ours that declare the groups of other packages are imported."""
    load_declarations(network)
    return groups(network)


def declares(network: nn.Module) -> bool:
    """Whether the class of `network` says which groups it has, if only that it has none."""
    load_declarations(network)
    return groups.dispatch(type(network)) is not groups.dispatch(object)


def load_declarations(network: nn.Module) -> None:
    """Import the modules of ours that declare the groups of classes that `network` is made of."""
    for kind in {type(module) for module in network.modules()}:
        for home in {_DECLARED_IN[parent.__module__] for parent in kind.__mro__ if parent.__module__ in _DECLARED_IN}:
            importlib.import_module(home, __package__)


def within(path: str, group: Group) -> Group:
    """`group` of a module, as a group of the network in which the module is called `path`."""
    name = f"{path}.{group.name}" if " " in group.name else f"{path} {group.name}"
    slices = tuple(replace(part, name=f"{path}.{part.name}") for part in group.slices)
    buffers = tuple(replace(part, name=f"{path}.{part.name}") for part in group.buffers)
    spread = group.spread and f"{path}.{group.spread}"
    return replace(group, name=name, slices=slices, buffers=buffers, spread=spread)


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

    Raises UsageError where a writer has lost outputs of its own, which those that read them still have.
    """
    if reads and (cut_before := [name for name in (*writes, *norms) if is_spread(network.get_submodule(name))]):
        raise UsageError(
            f"{cut_before[0]!r} has lost some of what it adds to its residual stream, so that channels of the stream "
            "are no units any more: prune these first, or choose other units"
        )
    size = len(network.get_parameter(f"{writes[0]}.weight")) // per_unit

    def cut(axis: int, modules: Sequence[str], *parts: str) -> tuple[Slice, ...]:
        named = {f"{m}.{part}": getattr(network.get_submodule(m), part) for m in modules for part in parts}
        return tuple(runs(n, axis, size, tensor.shape) for n, tensor in named.items() if tensor is not None)

    slices = cut(0, [*writes, *norms], "weight", "bias") + cut(1, reads, "weight")
    return Group(name, kind, slices, cut(0, _tracking(network, norms), "running_mean", "running_var"))


def _tracking(network: nn.Module, norms: Sequence[str]) -> list[str]:
    return [name for name in norms if isinstance(network.get_submodule(name), nn.modules.batchnorm._NormBase)]


def runs(name: str, axis: int, size: int, shape: torch.Size) -> Slice:
    """A slice whose n = `size` units own equal, consecutive runs of positions along `axis`.

    Raises ValueError where the axis is no multiple of the size.
    """
    if shape[axis] % size:
        raise ValueError(f"axis {axis} of {name} has {shape[axis]} positions, not a multiple of {size}")
    return Slice(name, axis, torch.arange(shape[axis]).view(size, -1), shape)
