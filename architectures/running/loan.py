"""Networks on loan: whatever is done to their modules inside a `with` block is undone at its end."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, set)


@contextlib.contextmanager
def lent(network: nn.Module) -> Iterator[None]:
    """Give back every module of `network` with the very class, attributes, tensors and hooks that it came with.

    Inside, classes, tensors, attributes, modes and hooks may be replaced by others; nothing is copied but the
    containers that hold them, so that a loan costs no memory. A tensor changed in place stays changed:
    put another one in its place.
    """
    kinds = [(module, type(module)) for module in network.modules()]
    states = [(vars(module), dict(vars(module))) for module, _ in kinds]
    for own, state in states:
        own.update({key: value.copy() for key, value in state.items() if type(value) in _CONTAINERS})
    try:
        yield
    finally:
        for own, state in states:
            own.clear()
            own.update(state)
        for module, kind in kinds:
            module.__class__ = kind


def put(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in the place of the parameter or buffer `name`, whatever its shape."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.requires_grad)
    else:
        module._buffers[leaf] = tensor


def randomise_(network: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Give a lent network fresh tensors, all floating ones random, and let every parameter require gradients.

    Weights keep the variance of what they read (He et al., 2015, arXiv 1502.01852), norms, biases and
    running statistics are of order one: no zero at initialisation, such as a layer scale or the last
    BatchNorm of a branch, hides a part of the network. Shared tensors stay shared.
    """
    fresh: dict[int, Tensor] = {}
    for module in network.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                if id(tensor) not in fresh:
                    fresh[id(tensor)] = _random(name, tensor, dtype, generator)
                own: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
                own[name] = fresh[id(tensor)]


def _random(name: str, tensor: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    is_parameter = isinstance(tensor, nn.Parameter)
    is_drawn = tensor.is_floating_point() and (is_parameter or name in ("running_mean", "running_var"))
    values = _draw(name, tensor.shape, dtype, generator).to(tensor.device) if is_drawn else tensor.detach().clone()
    if values.is_floating_point():
        values = values.to(dtype)
    return nn.Parameter(values, requires_grad=is_drawn) if is_parameter else values


def _draw(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random values on the CPU: of variance 2 / fan-in for weights, positive for variances."""
    values = torch.empty(shape, dtype=dtype)
    if name == "weight" and len(shape) > 1:
        return values.normal_(std=(2 / max(shape[1:].numel(), 1)) ** 0.5, generator=generator)
    values.uniform_(0.5, 1.5, generator=generator)
    if name == "running_var":
        return values
    return values * (1 - 2 * torch.randint(2, shape, generator=generator))
