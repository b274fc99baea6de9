"""Modes of networks: training that leaves alone what is frozen; evaluation and plain kernels for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...datasets.trees import Inputs, mapped


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Every module of the networks is in evaluation mode inside, and in its own mode again afterwards."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def train_(network: nn.Module) -> None:
    """Training mode, in place, but for what is `held` in evaluation mode."""
    still = held(network)
    network.train()
    for module in still:
        module.training = False


def held(network: nn.Module) -> set[nn.Module]:
    """Modules whose statistics and noise training leaves alone.

    Those inside a part whose parameters are all frozen; and, in a network in training mode, those that somebody put
    into evaluation mode. A network that is in evaluation mode as a whole has merely been evaluated.
    """
    frozen: set[nn.Module] = set()
    for module in network.modules():
        trained = [p.requires_grad for p in module.parameters()]
        if trained and not any(trained):
            frozen.update(module.modules())
    return frozen | {module for module in network.modules() if network.training and not module.training}


def take_modes_(network: nn.Module, other: nn.Module) -> None:
    """Give every module the mode that the module of its name has in `other`, in place; new ones that of the whole."""
    modes = {name: module.training for name, module in other.named_modules()}
    for name, module in network.named_modules():
        module.training = modes.get(name, other.training)


@contextmanager
def unfused() -> Iterator[None]:
    """Recurrent layers compute in plain operations: fused ones are not counted and have no second derivative.

    Nor does cuDNN differentiate them at all in evaluation mode.
    """
    backends = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for backend, enabled in zip(backends, before, strict=True):
            backend.enabled = enabled  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def as_plain_operations() -> Iterator[None]:
    """Recurrent layers and attention compute in operations that can be counted one by one: nothing is fused."""
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with unfused(), differentiable_attention():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def to_network(x: Inputs, network: nn.Module) -> Inputs:
    """Inputs on the device of `network`, floating-point ones in the type of its parameters."""
    own = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), None)
    if own is None:
        return x
    return mapped(x, lambda part: part.to(own.device, own.dtype if part.is_floating_point() else part.dtype))


def as_rows(outputs: Tensor) -> Tensor:
    """Outputs (N,) of a network that gives one number for an example as (N, 1); any others as they are."""
    return outputs.unsqueeze(1) if outputs.dim() == 1 else outputs


def precision_of(network: nn.Module) -> torch.dtype:
    """The least precise floating-point type among the parameters; float32 if there are none."""
    types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def working_(network: nn.Module) -> nn.Module:
    """The network itself with tensors of half precision in single: sums over many weights and examples need it."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    return network


def take_types_(network: nn.Module, other: nn.Module) -> None:
    """Give every tensor the type that the tensor of its name has in `other`, in place."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        tensor.data = tensor.data.to(_tensor(other, name).dtype)


def _tensor(network: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(network.get_submodule(path), leaf)


def differentiable_attention():
    """Attention in the form that can be differentiated twice and per example (the fused kernels cannot)."""
    return sdpa_kernel(SDPBackend.MATH)
