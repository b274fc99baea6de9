"""Compaction: cut removed units out of the tensors, so that the network is smaller and computes the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from torch import Tensor, nn

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs
from ..declared.groups import load_declarations
from ..layers.resize import resize
from ..layers.settled import settle_
from ..layers.sized import resized_
from ..layers.spread import spread_
from ..running.plain import copied
from ..units.mask import Mask
from ..units.prunable import all_tensors
from ..units.slices import Slice
from ..units.vector import Units
from .folding import add_to_bias, constants, settled


def compact(network: nn.Module, mask: Mask, example: Inputs | None = None) -> nn.Module:
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
    small = copied(network)
    small.zero_grad(set_to_none=True)
    cut(small, mask, stays, partial(_put, small))
    for name, shift in shifts.items():
        add_to_bias(small.get_submodule(name), shift)
    return small


def _put(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a parameter or buffer, in place, other values of whatever shape."""
    path, _, leaf = name.rpartition(".")
    getattr(network.get_submodule(path), leaf).data = tensor


def _check(network: nn.Module, mask: Mask) -> None:
    if not mask.units.removable:
        raise UsageError("single weights can be masked but not cut out; compaction needs units: groups")
    if collapsed := mask.collapsed():
        raise UsageError(f"cannot compact: the mask removes all of {collapsed[0]!r}; keep at least one unit")
    tensors = all_tensors(network)
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


def cut(
    network: nn.Module, mask: Mask, stays: Mapping[tuple[str, int], Tensor], put: Callable[[str, Tensor], object]
) -> None:
    """Cut, in place, what does not stay; `put` takes the name of a tensor and what stays of it."""
    for path in settled(mask):
        settle_(network.get_submodule(path))
    tensors = all_tensors(network)
    for (name, axis), stay in stays.items():
        if name not in tensors:  # what the weights of a layer that has been settled were computed from
            continue
        tensors[name] = tensors[name].detach().index_select(axis, stay.nonzero().flatten().to(tensors[name].device))
        put(name, tensors[name])
    _recount(network, mask)
    _regroup(network, mask, stays)
    for module in network.modules():
        resize(module)
    _spread_out(network, mask, stays)


def _recount(network: nn.Module, mask: Mask) -> None:
    """Let the numbers that modules keep of their units say how many are left, in place."""
    for group, kept in zip(mask.units.groups, mask.units.split(mask.kept), strict=True):
        for count in group.counts:
            fewer = int(count.lost[~kept.to(count.lost.device)].sum())
            own = vars(network.get_submodule(count.module))
            value = own[count.attribute]
            if count.place < 0:
                own[count.attribute] = value - fewer
            else:
                parts = [each - fewer * (i == count.place) for i, each in enumerate(value)]
                own[count.attribute] = type(value)(parts)
    for module, calls in _sized_calls(mask).items():
        resized_(network.get_submodule(module), tuple(itertools.chain.from_iterable(calls)))


def _regroup(network: nn.Module, mask: Mask, stays: Mapping[tuple[str, int], Tensor]) -> None:
    """Let grouped convolutions lose whole groups where no group of units counts them, in place."""
    counted = {count.module for group in mask.units.groups for count in group.counts if count.attribute == "groups"}
    for name, axis in stays:
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        if not isinstance(module, nn.modules.conv._ConvNd) or module.groups == 1:
            continue
        if (leaf, axis) == ("weight", 0) and path not in counted:
            before = module.in_channels if module.transposed else module.out_channels
            module.groups = len(module.weight) * module.groups // before


def _sized_calls(mask: Mask) -> dict[str, list[tuple[int, int, int]]]:
    """What sizes the forward passes of modules are told: by path, the call, the place, and the size."""
    sizes: dict[tuple[str, int, int], int] = {}
    for group, kept in zip(mask.units.groups, mask.units.split(mask.kept), strict=True):
        for call in group.calls:
            key = call.module, call.call, call.place
            sizes[key] = sizes.get(key, call.size) - int(call.lost[~kept.to(call.lost.device)].sum())
    found: dict[str, list[tuple[int, int, int]]] = {}
    for (module, call, place), size in sizes.items():
        found.setdefault(module, []).append((call, place, size))
    return found


def _spread_out(network: nn.Module, mask: Mask, stays: Mapping[tuple[str, int], Tensor]) -> None:
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
