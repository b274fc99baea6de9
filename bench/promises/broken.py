"""What a promise that is not kept raises, and how a network is told from itself before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Broken(AssertionError):
    """A promise of the contract that the pruner does not keep."""


def fingerprint(network: nn.Module) -> dict[str, Any]:
    """Copies of all that may not change: tensors, modes, gradients, hooks."""
    tensors: dict[str, Any] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {f"mode of {name or 'the network'}": module.training for name, module in network.named_modules()}
    gradients = {f"gradient of {n}": None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}
    flags = {f"requires_grad of {n}": p.requires_grad for n, p in network.named_parameters()}
    return tensors | modes | gradients | flags | {"hooks": _hooks(network)}


def changes(before: dict[str, Any], network: nn.Module) -> list[str]:
    """What of a network is not as it was."""
    return sorted(n for n, value in fingerprint(network).items() if not _same(before.get(n), value))


def _hooks(network: nn.Module) -> list[str]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return [name or "the network" for name, module in network.named_modules() if any(getattr(module, k) for k in kinds)]


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
