"""What looks like a group: what parts of a network declare, and what tracing says of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..declared.groups import declared_groups, within
from ..units.slices import Group, SizedCall, Slice
from .counts import counts_of
from .families import Family, families
from .follow import Flow
from .positions import Site
from .sizings import sized_calls
from .streams import NORMS, Streams

_LONELY = "it is a single unit, and one has to stay"
_KINDS: dict[type[nn.Module], str] = {nn.modules.conv._ConvNd: "filter", nn.Embedding: "channel"}


@dataclass(frozen=True, eq=False)
class Proposal:
    """Something that looks like a group, and why it is none: then without the group itself."""

    name: str
    reason: str
    group: Group | None
    calls: Sequence[SizedCall] = ()


def proposals(network: nn.Module, flow: Flow, held: Mapping[str, str], tensors: Mapping[str, Tensor]) -> list[Proposal]:
    """What parts of the network declare, then what tracing says of the rest."""
    found: list[Proposal] = []
    taken: set[tuple[str, int]] = set()
    for path, module in network.named_modules():
        for group in (within(path, own) for own in declared_groups(module) if path):
            cut = {(part.name, part.axis) for part in group.slices if isinstance(part, Slice)}
            reason = next((held[name] for name, _ in sorted(cut) if name in held), "")
            if not cut & taken:
                found.append(Proposal(group.name, reason, None if reason else group))
                taken |= cut
    modules = dict(network.named_modules())
    traced = families(flow.positions, list(tensors), lambda site: layer_of(site, modules))
    calls = sized_calls(flow, network, traced)
    streams = Streams(network, flow.steps)
    added = {step.layer for step in streams.layers() if streams.is_added(step)}
    for family in traced:
        family = replace(family, kind="hidden") if _is_hidden(family, modules, added) else family
        reason = family.reason or (_LONELY if family.size == 1 else "")
        if not taken.intersection((site.name, site.axis) for site, _ in family.parts):
            group = None if reason else family.group(tensors, counts_of(flow, family))
            found.append(Proposal(family.name, reason, group, calls.get(family.name, ())))
    return found


def _is_hidden(family: Family, modules: Mapping[str, nn.Module], added: set[str]) -> bool:
    """Whether units lie between linear layers, norms aside, of which the last is added to a residual stream."""
    owners = {path: modules[path] for path in (site.name.rpartition(".")[0] for site, _ in family.parts)}
    linear = {path for path, module in owners.items() if _is_linear(module)}
    writes = {site.name.rpartition(".")[0] for site, _ in family.parts if site.writes}
    others = [module for path, module in owners.items() if path not in linear]
    reads = linear - writes
    return family.kind != "head" and bool(reads) and reads <= added and all(isinstance(each, NORMS) for each in others)


def _is_linear(module: nn.Module) -> bool:
    is_pointwise = isinstance(module, nn.modules.conv._ConvNd) and {*module.kernel_size, module.groups} == {1}
    return isinstance(module, nn.Linear) or is_pointwise


def layer_of(site: Site, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    """The layer that an axis belongs to, and what one of its outputs is called; a bare parameter is a layer itself."""
    path, _, _ = site.name.rpartition(".")
    module = modules[path]
    kind = next((kind for of, kind in _KINDS.items() if isinstance(module, of)), "neuron")
    is_layer = isinstance(module, nn.Module) and type(module).__module__.startswith("torch.nn.modules")
    return (path if is_layer or site.name.endswith(".weight") else site.name), kind
