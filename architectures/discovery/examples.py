"""Whether a network can be traced with the inputs given, and what of both the trace uses."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs, tensors_in

EXAMPLES = 2  # rows of the example that are used: more cost time and show nothing more


def check(network: nn.Module, example: Inputs) -> None:
    """Raise UsageError unless the network and the inputs can be traced."""
    for each in tensors_in(example) or [example]:
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


def held(network: nn.Module) -> dict[str, str]:
    """Parameters that may not be cut, by name, with the reason."""
    named = dict(network.named_parameters(remove_duplicate=False))
    owners = Counter(parameter.data_ptr() for parameter in named.values() if parameter.numel())
    frozen = {name: f"{name} is frozen" for name, p in named.items() if not p.requires_grad}
    shared = {name: f"{name} is shared by several layers" for name, p in named.items() if owners[p.data_ptr()] > 1}
    return frozen | shared


def few(network: nn.Module, example: Inputs, generator: torch.Generator) -> Inputs:
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
