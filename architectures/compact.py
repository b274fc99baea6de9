"""Compaction: cut removed units out of the tensors, so that the network is smaller and computes the same."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator

from torch import Tensor, nn

from ..datasets.registry import UsageError
from .groups import load_declarations
from .mask import Mask
from .slices import Slice
from .units import Units


def compact(network: nn.Module, mask: Mask) -> nn.Module:
    """A smaller copy of `network` that computes what `network` computes under `mask`.

    Raises UsageError for a mask over single weights, a mask of another network, and a mask that removes
    every unit of a group, naming the group.
    """
    _check(network, mask)
    load_declarations(network)
    small = copy.deepcopy(network)
    small.zero_grad(set_to_none=True)
    tensors = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers())
    for (name, axis), stay in _positions(mask).items():
        tensor = tensors[name]
        tensor.data = tensor.data.index_select(axis, stay.nonzero().flatten().to(tensor.device))
    for module in small.modules():
        resize(module)
    return small


def _check(network: nn.Module, mask: Mask) -> None:
    if not mask.units.removable:
        raise UsageError("single weights can be masked but not cut out; compaction needs units: groups")
    if collapsed := mask.collapsed():
        raise UsageError(f"cannot compact: the mask removes all of {collapsed[0]!r}; keep at least one unit")
    tensors = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
    for name, shape in mask.units.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != tuple(shape):
            raise UsageError(f"the mask is of another network: {name} is {found}, expected {tuple(shape)}")


def _positions(mask: Mask) -> dict[tuple[str, int], Tensor]:
    """Positions that stay, for every (tensor, axis) that loses some."""
    positions: dict[tuple[str, int], Tensor] = {}
    for piece, kept in _pieces(mask.units, mask.kept):
        key, stay = (piece.name, piece.axis), piece.positions(kept)
        positions[key] = positions[key] & stay if key in positions else stay
    return {key: stay for key, stay in positions.items() if not bool(stay.all())}


def _pieces(units: Units, kept: Tensor) -> Iterator[tuple[Slice, Tensor]]:
    for group, part in zip(units.groups, units.split(kept), strict=True):
        for piece in (*group.slices, *group.buffers):
            if isinstance(piece, Slice):
                yield piece, part


@functools.singledispatch
def resize(module: nn.Module) -> None:
    """Make a module's size attributes agree with its tensors; an architecture registers its own classes."""


@resize.register
def _(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@resize.register
def _(module: nn.modules.conv._ConvNd) -> None:
    # Axis 0 of the weight counts channels, axis 1 the channels per group. Of a grouped convolution whole
    # groups leave, so that axis 0 shrinks with the number of groups.
    if module.groups > 1:
        before = module.in_channels if module.transposed else module.out_channels
        module.groups = module.weight.shape[0] * module.groups // before
    sizes = (module.weight.shape[0], module.weight.shape[1] * module.groups)
    module.in_channels, module.out_channels = sizes if module.transposed else sizes[::-1]


@resize.register
def _(module: nn.modules.batchnorm._NormBase) -> None:
    per_channel = module.weight if module.weight is not None else module.running_mean
    if per_channel is not None:
        module.num_features = len(per_channel)


@resize.register
def _(module: nn.GroupNorm) -> None:
    per_group = module.num_channels // module.num_groups
    if module.weight is not None:
        module.num_channels = len(module.weight)
        module.num_groups = module.num_channels // per_group


@resize.register
def _(module: nn.LayerNorm) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
