"""Squared per-example gradients of parameters that no handler can follow, one example after the other."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ...architectures.running.cost import count_passes
from ...architectures.running.modes import as_rows, differentiable_attention
from ...datasets.trees import Inputs, mapped, pieces
from .interception import drop_caches

# Bytes that per-example gradients may take where they have to be formed: about what a cache holds.
CHUNK_BYTES = 1 << 24


def one_by_one(
    network: nn.Module, parameters: dict[str, nn.Parameter], x: Inputs, vectors: Tensor
) -> dict[str, Tensor]:
    """Sum over examples n and vectors k of (∂(f_n·v_nk)/∂θ)² for any operation; vectors has shape (N, K, C).

    Batched where every operation has a batching rule; example by example where one has none (torch's GRU).
    """
    drop_caches(network)
    try:
        return _vmapped(network, parameters, x, vectors)
    except RuntimeError:
        return _looped(network, parameters, x, vectors)
    finally:
        drop_caches(network)


def _vmapped(network: nn.Module, parameters: dict[str, nn.Parameter], x: Inputs, vectors: Tensor) -> dict[str, Tensor]:
    constants = {name: p.detach() for name, p in network.named_parameters() if name not in parameters}
    buffers = dict(network.named_buffers())

    def gradients(example: Inputs, directions: Tensor) -> dict[str, Tensor]:
        def output(free: dict[str, Tensor]) -> Tensor:
            tensors, alone = {**free, **constants, **buffers}, mapped(example, lambda x: x.unsqueeze(0))
            return as_rows(functional_call(network, tensors, (alone,))).squeeze(0)

        pull_back = vjp(output, {name: p.detach() for name, p in parameters.items()})[1]
        return vmap(lambda v: pull_back(v)[0])(directions)

    one = sum(p.numel() * p.element_size() for p in parameters.values())
    at_once = min(vectors.shape[1], max(1, CHUNK_BYTES // one))
    size = max(1, CHUNK_BYTES // (at_once * one))
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    with differentiable_attention(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # some operations are batched by a loop
        for part_v in vectors.split(at_once, 1):
            for few_x, few_v in zip(pieces(x, size), part_v.split(size), strict=True):
                for name, g in vmap(gradients)(few_x, few_v).items():
                    sums[name] += g.square_().sum((0, 1), dtype=torch.float64)
                drop_caches(network)
    count_passes(len(vectors) * (1 + vectors.shape[1]))
    return sums


def _looped(network: nn.Module, parameters: dict[str, nn.Parameter], x: Inputs, vectors: Tensor) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    weights = list(parameters.values())
    for example, directions in zip(pieces(x, 1), vectors, strict=True):
        drop_caches(network)
        with torch.enable_grad():
            output = as_rows(network(example))
        for direction in directions:
            found = torch.autograd.grad(output, weights, direction.unsqueeze(0), retain_graph=True, allow_unused=True)
            for name, g in zip(sums, found, strict=True):
                if g is not None:
                    sums[name] += g.double().square()
    return sums
