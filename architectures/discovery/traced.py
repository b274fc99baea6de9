"""Groups of any network: proposed by the dependency graph of one forward pass, kept if a trial confirms them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...datasets.errors import UsageError, first_line
from ..declared.groups import declared_groups, within
from ..running.loan import lent, randomise_
from ..units.prunable import all_tensors
from ..units.slices import Group, Slice
from .dependency import couplings
from .families import families
from .sites import Edge, Site
from .trial import exact
from .watch import Watch

EXAMPLES = 2  # rows of the example that are used: enough to tell the batch axis from the others
FAILED = "the network computes something else, or nothing, when they are cut out: an operation mixes or counts them"
_LONELY = "it is a single unit, and one has to stay"
_WHOLE: dict[type[nn.Module], tuple[str, str]] = {
    nn.MultiheadAttention: ("heads", "nn.MultiheadAttention keeps one width for all that it reads and writes"),
    nn.RNNBase: ("units", "recurrent layers are not cut"),
    nn.RNNCellBase: ("units", "recurrent layers are not cut"),
}


@dataclass(frozen=True, eq=False)
class Found:
    """The groups of a network, and for everything that is no group the reason, by its name."""

    groups: tuple[Group, ...]
    left_out: dict[str, str]


def find(network: nn.Module, example: Tensor) -> Found:
    """The groups of units that can be cut out of `network` exactly, whatever its weights are.

    The network is left as it is: tracing and trials work on random tensors put in the place of its own.

    Args:
        network: Any network with one tensor as input.
        example: Some inputs, shape (n, ...); of floating ones only shape and kind count.

    Raises:
        UsageError: if a forward pass cannot be traced, naming the layer.
    """
    with traced(network, example) as trace:
        proposals = trace.proposals()
        confirmed = trace.confirmed([proposal.group for proposal in proposals if proposal.group is not None])
    found = {group.name for group in confirmed}
    left_out = {p.name: p.reason or FAILED for p in proposals if p.name not in found}
    return Found(confirmed, left_out | dict(_whole(network)))


@dataclass(frozen=True, eq=False)
class Trace:
    """A lent network with random tensors, inputs for it, and what one pass showed."""

    network: nn.Module
    x: Tensor
    graph: Graph
    generator: torch.Generator

    def proposals(self) -> list[Proposal]:
        """All that looks like a group."""
        return _proposals(self.network, self.graph, all_tensors(self.network))

    def confirmed(self, wanted: Sequence[Group]) -> tuple[Group, ...]:
        """Those groups of which any part can be cut out as if it were only masked."""
        return exact(self.network, self.x, wanted, self.generator)


@contextmanager
def traced(network: nn.Module, example: Tensor) -> Iterator[Trace]:
    """Lend the network, and trace it; see `find` for arguments and errors."""
    _check(network, example)
    held = _held(network)
    generator = torch.Generator().manual_seed(0)
    rng = [example.device] if example.is_cuda else []
    with lent(network), torch.random.fork_rng(rng), torch.inference_mode(False), torch.enable_grad():
        dtype = torch.float64 if _dtypes(network)[:1] == [torch.float64] else torch.float32
        randomise_(network.eval(), dtype, generator)
        x = _inputs(network, example, dtype, generator)
        with lent(network):
            graph = _graph_of(network, x, held)
        yield Trace(network, x, graph, generator)


@dataclass(frozen=True, eq=False)
class Proposal:
    """Something that looks like a group, and why it is none: then without the group itself."""

    name: str
    reason: str
    group: Group | None


def _proposals(network: nn.Module, graph: Graph, tensors: Mapping[str, Tensor]) -> list[Proposal]:
    """What parts of the network declare, then what the graph says of the rest."""
    proposals: list[Proposal] = []
    taken: set[tuple[str, int]] = set()
    for path, module in network.named_modules():
        for group in (within(path, own) for own in declared_groups(module) if path):
            cut = {(part.name, part.axis) for part in group.slices if isinstance(part, Slice)}
            reason = next((graph.held[name] for name, _ in sorted(cut) if name in graph.held), "")
            if not cut & taken:
                proposals.append(Proposal(group.name, reason, None if reason else group))
                taken |= cut
    for family in families(graph.sites, graph.edges, list(tensors)):
        reason = family.reason or (_LONELY if family.size == 1 else "")
        if not taken.intersection(piece for site, _ in family.parts for piece in site.slices):
            proposals.append(Proposal(family.name, reason, None if reason else family.group(tensors)))
    return proposals


def _check(network: nn.Module, example: Tensor) -> None:
    if not isinstance(example, Tensor) or not example.dim() or not len(example):
        given = f"shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise UsageError(f"example inputs must be a tensor of shape (n, ...) with n >= 1, got {given}")
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


def _inputs(network: nn.Module, example: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A few of the inputs; random ones in the place of constants, which would show too little."""
    device = next((p.device for p in network.parameters()), example.device)
    x = example[:EXAMPLES].detach().clone()
    if not x.is_floating_point():
        return x.to(device)
    if bool((x == x.flatten()[0]).all()):
        x = torch.randn(x.shape, generator=generator)
    return x.to(device, dtype)


