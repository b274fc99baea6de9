"""Layers that compute their weights, as weight standardisation does, settled on the weights that they have.

A standardised weight divides each row by its spread over all inputs, which is another one once inputs have left. As
a plain layer with the weights as they were computed, it can lose inputs without changing what it does to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...datasets.errors import UsageError

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Caught(TorchFunctionMode):
    """Keep the arguments and the result of the call in which a layer applies its weights."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[tuple[Any, ...], Tensor]] = []

    def __torch_function__(self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`."""
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("linear", "conv1d", "conv2d", "conv3d") and not kwargs:
            self.calls.append((args, result))
        return result


@torch.no_grad()
def computed_weight(module: nn.Module) -> Tensor | None:
    """The weight that a layer applies, if it computes another one than it keeps and does nothing else; or None."""
    plain = _plain(module)
    if plain is None or type(module) is plain or not isinstance(module._parameters.get("weight"), nn.Parameter):
        return None
    weight = module.get_parameter("weight")
    x = torch.zeros(_smallest(module), dtype=weight.dtype, device=weight.device)
    try:
        with _Caught() as caught:
            result = module.forward(x)
    except Exception:  # a layer of somebody's that takes no such inputs is none that could be settled
        return None
    if len(caught.calls) != 1:
        return None
    (given, applied, *others), returned = caught.calls[0]
    is_plain = given is x and returned is result and applied is not weight and applied.shape == weight.shape
    return applied if is_plain and _agree(others, _arguments(module)) else None


def _agree(given: list[Any], expected: list[Any]) -> bool:
    same = (a is b if isinstance(b, Tensor) else a == b for a, b in zip(given, expected, strict=False))
    return len(given) == len(expected) and all(same)


def _arguments(module: nn.Module) -> list[Any]:
    """What a plain layer gives behind its weight."""
    names = ["bias"] if isinstance(module, nn.Linear) else ["bias", "stride", "padding", "dilation", "groups"]
    return [getattr(module, name) for name in names]


def _smallest(module: nn.Module) -> tuple[int, ...]:
    """The shape of the smallest input that a layer takes."""
    if isinstance(module, nn.modules.conv._ConvNd):
        sides = (d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True))
        return (1, module.in_channels, *sides)
    return (1, module.get_parameter("weight").shape[1])


def _plain(module: nn.Module) -> type[nn.Module] | None:
    return next((kind for kind in _PLAIN if isinstance(module, kind)), None)


def settle_(module: nn.Module) -> None:
    """Let a layer, in place, keep the weights that it computes; raises UsageError for one that does not."""
    weight = computed_weight(module)
    if weight is None:
        raise UsageError(f"{type(module).__name__} does not apply weights that it computes, and nothing else")
    trains = module.get_parameter("weight").requires_grad
    become_settled_(module)
    module._parameters["weight"] = nn.Parameter(weight, requires_grad=trains)


def become_settled_(module: nn.Module) -> None:
    """Give a layer, in place, the plain class, and take away what its weights were computed from.

    Raises UsageError for what is no linear layer or convolution.
    """
    if (plain := _plain(module)) is None:
        raise UsageError(f"{type(module).__name__} is no linear layer or convolution that could be settled")
    module.__class__ = plain
    for own in (module._parameters, module._buffers):
        for name in own.keys() - {"weight", "bias"}:
            del own[name]
    vars(module)["settled"] = 1
