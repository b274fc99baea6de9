"""What any network adds to its residual streams, read from one forward pass.

A sum has a residual stream if one of its terms does not follow from another. The outputs of a layer are added to it if
they reach the sum through nothing but a norm behind the layer and operations that keep zeros zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from ...datasets.errors import UsageError
from ..declared.residual import outputs
from ..layers.spread import can_spread, is_spread
from ..units.prunable import prunable
from ..units.slices import Group, Slice
from .follow import Step
from .traced import FAILED, traced

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_SUM = "the operation add"
# Operations f, by their names beneath PyTorch's layers, with f(0) = 0 wherever they are or with other factors.
_KEEPING_ZERO = frozenset((
    "mul", "div", "neg", "relu", "leaky_relu", "gelu", "silu", "tanh", "elu", "hardswish", "hardtanh", "native_dropout",
    "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices", "view", "unsafe_view", "alias",
    "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "clone", "contiguous", "copy", "to_copy", "detach",
    "select", "slice", "roll", "constant_pad_nd",
))  # fmt: skip


def find(network: nn.Module, example: Tensor) -> tuple[Group, ...]:
    """The outputs of layers that are added to residual streams, and inner groups with a norm.

    What begins a stream, so that all its other terms follow from it, is among them where a norm is behind it.

    Raises UsageError if a forward pass cannot be traced, and, saying why, if nothing can leave.
    """
    with traced(network, example) as trace:
        flow = _Flow(network, trace.flow.steps)
        order = {name: i for i, name in enumerate(prunable(network))}
        wanted: list[Group] = []
        reasons: dict[str, str] = {}
        for step in flow.layers():
            if flow.is_added(step):
                group, reason = _outputs(network, step, flow, trace.held)
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


def _outputs(network: nn.Module, step: Step, flow: _Flow, held: dict[str, str]) -> tuple[Group | None, str]:
    """The outputs of one layer, with the norm behind it; or None, and the reason."""
    layer, name = network.get_submodule(step.layer), step.layer
    norm = flow.norm_behind(step)
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


class _Flow:
    """What becomes of the outputs of layers."""

    def __init__(self, network: nn.Module, steps: Iterable[Step]):
        self._modules = dict(network.named_modules())
        self._steps = list(steps)
        self._after: dict[Step, list[Step]] = {}
        self._terms: dict[Step, set[Step]] = {}
        for step in self._steps:
            for source in step.reads:
                self._after.setdefault(source, []).append(step)
                if step.layer == _SUM:
                    self._terms.setdefault(step, set()).add(source)

    def layers(self) -> Iterator[Step]:
        """The layers that compute something, where they do so first."""
        first: dict[str, Step] = {}
        for step in self._steps:
            if step.writes:
                first.setdefault(step.layer, step)
        return iter(first.values())

    def norm_behind(self, step: Step) -> str | None:
        """The norm that reads what the layer writes, if nothing else does."""
        after = self._after.get(step, [])
        is_norm = len(after) == 1 and isinstance(self._modules.get(after[0].layer), _NORMS)
        return after[0].layer if is_norm else None

    def is_added(self, step: Step) -> bool:
        """Whether the outputs of the layer are a term of a sum that is not made of them alone."""
        reached = self._kept_zero(step)
        sums = [reach for reach in reached if len(self._terms.get(reach, ())) > 1]
        if self.norm_behind(step) is not None and sums:
            return True
        following = self._descendants(step) if sums else set()
        return any(self._terms[at] - reached - following - {step} for at in sums)

    def _kept_zero(self, step: Step) -> set[Step]:
        """What the outputs reach while zeros stay zeros, up to and including the first sum of several terms."""
        norm = self.norm_behind(step)
        seen: set[Step] = set()
        pending = [step]
        while pending:
            for target in self._after.get(pending.pop(), []):
                is_sum = target.layer == _SUM
                passes = is_sum or target.layer == norm or target.layer.removeprefix("the operation ") in _KEEPING_ZERO
                if target in seen or not passes:
                    continue
                seen.add(target)
                if not is_sum or len(self._terms.get(target, ())) < 2:
                    pending.append(target)
        return seen

    def _descendants(self, step: Step) -> set[Step]:
        """All that is computed from the outputs of the layer, through other layers too."""
        seen: set[Step] = set()
        pending = [step]
        while pending:
            for reached in self._after.get(pending.pop(), []):
                if reached not in seen:
                    seen.add(reached)
                    pending.append(reached)
        return seen


def _has_norm(network: nn.Module, group: Group) -> bool:
    layers = {name.rpartition(".")[0] for name, _ in _cuts(group)}
    return any(isinstance(network.get_submodule(layer), _NORMS) for layer in layers)


def _cuts(group: Group) -> Iterator[tuple[str, int]]:
    return ((piece.name, piece.axis) for piece in group.slices if isinstance(piece, Slice))
