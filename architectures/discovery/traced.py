"""Groups of any network: proposed by following the positions through a forward pass, kept if a trial confirms them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from ...datasets.errors import UsageError, first_line
from ..declared.groups import declared_groups, within
from ..running.call import Inputs, called, tensors_in
from ..running.loan import lent, randomise_
from ..running.modes import unfused
from ..units.prunable import all_tensors
from ..units.slices import Count, Group, SizedCall, Slice
from . import moves, pointwise, products, reductions
from .agreements import settle
from .counts import counts_of
from .double import in_double
from .families import Family, families
from .follow import Flow, Follow, tracks_of
from .numbers import LAYER_SIZES, Need, Number, Passing, follow_numbers
from .positions import Positions, Site, Track, support
from .sizings import needs_of, sized_calls
from .streams import NORMS, Streams
from .trial import Trial, kind_of
from .watch import Watch

EXAMPLES = 2  # rows of the example that are used: more cost time and show nothing more
OUTPUT = "the outputs of the network stay"
FAILED = "the network computes something else, or nothing, when they are cut out: an operation mixes or counts them"
_UNDECLARED = "the class of the network does not declare it"
_LONELY = "it is a single unit, and one has to stay"
_RULES = (moves, pointwise, products, reductions)  # imported for the rules that they register
_KINDS: dict[type[nn.Module], str] = {nn.modules.conv._ConvNd: "filter", nn.Embedding: "channel"}


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
        found = families(trace.flow.positions, list(all_tensors(network)), lambda site: _layer_of(site, modules))
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
        return _proposals(self.network, self.flow, self.held, all_tensors(self.network))

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
    _check(network, example)
    held = _held(network)
    generator = torch.Generator().manual_seed(0)
    rng = [tensor.device for tensor in tensors_in(example) if tensor.is_cuda][:1]
    with lent(network), torch.random.fork_rng(rng), torch.inference_mode(False), torch.no_grad():
        randomise_(network.eval(), torch.float64, generator)
        x = _inputs(network, example, generator)
        flow, trains = _followed(network, x)
        for site in flow.positions.sites:
            if site.name in held:
                flow.positions.stay(site.nodes, held[site.name], above_all=True)
        settle(flow.positions, flow.agreements)
        flow.needs.extend(needs_of(flow))
        yield Trace(network, x, flow, held, generator, trains)


@dataclass(frozen=True, eq=False)
class Proposal:
    """Something that looks like a group, and why it is none: then without the group itself."""

    name: str
    reason: str
    group: Group | None
    calls: Sequence[SizedCall] = ()


def _proposals(
    network: nn.Module, flow: Flow, held: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> list[Proposal]:
    """What parts of the network declare, then what tracing says of the rest."""
    proposals: list[Proposal] = []
    taken: set[tuple[str, int]] = set()
    for path, module in network.named_modules():
        for group in (within(path, own) for own in declared_groups(module) if path):
            cut = {(part.name, part.axis) for part in group.slices if isinstance(part, Slice)}
            reason = next((held[name] for name, _ in sorted(cut) if name in held), "")
            if not cut & taken:
                proposals.append(Proposal(group.name, reason, None if reason else group))
                taken |= cut
    modules = dict(network.named_modules())
    found = families(flow.positions, list(tensors), lambda site: _layer_of(site, modules))
    calls = sized_calls(flow, network, found)
    streams = Streams(network, flow.steps)
    added = {step.layer for step in streams.layers() if streams.is_added(step)}
    for family in found:
        family = replace(family, kind="hidden") if _is_hidden(family, modules, added) else family
        reason = family.reason or (_LONELY if family.size == 1 else "")
        if not taken.intersection((site.name, site.axis) for site, _ in family.parts):
            group = None if reason else family.group(tensors, counts_of(flow, family))
            proposals.append(Proposal(family.name, reason, group, calls.get(family.name, ())))
    return proposals


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


def _layer_of(site: Site, modules: Mapping[str, nn.Module]) -> tuple[str, str]:
    """The layer that an axis belongs to, and what one of its outputs is called; a bare parameter is a layer itself."""
    path, _, _ = site.name.rpartition(".")
    module = modules[path]
    kind = next((kind for of, kind in _KINDS.items() if isinstance(module, of)), "neuron")
    is_layer = isinstance(module, nn.Module) and type(module).__module__.startswith("torch.nn.modules")
    return (path if is_layer or site.name.endswith(".weight") else site.name), kind


def _check(network: nn.Module, example: Inputs) -> None:
    given = [example] if isinstance(example, Tensor) else pytree.tree_leaves(example)
    for each in given:
        if not isinstance(each, Tensor) or not each.dim() or not len(each):
            got = f"shape {tuple(each.shape)}" if isinstance(each, Tensor) else type(example).__name__
            raise UsageError(f"example inputs must be tensors of shape (n, ...) with n >= 1, got {got}")
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f"layer {name!r} is a compiled script, which cannot be traced; give the nn.Module itself")
    for name, parameter in network.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UsageError(f"{name} has no shape yet; run the network once before its groups are asked for")
    if len(_dtypes(network)) > 1:
        first, other = _dtypes(network)[:2]
        name = next(name for name, p in network.named_parameters() if p.dtype == other)
        raise UsageError(f"{name} is {other} beside parameters of {first}; convert the network to one type, .float()")


def _dtypes(network: nn.Module) -> list[torch.dtype]:
    return list(dict.fromkeys(p.dtype for p in network.parameters() if p.is_floating_point()))


def _held(network: nn.Module) -> dict[str, str]:
    """Parameters that may not be cut, by name, with the reason."""
    named = dict(network.named_parameters(remove_duplicate=False))
    owners = Counter(parameter.data_ptr() for parameter in named.values() if parameter.numel())
    frozen = {name: f"{name} is frozen" for name, p in named.items() if not p.requires_grad}
    shared = {name: f"{name} is shared by several layers" for name, p in named.items() if owners[p.data_ptr()] > 1}
    return frozen | shared


def _inputs(network: nn.Module, example: Inputs, generator: torch.Generator) -> Inputs:
    """A few of the inputs; random ones in the place of constants, which would show too little."""
    return pytree.tree_map_only(Tensor, lambda tensor: _input(network, tensor, generator), example)


def _input(network: nn.Module, example: Tensor, generator: torch.Generator) -> Tensor:
    device = next((p.device for p in network.parameters()), example.device)
    x = example[:EXAMPLES].detach().clone()
    if not x.is_floating_point():
        return x.to(device)
    if bool((x == x.flatten()[0]).all()):
        x = torch.randn(x.shape, generator=generator)
    return x.to(device, torch.float64)


def _followed(network: nn.Module, x: Inputs) -> tuple[Flow, bool]:
    """What a forward pass shows; and one in training mode, if there are layers that compute in that mode only."""
    flow = Flow()
    _pass(network, x, flow)
    idle = [name for name, p in network.named_parameters() if name not in flow.used]
    if idle:
        with lent(network):
            _pass(network.train(), x, flow)
    for recurrent in (module for module in network.modules() if isinstance(module, nn.RNNBase)):
        _same_width(flow.positions, network, recurrent)
    return flow, any(name in flow.used for name in idle)


def _same_width(positions: Positions, network: nn.Module, recurrent: nn.RNNBase) -> None:
    """All layers and directions of a recurrent layer have one width: their units leave together, place by place."""
    path = next(name for name, module in network.named_modules() if module is recurrent)
    names = [f"{path}.{name}".lstrip(".") for name, _ in recurrent.named_parameters() if name.startswith("weight_hh")]
    axes = [site.nodes for name in names for site in positions.sites_of(name) if site.axis == 1]
    for other in axes[1:]:
        positions.tie(axes[0], other)


def _pass(network: nn.Module, x: Inputs, flow: Flow) -> None:
    with lent(network), ExitStack() as stack:
        follow = Follow(network, flow)
        watch = Watch(network)
        _count_channels(network, flow)
        follow_numbers(network)
        fast = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        passing = Passing(watch, follow.numbers, flow)
        for context in (unfused(), sdpa_kernel(SDPBackend.MATH), in_double(), follow, passing, watch):
            stack.enter_context(context)
        try:
            result = called(network, pytree.tree_map_only(Tensor, lambda t: follow.follow(watch.follow(t.clone())), x))
        except UsageError:
            raise
        except Exception as error:
            given = " and ".join(f"inputs of shape {tuple(t.shape)} and type {t.dtype}" for t in tensors_in(x))
            raise UsageError(f"{type(network).__name__} cannot take {given}: {first_line(error)}") from error
    outputs = [tracks for leaf in pytree.tree_leaves(result) if (tracks := tracks_of(leaf)) is not None]
    if not flow.used:
        raise UsageError(f"no output of {type(network).__name__} can be differentiated by its parameters")
    for track in (track for tracks in outputs for track in tracks):
        flow.positions.stay(track, OUTPUT, above_all=True)


def _count_channels(network: nn.Module, flow: Flow) -> None:
    """Let norms without tensors, which keep the number of their channels all the same, note what that counts."""

    def note(path: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for track in tracks_of(inputs[0]) or ():
            for name, rows in _counted_by(module, track):
                number = Number.read((path, name, -1), getattr(module, name))
                flow.needs.append(Need(number, rows, 0))

    for path, module in network.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.modules.batchnorm._NormBase)) and module.weight is None:
            module.register_forward_pre_hook(partial(note, path))


def _counted_by(module: nn.Module, track: Track) -> Iterator[tuple[str, Track]]:
    """The numbers that a norm keeps, each with the positions, shape (n,), that it counts."""
    if support(track) != (1,):
        return
    if isinstance(module, nn.GroupNorm):
        yield "num_channels", track.ravel()
        yield "num_groups", track.ravel()[:: module.num_channels // module.num_groups]
    elif module._buffers.get("running_mean") is None:
        yield "num_features", track.ravel()


_: Any = _RULES
