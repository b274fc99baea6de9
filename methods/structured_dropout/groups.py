"""Factors on the structures of feed-forward networks, where these are read (`noise.carriers`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from ...architectures.discovery.units_of import units as units_of
from ...architectures.units.prunable import prunable
from ...architectures.units.slices import Group, Slice
from ...architectures.units.vector import Granularity, Units
from ...datasets.errors import NotApplicable, UsageError
from ...datasets.examples import Examples
from ..noise.carried import CarriedNoise
from ..noise.carriers import carriers, carries
from ..pruner import structures_of
from .factored import FactoredDropout, Hooks
from .structures import Structure


@dataclass
class GroupVariationalDropout(FactoredDropout):
    """Variational dropout of weights, and of a factor on every structure of the network.

    Attributes:
        structures: what has factors: all "groups", or those of the kind "head" or "ffn_hidden".
    """

    structures: Granularity = "groups"

    def for_units(self, granularity: Granularity) -> Self:
        """Factors on the structures that are to be pruned; on all groups where these are single weights."""
        return replace(self, structures=structures_of(granularity))

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `FactoredDropout`; raises NotApplicable for a network without structures that can carry factors."""
        if self.structures == "residual_out":
            raise NotApplicable("group-variational-dropout has its factors where structures are read, not written")
        try:
            self.groups = units_of(network, self.structures, train[:2].x).to(train.device)
            carriers(network, self.groups)
        except UsageError as error:
            raise NotApplicable(f"{error}: use variational-dropout, which needs no structures") from error
        super().attach(network, units, train)

    def structures_of(self, network: nn.Module, train: Examples) -> tuple[list[Structure], list[Structure]]:
        """The groups of the network, all of them with factors."""
        found = [Structure(group.name, "group", *_slices(network, group)) for group in self.groups.groups]
        return found, found

    def multiplied(self, network: nn.Module) -> Hooks:
        """Noise where the structures are read."""
        return CarriedNoise(network, self.groups, lambda *call: self.draw(*call))


def _slices(network: nn.Module, group: Group) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """The weights that read a structure, and all the weights that go with it."""
    owned = tuple(_weights(network, group))
    return tuple(piece for piece in owned if carries(network, piece)), owned


def _weights(network: nn.Module, group: Group) -> Iterator[Slice]:
    names = prunable(network).keys()
    return (piece for piece in group.slices if isinstance(piece, Slice) and piece.name in names)
