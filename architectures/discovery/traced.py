"""Groups of any network: proposed by following the positions through a forward pass, kept if a trial confirms them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...datasets.trees import Inputs, tensors_in
from ..running.call import called
from ..running.loan import lent, randomise_
from ..units.prunable import all_tensors
from ..units.slices import Count, Group, SizedCall, Slice
from .agreements import settle
from .double import in_double
from .examples import check, few, held
from .families import families
from .follow import Flow
from .numbers import LAYER_SIZES
from .passes import followed
from .proposals import Proposal, layer_of, proposals
from .sizings import needs_of
from .trial import Trial, kind_of

FAILED = "the network computes something else, or nothing, when they are cut out: an operation mixes or counts them"
_UNDECLARED = "the class of the network does not declare it"


@dataclass(frozen=True, eq=False)
class Found:
    """The groups of a network, and for everything that is no group the reason, by its name."""

    groups: tuple[Group, ...]
    left_out: dict[str, str]


def find(network: nn.Module, example: Inputs) -> Found:
    """The groups of units that can be cut out of `network` exactly, whatever its weights are.

    The network is left as it is: tracing and trials work on random tensors put in the place of its own.

    Args:
        network: Any network.
        example: Some inputs, each of shape (n, ...); of floating ones only shape and kind count.

    Raises:
        UsageError: if a forward pass cannot be traced, naming the layer.
    """
    with traced(network, example) as trace:
        proposals = trace.proposals()
        confirmed = trace.confirmed_all(proposals)
    found = {group.name for group in confirmed}
    left_out = {p.name: p.reason or FAILED for p in proposals if p.name not in found}
    return Found(confirmed, left_out)


def left_beside(network: nn.Module, example: Inputs, declared: Sequence[Group]) -> dict[str, str]:
    """What tracing finds that is no part of the groups that the class of a network declares, and why it stays."""
    cut = {(part.name, part.axis) for group in declared for part in group.slices if isinstance(part, Slice)}
    with traced(network, example) as trace:
        modules = dict(network.named_modules())
        found = families(trace.flow.positions, list(all_tensors(network)), lambda site: layer_of(site, modules))
    beside = [family for family in found if not cut.intersection((site.name, site.axis) for site, _ in family.parts)]
    return {family.name: family.reason or _UNDECLARED for family in beside}


@dataclass(frozen=True, eq=False)
class Trace:
    """A lent network with random tensors, inputs for it, and what passes showed.

    Attributes:
        held: Parameters that may not be cut, by name, with the reason.
        trains: Whether there are layers that compute in training mode only.
    """

    network: nn.Module
    x: Inputs
    flow: Flow
    held: dict[str, str]
    generator: torch.Generator
    trains: bool

    def proposals(self) -> list[Proposal]:
        """All that looks like a group."""
        return proposals(self.network, self.flow, self.held, all_tensors(self.network))

    def confirmed(self, wanted: Sequence[Group]) -> tuple[Group, ...]:
        """Those groups of which any part can be cut out as if it were only masked."""
        with in_double():
            return self._trial.exact(wanted)

    def confirmed_all(self, proposals: Sequence[Proposal]) -> tuple[Group, ...]:
        """Those of all groups proposed, with whatever it takes to cut them out."""
        calls = {p.name: p.calls for p in proposals}
        with in_double():
            groups = self._trial.adapted([p.group for p in proposals if p.group is not None], calls)
            return self._trial.exact(self._counted(groups, calls))

    def _counted(self, groups: Sequence[Group], calls: Mapping[str, Sequence[SizedCall]]) -> list[Group]:
        """The groups, without the numbers that modules keep of them where other things are computed from these.

        Numbers follow the units where they can. If the first group of a kind is right only while its numbers are left
        alone, and the sizes computed from them replaced, so are all of its kind.
        """
        first = {kind_of(group): group for group in reversed(groups) if _own(group) and calls[group.name]}
        alone = {kind: self._alone([group], calls)[0] for kind, group in first.items()}
        failed = {kind for kind, group in first.items() if not self._trial.agrees((group,))}
        left = {kind for kind in failed if self._trial.agrees((alone[kind],))}
        changed = self._alone([group for group in groups if kind_of(group) in left], calls)
        replaced = {group.name: group for group in changed}
        return [replaced.get(group.name, group) for group in groups]

    def _alone(self, groups: Sequence[Group], calls: Mapping[str, Sequence[SizedCall]]) -> list[Group]:
        bare = [replace(group, counts=tuple(c for c in group.counts if c not in _own(group))) for group in groups]
        return self._trial.adapted(bare, calls)

    @property
    def _trial(self) -> Trial:
        return Trial(self.network, lambda network: called(network, self.x), self.generator, self.trains)


def _own(group: Group) -> tuple[Count, ...]:
    """The numbers that modules keep, without those that layers of torch keep of themselves."""
    return tuple(count for count in group.counts if count.attribute not in LAYER_SIZES)


@contextmanager
def traced(network: nn.Module, example: Inputs) -> Iterator[Trace]:
    """Lend the network, and trace it in float64; see `find` for arguments and errors."""
    check(network, example)
    frozen = held(network)
    generator = torch.Generator().manual_seed(0)
    rng = [tensor.device for tensor in tensors_in(example) if tensor.is_cuda][:1]
    with lent(network), torch.random.fork_rng(rng), torch.inference_mode(False), torch.no_grad():
        randomise_(network.eval(), torch.float64, generator)
        x = few(network, example, generator)
        flow, trains = followed(network, x)
        for site in flow.positions.sites:
            if site.name in frozen:
                flow.positions.stay(site.nodes, frozen[site.name], above_all=True)
        settle(flow.positions, flow.agreements)
        flow.needs.extend(needs_of(flow))
        yield Trace(network, x, flow, frozen, generator, trains)
