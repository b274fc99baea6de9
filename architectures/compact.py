"""Compaction: cut removed units out of the tensors, so that the network is smaller and computes the same."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from ..datasets.registry import UsageError
from .folding import add_to_bias, constants
from .groups import load_declarations
from .mask import Mask
from .slices import Slice
from .spread import spread_
from .units import Units


def compact(network: nn.Module, mask: Mask, example: Tensor | None = None) -> nn.Module:
    """A smaller copy of `network` that computes what `network` computes under `mask`.

    Args:
        network: The network, masked or not yet; it is left as it is.
        mask: The units that stay.
        example: A batch of inputs. With it, constants that removed units still emit in evaluation mode are
            folded into the biases of the layers that read them.

    Raises:
        UsageError: a mask over single weights, a mask of another network, a mask that removes every unit
            of a group, or a contribution that cannot be folded, naming the group or layer.
    """
    _check(network, mask)
    load_declarations(network)
    stays = positions(mask)
    shifts = {} if example is None else constants(network, mask, stays, example)
    small = copy.deepcopy(network)
    small.zero_grad(set_to_none=True)
    tensors = _tensors(small)
    for (name, axis), stay in stays.items():
        tensor = tensors[name]
        tensor.data = tensor.data.index_select(axis, stay.nonzero().flatten().to(tensor.device))
    for module in small.modules():
        resize(module)
    spread_out(small, mask, stays)
    for name, shift in shifts.items():
        add_to_bias(small.get_submodule(name), shift)
    return small


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())


def _check(network: nn.Module, mask: Mask) -> None:
    if not mask.units.removable:
        raise UsageError("single weights can be masked but not cut out; compaction needs units: groups")
    if collapsed := mask.collapsed():
        raise UsageError(f"cannot compact: the mask removes all of {collapsed[0]!r}; keep at least one unit")
    tensors = _tensors(network)
    for name, shape in mask.units.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        if found != tuple(shape):
            raise UsageError(f"the mask is of another network: {name} is {found}, expected {tuple(shape)}")


def positions(mask: Mask) -> dict[tuple[str, int], Tensor]:
    """Positions that stay, for every (tensor, axis) that loses some."""
    stays: dict[tuple[str, int], Tensor] = {}
    for piece, kept in _pieces(mask.units, mask.kept):
        key, stay = (piece.name, piece.axis), piece.positions(kept)
        stays[key] = stays[key] & stay if key in stays else stay
    return {key: stay for key, stay in stays.items() if not bool(stay.all())}


def spread_out(network: nn.Module, mask: Mask, stays: Mapping[tuple[str, int], Tensor]) -> None:
    """Let the layers whose outputs keep their width put zeros in the places of those that were cut, in place."""
    for name in {group.spread for group in mask.units.groups} - {""}:
        if (stay := stays.get((f"{name}.weight", 0))) is not None:
            layer = network.get_submodule(name)
            spread_(layer, stay.to(layer.get_parameter("weight").device))


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


@resize.register
def _(module: nn.RNNBase) -> None:
    rows, module.input_size = module.get_parameter("weight_ih_l0").shape
    module.hidden_size = rows // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)


@resize.register
def _(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape
