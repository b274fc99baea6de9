"""Parameters that are broadcast over the examples: position tables, class tokens, scalars.

They are given a batch axis; what comes back along it are the per-example gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .uses import Gradients, Sink


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, shape: tuple[int, ...], sink: Sink) -> Tensor:
        ctx.sink, ctx.name = sink, sink.use(parameter)
        return parameter.reshape(1, *shape[1:]).expand(shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sink.add(ctx.name, Gradients(g))
        return None, None, None


def elementwise(func: Callable) -> Callable[..., Tensor | None]:
    """The handler of a two-argument operation whose one operand is a parameter and whose other has the batch."""

    def handler(sink: Sink, left: Any, right: Any, **options: Any) -> Tensor | None:
        tracked = [isinstance(v, Tensor) and id(v) in sink.names for v in (left, right)]
        like = right if tracked[0] else left
        if all(tracked) or not isinstance(like, Tensor) or options or not like.dim() or not sink.batched(like):
            return None
        operands = [_batched(sink, v, like) if t else v for v, t in zip((left, right), tracked, strict=True)]
        return None if any(o is None for o in operands) else func(*operands)

    return handler


def _batched(sink: Sink, parameter: Tensor, like: Tensor) -> Any:
    """The parameter over the batch of `like`, whose last axes are its own; None where it spans the batch axis."""
    missing = like.dim() - parameter.dim()
    shape = (1,) * missing + tuple(parameter.shape)
    return None if missing < 0 or shape[0] != 1 else _Expand.apply(parameter, (len(like), *shape[1:]), sink)


def expand(sink: Sink, parameter: Tensor, *sizes: Any) -> Tensor | None:
    """`parameter.expand(batch, -1, ...)`, as class tokens are: its first axis becomes the batch."""
    wanted = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if (
        len(wanted) != parameter.dim()
        or parameter.shape[0] != 1
        or sink.examples not in (None, wanted[0])
        or any(s not in (-1, p) for s, p in zip(wanted[1:], parameter.shape[1:], strict=True))
    ):
        return None
    return _Expand.apply(parameter, (wanted[0], *parameter.shape[1:]), sink)  # pyright: ignore[reportReturnType]
