"""Linear layers, convolutions and embeddings whose backward hands in uses of their parameters.

A linear layer or a convolution is a sum over positions t (tokens, pixels) of outer products g_t a_t' of output
gradients and inputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .uses import Convolution, Factors, Geometry, Gradients, Lookup, Sink, Transposed


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sink: Sink) -> Tensor:
        ctx.sink, ctx.weight, ctx.bias = sink, sink.use(weight), sink.use(bias)
        ctx.save_for_backward(x if ctx.weight else None, weight)
        y = F.linear(x, weight, bias)
        return torch.ops.aten._unsafe_view(y, y.shape)  # no view: the next operation may work in place

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        if ctx.weight:
            ctx.sink.add(ctx.weight, Factors(_tokens(g), _tokens(x)))
        if ctx.bias:
            ctx.sink.add(ctx.bias, Gradients(g if g.dim() == 2 else _tokens(g).sum(1)))
        return g @ weight if ctx.needs_input_grad[0] else None, None, None, None


def _tokens(x: Tensor) -> Tensor:
    return x.unsqueeze(1) if x.dim() == 2 else x.reshape(len(x), -1, x.shape[-1])


def linear(sink: Sink, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """`F.linear` of a batch."""
    if input.dim() < 2 or not sink.batched(input):
        return None
    return _Linear.apply(input, weight, bias, sink)  # pyright: ignore[reportReturnType]


class _Product(torch.autograd.Function):
    """x (N, ..., in) @ weight (in, out) + bias: linear layers that hold their weights the other way (GPT-2's)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sink: Sink) -> Tensor:
        ctx.sink, ctx.weight, ctx.bias = sink, sink.use(weight), sink.use(bias)
        ctx.save_for_backward(x if ctx.weight else None, weight)
        y = x @ weight
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        if ctx.weight:
            ctx.sink.add(ctx.weight, Transposed(_tokens(x), _tokens(g)))
        if ctx.bias:
            ctx.sink.add(ctx.bias, Gradients(_tokens(g).sum(1)))
        return g @ weight.T if ctx.needs_input_grad[0] else None, None, None, None


def matmul(sink: Sink, input: Tensor, other: Tensor | None = None, mat2: Tensor | None = None) -> Tensor | None:
    """`x @ weight` of a batch and a matrix."""
    other = mat2 if other is None else other
    if other is None or sink.names.get(id(input)) or input.dim() < 2 or other.dim() != 2 or not sink.batched(input):
        return None
    return _Product.apply(input, other, None, sink)  # pyright: ignore[reportReturnType]


def addmm(sink: Sink, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor | None:
    """bias + x @ weight of a batch, or of its tokens in the order of the examples."""
    if beta != 1 or alpha != 1 or input.dim() != 1 or sink.names.get(id(mat1)):
        return None
    x = mat1 if sink.batched(mat1) else sink.tokens(mat1)
    if x is None:
        return None
    y: Tensor = _Product.apply(x, mat2, input, sink)  # pyright: ignore[reportAssignmentType]
    return y.flatten(0, -2)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, sink: Sink) -> Tensor:
        ctx.geometry, ctx.sink, ctx.weight, ctx.bias = geometry, sink, sink.use(weight), sink.use(bias)
        ctx.save_for_backward(x, weight)
        stride, padding, dilation, groups = geometry
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        if ctx.weight:
            ctx.sink.add(ctx.weight, Convolution(x, g, weight, ctx.geometry))
        if ctx.bias:
            ctx.sink.add(ctx.bias, Gradients(g.sum((2, 3))))
        return _input_gradient(g, x, weight, ctx.geometry) if ctx.needs_input_grad[0] else None, None, None, None, None


def _input_gradient(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
    )[0]


def conv2d(
    sink: Sink, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
    """`torch.conv2d` of a batch, unless its padding is asymmetric."""
    stride, dilation = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        padding = _named_padding(padding, weight, dilation)
    if padding is None or input.dim() != 4 or not sink.batched(input):
        return None
    geometry = Geometry(stride, _pair(padding), dilation, groups)
    return _Convolution.apply(input, weight, bias, geometry, sink)  # pyright: ignore[reportReturnType]


def _pair(value: Any) -> tuple[int, int]:
    first, last = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return first, last


def _named_padding(name: str, weight: Tensor, dilation: tuple[int, int]) -> list[int] | None:
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if name == "valid":
        return [0, 0]
    return [s // 2 for s in spans] if all(s % 2 == 0 for s in spans) else None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, table: Tensor, sink: Sink) -> Tensor:
        ctx.save_for_backward(index)
        ctx.sink, ctx.name, ctx.rows = sink, sink.use(table), len(table)
        return F.embedding(index, table)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        (index,) = ctx.saved_tensors
        ctx.sink.add(ctx.name, Lookup(index.reshape(len(index), -1), _tokens(g), ctx.rows))
        return None, None, None


def embedding(
    sink: Sink, input: Tensor, weight: Tensor, padding_idx: int | None = None,
    max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor | None:  # fmt: skip
    """`F.embedding`, unless some of its rows are treated differently from others."""
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or not sink.batched(input):
        return None
    return _Embedding.apply(input, weight, sink)  # pyright: ignore[reportReturnType]
