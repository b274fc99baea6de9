"""What can be fastened to a network: hooks of every kind, other classes, methods of single modules."""

from __future__ import annotations

from typing import Any

from torch import nn

# Every dictionary of hooks that a module has: forward, backward, state dict, load, with keywords or without.
_KINDS = tuple(name for name, value in vars(nn.Module()).items() if name.endswith("_hooks") and isinstance(value, dict))


def attachments(network: nn.Module) -> dict[str, Any]:
    """What is fastened to a network, by the place that it is at; equal dictionaries mean that nothing was added."""
    found: dict[str, Any] = {}
    for name, module in network.named_modules():
        place = name or "the network"
        kinds = [kind.strip("_") for kind in _KINDS if getattr(module, kind)]
        own = [n for n, value in vars(module).items() if callable(value) and callable(getattr(type(module), n, None))]
        found[place] = (type(module), *kinds, *own)
    for name, parameter in network.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            found[f"parameter {name}"] = "hooks"
    return found


def left_on(network: nn.Module, fresh: nn.Module) -> list[str]:
    """Places of a detached network where something is that `fresh`, a new one, has not."""
    before = attachments(fresh)
    return [place for place, what in attachments(network).items() if before.get(place) != what]