@dataclass(frozen=True, eq=False)
class Graph:
    """What layers read, write and pass on, what is coupled, and the parameters that may not be cut, with reasons."""

    sites: list[Site]
    edges: list[Edge]
    held: dict[str, str]


def _graph_of(network: nn.Module, x: Tensor, held: dict[str, str]) -> Graph:
    """The couplings of a forward pass, and the parameters that may not be cut; this leaves hooks behind."""
    watch = Watch(network)
    reused: set[nn.Module] = set()
    uses: dict[int, list[str]] = {}

    def forward() -> list[Tensor]:
        with watch:
            outputs = _run(network, watch.follow(x))
        reused.update(module for module, calls in watch.calls.items() if calls > 1)
        uses.update(_uses(outputs))
        return outputs

    try:
        sites, edges = couplings(network, forward, reused)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the dependency graph of {type(network).__name__} cannot be built: {first_line(error)}"
        ) from error
    _refuse_idle(network, x, uses)
    held = dict(_misused(network, uses)) | held
    for site in sites:
        site.reason = site.reason or next((held[name] for name, _ in site.slices if name in held), "")
    return Graph(sites, edges, held)


def _misused(network: nn.Module, uses: Mapping[int, list[str]]) -> Iterator[tuple[str, str]]:
    """Parameters that do not enter the computation once, as they are, in their own layer."""
    for path, module in network.named_modules():
        for part, parameter in module.named_parameters(path, recurse=False):
            users = uses.get(id(parameter), [])
            if len(users) > 1:
                yield part, f"{part} is used more than once"
            elif isinstance(module, nn.modules.conv._ConvNd) and users and "conv" not in users[0].lower():
                yield part, f"{part} is transformed before it is used"


def _run(network: nn.Module, x: Tensor) -> list[Tensor]:
    """All outputs that depend on parameters."""
    try:
        result = network(x)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{type(network).__name__} cannot take inputs of shape {tuple(x.shape)} and type {x.dtype}: "
            f"{first_line(error)}"
        ) from error
    outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    if not outputs:
        raise UsageError(f"no output of {type(network).__name__} can be differentiated by its parameters")
    return outputs


def _uses(outputs: list[Tensor]) -> dict[int, list[str]]:
    """The operations that read each parameter on the way to the outputs, by the parameter's id."""
    uses: dict[int, list[str]] = {}
    pending: list[Any] = [output.grad_fn for output in outputs]
    seen = set(pending)
    while pending:
        reader = pending.pop()
        for function, _ in reader.next_functions:
            if hasattr(function, "variable"):
                uses.setdefault(id(function.variable), []).append(reader.name())
            elif function is not None and function not in seen:
                seen.add(function)
                pending.append(function)
    return uses


def _refuse_idle(network: nn.Module, x: Tensor, uses: Mapping[int, list[str]]) -> None:
    """Raise if a layer computes in training only: what it reads is not in the graph of the evaluation."""
    idle = [(name, p) for name, p in network.named_parameters() if p.requires_grad and id(p) not in uses]
    trained = _uses(_run(network.train(), x)) if idle else {}
    for name, parameter in idle:
        if id(parameter) in trained:
            raise UsageError(
                f"{name} takes part in the forward pass of {type(network).__name__} in training mode only, so that "
                "what its layer reads cannot be traced; switch that layer off"
            )


def _whole(network: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in network.named_modules():
        for kind, (units, reason) in _WHOLE.items():
            if isinstance(module, kind):
                yield f"{name} {units}".lstrip(), reason
