"""Modes for a while, without changing the network: evaluation, and recurrent layers without fused kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


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


def to_network(x: Tensor, network: nn.Module) -> Tensor:
    """Inputs on the device of `network`, floating-point ones in the type of its parameters."""
    for parameter in network.parameters():
        if parameter.is_floating_point():
            return x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)
    return x


def precision_of(network: nn.Module) -> torch.dtype:
    """The least precise floating-point type among the parameters; float32 if there are none."""
    types = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def differentiable_attention():
    """Attention in the form that can be differentiated twice and per example (the fused kernels cannot)."""
    return sdpa_kernel(SDPBackend.MATH)
