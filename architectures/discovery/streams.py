"""Residual streams: what becomes of the outputs of layers in the operations that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from .follow import Step

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_SUM = "the operation add"
# Operations f, by their names beneath PyTorch's layers, with f(0) = 0 wherever they are or with other factors.
_KEEPING_ZERO = frozenset((
    "mul", "div", "neg", "relu", "leaky_relu", "gelu", "silu", "tanh", "elu", "hardswish", "hardtanh", "native_dropout",
    "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d_with_indices", "view", "unsafe_view", "alias",
    "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "clone", "contiguous", "copy", "to_copy", "detach",
    "select", "slice", "roll", "constant_pad_nd",
))  # fmt: skip


class Streams:
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
        is_norm = len(after) == 1 and isinstance(self._modules.get(after[0].layer), NORMS)
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
