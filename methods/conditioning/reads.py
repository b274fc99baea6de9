"""What a unit is conditioned on: the weights that read it, unless those that write it are asked for.

A neuron owns rows that write it and columns that read it. Once nothing reads it the outputs do not depend on the rest,
which leaves for nothing; conditioning on the rows too would count a second, spurious cost, and move other neurons for
it. Single weights, and units that are only written (`Group.spread`), are all that there is of them. Papers on Kronecker
factors condition on what writes a unit ("writes"); what reads it then leaves for nothing, as its input is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ...architectures.units.slices import Elementwise, Group, Slice
from ...architectures.units.vector import Units
from ..closed_forms.flat import named
from ..noise.carriers import is_read

Piece = Slice | Elementwise
Through = Literal["reads", "writes"]


def deciding(network: nn.Module, group: Group, through: Through = "reads") -> list[Piece]:
    """The slices of a group on which its units are conditioned; none where they cannot be told apart.

    That is so for what a recurrent layer, a grouped convolution or a tensor under two names reads.
    """
    if group.spread or any(isinstance(piece, Elementwise) for piece in group.slices):
        return list(group.slices)
    modules = [network.get_submodule(piece.name.rpartition(".")[0]) for piece in group.slices]
    if any(isinstance(module, nn.RNNBase) for module in modules):
        return []
    names = _names(network)
    found = [piece for piece in group.slices if is_read(network, piece) == (through == "reads")]
    return [] if any(names[id(network.get_parameter(piece.name))] > 1 for piece in found) else found


def unread(network: nn.Module, units: Units, through: Through = "reads") -> list[str]:
    """Names of the groups whose units leave without the others being adjusted."""
    return [group.name for group in units.groups if not deciding(network, group, through)]


def entries(units: Units, kept: Tensor, like: Mapping[str, Tensor]) -> Tensor:
    """Which parameters stay when the units `kept`, boolean (units.n,), do; boolean (P,), in the order of `like`."""
    return _flat(units.scatter(kept), like)


def places(units: Units, like: Mapping[str, Tensor]) -> Tensor:
    """Where every single weight is in the order of `like`; int64, (units.n,)."""
    order = named(torch.arange(sum(t.numel() for t in like.values())), like)
    return torch.cat([order[name].flatten() for name in units.layer_names])


def leaving_freely(
    network: nn.Module, units: Units, kept: Tensor, like: Mapping[str, Tensor], through: Through = "reads"
) -> Tensor:
    """What leaves with its unit without being conditioned on, boolean (P,)."""
    stays: dict[str, Tensor] = {}
    for group, part in zip(units.groups, units.split(kept), strict=True):
        decisive = {id(piece) for piece in deciding(network, group, through)}
        for piece in group.slices:
            if id(piece) not in decisive:
                mask = piece.mask(part)
                stays[piece.name] = stays[piece.name] & mask if piece.name in stays else mask
    return ~_flat(stays, like)


def positions(network: nn.Module, units: Units, through: Through = "reads") -> Iterator[tuple[Group, list[Piece]]]:
    """Every group, and what its units are conditioned on."""
    for group in units.groups:
        yield group, deciding(network, group, through)


def _flat(masks: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    parts = [masks.get(name, torch.ones_like(t, dtype=torch.bool)).to(t.device) for name, t in like.items()]
    return torch.cat([part.flatten() for part in parts])


def _names(network: nn.Module) -> Counter[int]:
    return Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
