"""What a layer reads and writes: numbered positions, and the tensors that are cut at them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..layers.spread import is_spread

Pieces = tuple[tuple[str, int], ...]


@dataclass(eq=False)
class Site:
    """Positions 0 .. width - 1 that a layer writes, reads or passes on, and the tensors cut at them.

    Attributes:
        layer: Name of the layer, or of an operation between layers.
        width: Number of positions; 0 where only what arrives tells.
        slices: (parameter, axis) pairs that have these positions.
        buffers: The same for buffers.
        writes: What one position is called if the layer computes it from others, else "".
        reason: Why nothing here can leave, or "".
    """

    layer: str
    width: int = 0
    slices: Pieces = ()
    buffers: Pieces = ()
    writes: str = ""
    reason: str = ""


# Pairs of positions that leave together: first site, its positions, second site, its positions.
Edge = tuple[Site, np.ndarray, Site, np.ndarray]
# Where a layer reads and where it writes; one and the same site if it passes its positions on.
Ends = tuple[Site, Site]

# Layers that mix the channels they read, or whose sizes cannot be cut: what to say, and how many they write.
_BARRIERS: dict[type[nn.Module], tuple[str, Callable[[Any], int]]] = {
    nn.LayerNorm: ("{} normalises over all of them", lambda m: m.normalized_shape[-1]),
    nn.RMSNorm: ("{} normalises over all of them", lambda m: m.normalized_shape[-1]),
    nn.MultiheadAttention: ("{} (nn.MultiheadAttention) reads and writes them as one block", lambda m: m.embed_dim),
    nn.RNNBase: ("{} is recurrent", lambda m: (m.proj_size or m.hidden_size) * (1 + m.bidirectional)),
    nn.RNNCellBase: ("{} is recurrent", lambda m: m.hidden_size),
    nn.Bilinear: ("{} is bilinear", lambda m: m.out_features),
    nn.EmbeddingBag: ("{} is an embedding bag", lambda m: m.embedding_dim),
}


def barrier(ends: Ends, reason: str) -> Ends:
    """The same layer, but nothing passes through it and nothing it touches can leave."""
    reads, writes = (Site(end.layer, end.width, end.slices, end.buffers, end.writes, reason) for end in ends)
    return reads, writes


@functools.singledispatch
def ends_of(module: nn.Module, name: str) -> Ends:
    """Where the layer `module`, called `name`, reads and writes."""
    for kind, (reason, width) in _BARRIERS.items():
        if isinstance(module, kind):
            return barrier((Site(name), Site(name, width(module))), reason.format(name))
    return _both(Site(name))


@ends_of.register
def _(module: nn.Linear, name: str) -> Ends:
    return _matrix(module, name, (module.in_features, module.out_features), "neuron", reads=1)


@ends_of.register
def _(module: nn.modules.conv._ConvNd, name: str) -> Ends:
    ends = _matrix(module, name, (module.in_channels, module.out_channels), "filter", reads=int(not module.transposed))
    if module.groups > 1:
        # The second axis of the weight counts the channels of one group, all of which stay.
        for end in ends:
            end.slices = tuple(piece for piece in end.slices if piece[1] == 0)
    return ends


@ends_of.register
def _(module: nn.Embedding, name: str) -> Ends:
    return Site(name), Site(name, module.weight.shape[1], _pieces(module, name, weight=1), writes="channel")


@ends_of.register
def _(module: nn.modules.batchnorm._NormBase, name: str) -> Ends:
    buffers = _pieces(module, name, running_mean=0, running_var=0)
    return _whole(_both(Site(name, module.num_features, _pieces(module, name, weight=0, bias=0), buffers)), module)


@ends_of.register
def _(module: nn.GroupNorm, name: str) -> Ends:
    return _whole(_both(Site(name, module.num_channels, _pieces(module, name, weight=0, bias=0))), module)


@ends_of.register
def _(module: nn.PReLU, name: str) -> Ends:
    channels = module.weight.numel()
    return _both(Site(name, channels, _pieces(module, name, weight=0)) if channels > 1 else Site(name))


def blocks(module: nn.Module, ends: Ends) -> list[Edge]:
    """Positions that a layer ties to each other: those of one group of a grouped convolution or norm."""
    if isinstance(module, nn.GroupNorm):
        return [_tied(ends[0], ends[0], module.num_groups)]
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1:
        return [_tied(end, ends[1], module.groups) for end in ends]
    return []


def _tied(site: Site, lead: Site, groups: int) -> Edge:
    """Every position of `site` with the first position of its group at `lead`."""
    every = np.arange(site.width)
    return site, every, lead, every // (site.width // groups) * (lead.width // groups)


def _both(site: Site) -> Ends:
    return site, site


def _whole(ends: Ends, module: nn.Module) -> Ends:
    """The same ends, with all the places that a layer writes to if it has lost outputs; what is left of them stays."""
    if not is_spread(module):
        return ends
    reads, writes = ends
    reason = f"{writes.layer} has lost some of its outputs already"
    if reads is writes:
        reads.reason = reason
    return reads, Site(writes.layer, len(module.get_buffer("source")), writes=writes.writes, reason=reason)


def _matrix(module: nn.Module, name: str, sizes: tuple[int, int], kind: str, reads: int) -> Ends:
    """A layer with a weight of two axes, one of which it reads from."""
    pieces = _pieces(module, name, weight=1 - reads, bias=0)
    ends = Site(name, sizes[0], _pieces(module, name, weight=reads)), Site(name, sizes[1], pieces, writes=kind)
    if module._parameters.get("weight") is None:
        return barrier(ends, f"the weight of {name} is computed from other parameters")
    return _whole(ends, module)


def _pieces(module: nn.Module, name: str, **axes: int) -> Pieces:
    own = module._parameters | module._buffers
    return tuple((f"{name}.{part}".lstrip("."), axis) for part, axis in axes.items() if own.get(part) is not None)
