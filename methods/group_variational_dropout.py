"""Sparse variational dropout of weights and of the structures they form, in feed-forward networks.

The factors of Chirkova, Lobacheva, Vetrov (EMNLP 2018, arXiv 1810.10927), who have them on the neurons of recurrent
networks, on every neuron, filter, head and hidden unit: what the network reads from a structure is multiplied by its
factor, which folds into the weights that read it (as in `noise.carriers`). A structure leaves when its factor does, or
when no weight reads it any more.

Formula: W_ij = w_ij z_i,  z_i ~ N(θ_i, σ_i²);  structure i leaves if log σ_i² / θ_i² > 3
Paper: chirkova2018bayesian, molchanov2017variational
Deviations: the paper has factors in recurrent networks; those on feed-forward structures are this suite's. The
    divergence is tempered (`kl`).
Oracle: test_group_dropout.py::test_the_penalty_is_the_sum_over_weights_and_factors_and_its_gradient_is_right,
    test_group_dropout.py::test_worth_is_the_least_of_what_a_weight_depends_on
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

from torch import nn

from ..architectures.discovery.units_of import units as units_of
from ..architectures.units.prunable import prunable
from ..architectures.units.slices import Group, Slice
from ..architectures.units.vector import Granularity, Units
from ..datasets.errors import NotApplicable, UsageError
from ..datasets.examples import Examples
from .closed_forms.posteriors import Gaussian
from .noise.carried import CarriedNoise
from .noise.carriers import carriers, carries
from .pruner import Pruner, register, structures_of
from .structured_dropout.factored import FactoredDropout, Hooks, Ties
from .structured_dropout.structures import Structure
from .structured_dropout.worth import worth
from .variational.weight_dropout import WHOLE, Form, Start


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


@register("group-variational-dropout", revision=2)
def group_variational_dropout_pruner(
    threshold: float = 3.0, form: Form = "exact", warm_up: tuple[int, int] | float = 0.5, kl: float = 0.2,
    weights: Start = "network", start: float | None = None, ties: Ties = "example",
    preset: Literal["authors"] | None = None,
) -> Pruner[Gaussian]:  # fmt: skip
    """Variational dropout of weights and of whole structures: log α below 3 stays (Chirkova et al. 2018).

    `preset: authors` has the whole divergence.
    """
    if preset == "authors":
        warm_up, kl = WHOLE
    inference = partial(GroupVariationalDropout, kl, warm_up, form=form, weights=weights, start=start, ties=ties)
    return Pruner(inference, worth, keep_above=-threshold)
