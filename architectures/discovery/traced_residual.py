"""What any network adds to its residual streams, read from one forward pass.

A sum has a residual stream if one of its terms does not follow from another. The outputs of a layer are added to it if
they reach the sum through nothing but a norm behind the layer and operations that keep zeros zero.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs
from ..declared.residual import outputs
from ..layers.spread import can_spread, is_spread
from ..units.prunable import prunable
from ..units.slices import Group, Slice
from .follow import Step
from .streams import NORMS, Streams
from .traced import FAILED, traced


def find(network: nn.Module, example: Inputs) -> tuple[Group, ...]:
    """The outputs of layers that are added to residual streams, and inner groups with a norm.

    What begins a stream, so that all its other terms follow from it, is among them where a norm is behind it.

    Raises UsageError if a forward pass cannot be traced, and, saying why, if nothing can leave.
    """
    with traced(network, example) as trace:
        streams = Streams(network, trace.flow.steps)
        order = {name: i for i, name in enumerate(prunable(network))}
        wanted: list[Group] = []
        reasons: dict[str, str] = {}
        for step in streams.layers():
            if streams.is_added(step):
                group, reason = _outputs(network, step, streams, trace.held)
                wanted += [group] if group else []
                reasons |= {step.layer: reason} if reason else {}
        written = {cut for group in wanted for cut in _cuts(group)}
        proposed = (proposal.group for proposal in trace.proposals() if proposal.group is not None)
        wanted += [group for group in proposed if _has_norm(network, group) and not written.intersection(_cuts(group))]
        found = trace.confirmed(wanted)
    refused = {group.name: FAILED for group in wanted if group not in found}
    if not any(group.spread for group in found):
        said = "; ".join(f"{name}: {reason}" for name, reason in [*reasons.items(), *refused.items()][:3])
        raise UsageError(
            f"nothing that {type(network).__name__} adds to a residual stream can leave"
            f" ({said or 'no layer is added to what another one computes'}); prune its groups or weights"
        )
    return tuple(sorted(found, key=lambda group: min(order.get(name, len(order)) for name, _ in _cuts(group))))


def _outputs(network: nn.Module, step: Step, streams: Streams, held: dict[str, str]) -> tuple[Group | None, str]:
    """The outputs of one layer, with the norm behind it; or None, and the reason."""
    layer, name = network.get_submodule(step.layer), step.layer
    norm = streams.norm_behind(step)
    last = name if norm is None else norm
    module = network.get_submodule(last)
    if isinstance(layer, nn.modules.conv._ConvNd) and (layer.groups > 1 or layer.transposed):
        return None, "rows of a grouped or transposed convolution do not leave alone"
    if is_spread(module) or not can_spread(layer) or not can_spread(module):
        kinds = "one that has lost outputs already" if is_spread(module) else type(module).__name__
        return None, f"{last} is no plain layer of torch ({kinds})"
    if module._parameters.get("weight") is None:
        return None, f"the norm {last} has no scale that could be zero"
    per_unit = module.num_channels // module.num_groups if isinstance(module, nn.GroupNorm) else 1
    group = outputs(network, name, [] if norm is None else [norm], per_unit)
    if reason := next((held[cut] for cut, _ in _cuts(group) if cut in held), ""):
        return None, reason
    return (group, "") if group.size > 1 else (None, "it is a single unit, and one has to stay")


def _has_norm(network: nn.Module, group: Group) -> bool:
    layers = {name.rpartition(".")[0] for name, _ in _cuts(group)}
    return any(isinstance(network.get_submodule(layer), NORMS) for layer in layers)


def _cuts(group: Group) -> Iterator[tuple[str, int]]:
    return ((piece.name, piece.axis) for piece in group.slices if isinstance(piece, Slice))
