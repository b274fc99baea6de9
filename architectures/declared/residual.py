"""What is added to a residual stream: features that leave on the side that writes them, not from the stream.

Channels of a stream can leave together at best, and under LayerNorm not at all. What one layer adds to some of them
can leave alone: its rows go, with the norm behind them, and zeros are added instead. Wright et al. (2024, arXiv
2406.01345) have their noise there: behind the projections that end the branches of a transformer, and behind every
norm of a residual network. So do the units here: inner channels with a norm leave as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from torch import nn

from ..units.slices import Group
from .groups import parallel


@functools.singledispatch
def declared(network: nn.Module) -> tuple[Group, ...]:
    """What the class of `network` declares; an architecture registers its own."""
    return ()


def outputs(network: nn.Module, writer: str, norms: Sequence[str] = (), per_unit: int = 1) -> Group:
    """The outputs of the layer `writer`, or of the norm behind it, as units that leave on the writing side only."""
    group = parallel(network, f"{writer} outputs", "output", writes=[writer], norms=norms, reads=[], per_unit=per_unit)
    return replace(group, spread=norms[-1] if norms else writer)


def projections(network: nn.Module, ends: Collection[str]) -> Iterator[Group]:
    """The outputs of the linear layers that end a branch: those whose names end in one of `ends`."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{end}" for end in ends)):
            yield outputs(network, name)
