"""Normalisation layers whose backward hands in per-example gradients of scale and shift.

The examples of a batch normalised by running statistics, or in groups of channels, are like one example with
N times the channels or groups: the ordinary backward kernel, called on that view, gives every example's
gradients for the price of the sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .uses import Gradients, Sink

aten = torch.ops.aten


def _hand_in(ctx: Any, scale: Tensor, shift: Tensor) -> None:
    for name, values in ((ctx.weight, scale), (ctx.bias, shift)):
        if name:
            ctx.sink.add(name, Gradients(values))


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float,
        sink: Sink,
    ) -> Tensor:  # fmt: skip
        ctx.sink, ctx.eps, ctx.weight, ctx.bias = sink, eps, sink.use(weight), sink.use(bias)
        ctx.save_for_backward(x, weight, mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *statistics = ctx.saved_tensors
        n = len(x)
        # Contiguous: the kernel errs (torch 2.14) where one of two single examples is and the other is not.
        x_wide, g_wide = (t.reshape(1, n * t.shape[1], *t.shape[2:]).contiguous() for t in (x, g))
        weight, mean, variance = (None if s is None else s.repeat(n) for s in statistics)
        g_x, scale, shift = aten.native_batch_norm_backward(
            g_wide, x_wide, weight, mean, variance, None, None, False, ctx.eps, [ctx.needs_input_grad[0], True, True]
        )
        _hand_in(ctx, scale.view(n, -1), shift.view(n, -1))
        return None if g_x is None else g_x.view(x.shape), None, None, None, None, None, None


def batch_norm(
    sink: Sink, input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """`F.batch_norm` by running statistics: with those of the batch, examples have no gradients of their own."""
    if training or running_mean is None or not sink.batched(input):
        return None
    return _BatchNorm.apply(input, weight, bias, running_mean, running_var, eps, sink)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, sink: Sink
    ) -> Tensor:
        x = x.contiguous()
        y, mean, rstd = aten.native_group_norm(x, weight, bias, *x.shape[:2], x[0, 0].numel(), groups, eps)
        ctx.sink, ctx.groups, ctx.weight, ctx.bias = sink, groups, sink.use(weight), sink.use(bias)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, rstd = ctx.saved_tensors
        n, channels, area = *x.shape[:2], x[0, 0].numel()
        x_wide, g_wide = (t.reshape(1, n * channels, area).contiguous() for t in (x, g))
        g_x, scale, shift = aten.native_group_norm_backward(
            g_wide, x_wide, mean.view(1, -1), rstd.view(1, -1), None if weight is None else weight.repeat(n),
            1, n * channels, area, n * ctx.groups, [ctx.needs_input_grad[0], True, True],
        )  # fmt: skip
        _hand_in(ctx, scale.view(n, -1), shift.view(n, -1))
        return None if g_x is None else g_x.view(x.shape), None, None, None, None, None


def group_norm(sink: Sink, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None,
               eps: float = 1e-5, *unused: Any) -> Any:  # fmt: skip
    """`F.group_norm` of a batch."""
    if not sink.batched(input):
        return None
    return _GroupNorm.apply(input, num_groups, weight, bias, eps, sink)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float,
        sink: Sink,
    ) -> Tensor:  # fmt: skip
        y, mean, rstd = aten.native_layer_norm(x, shape, weight, bias, eps)
        ctx.sink, ctx.shape, ctx.weight, ctx.bias = sink, shape, sink.use(weight), sink.use(bias)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, mean, rstd = ctx.saved_tensors
        tokens = g.reshape(len(g), -1, *ctx.shape)
        normed = torch.sub(x, mean).mul_(rstd).mul_(g).view(tokens.shape)
        _hand_in(ctx, normed.sum(1), tokens.sum(1))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        mask = [True, False, False]
        g_x = aten.native_layer_norm_backward(g, x, ctx.shape, mean, rstd, weight, bias, mask)[0]
        return g_x, None, None, None, None, None


def layer_norm(sink: Sink, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None,
               eps: float = 1e-5, *unused: Any) -> Any:  # fmt: skip
    """`F.layer_norm`, unless it runs over the batch axis too."""
    if input.dim() <= len(normalized_shape) or not sink.batched(input):
        return None
    return _LayerNorm.apply(input, tuple(normalized_shape), weight, bias, eps, sink)
