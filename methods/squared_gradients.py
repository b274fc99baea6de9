"""Sums of squared per-example gradients from one backward pass, without forming per-example gradients of all.

Every operation that consumes a parameter directly is intercepted on its way and runs through an autograd
node whose backward passes the input gradient on as usual, does not form the batch's weight gradient, and
adds Σ_n (∂L_n/∂θ)² to an accumulator instead: about the arithmetic of an ordinary backward pass.

A linear layer or a convolution is a sum over positions t (tokens, pixels) of outer products g_t a_t' of
output gradients and inputs; with one position per example the sum of squares is (g∘g)'(a∘a). Parameters
that are broadcast (norms, position tables, scalars) are given a batch axis. A parameter used several times
adds up its uses before squaring. What none of this covers is named in `fallback`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Numbers in the buffer of per-example gradients that are squared at a time: about what a cache holds.
BUFFER = 1 << 20


class SquaredGradients(TorchFunctionMode):
    """While active, forward passes record what the squares need; each backward pass then adds to `sums`.

    Attributes:
        sums: float64, in the shape of each parameter.
        fallback: names of parameters that an unknown operation consumed; their sums are incomplete.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        self.names = {id(p): name for name, p in parameters.items()}
        self.sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
        self.fallback: set[str] = set()
        self._uses = Counter[str]()
        self._waiting: dict[str, list[tuple[Tensor, Tensor] | Tensor]] = {}

    def new_batch(self) -> None:
        """Forget the uses of the last forward pass."""
        self._uses.clear()
        self._waiting.clear()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace operations that consume a tracked parameter; pass all others on."""
        kwargs = kwargs or {}
        consumed = [n for a in _tensors((*args, *kwargs.values())) if (n := self.names.get(id(a)))]
        if not consumed or getattr(func, "__name__", "") == "__get__":
            return func(*args, **kwargs)
        handler = _HANDLERS.get(func)
        result = handler(self, *args, **kwargs) if handler else None
        if result is None:
            self.fallback.update(consumed)
            return func(*args, **kwargs)
        return result

    # -------------------------------------------------------------- what the nodes hand in

    def use(self, parameter: Tensor | None) -> str | None:
        """Note one use of a parameter; its name if it is tracked."""
        name = self.names.get(id(parameter))
        if name:
            self._uses[name] += 1
        return name

    def add(self, name: str, use: tuple[Tensor, Tensor] | Tensor) -> None:
        """One use's share: factors (g, a) of shapes (N, T, out) and (N, T, in), or gradients (N, ...)."""
        uses = self._waiting.setdefault(name, [])
        uses.append(use)
        if len(uses) == self._uses[name]:
            del self._waiting[name]
            self.sums[name] += _squares(uses).view_as(self.sums[name])


def _squares(uses: list[tuple[Tensor, Tensor] | Tensor]) -> Tensor:
    dense = [use for use in uses if isinstance(use, Tensor)]
    pairs = [use for use in uses if not isinstance(use, Tensor)]
    if not dense:
        g, a = (torch.cat([pair[i] for pair in pairs], 1) if len(pairs) > 1 else pairs[0][i] for i in (0, 1))
        return _factored_squares(g, a)
    total = sum(dense[1:], dense[0]).flatten(1)
    for g, a in pairs:
        total = total + torch.einsum("nto,nti->noi", g, a).flatten(1)
    return total.square().sum(0)


def _factored_squares(g: Tensor, a: Tensor) -> Tensor:
    """Σ_n (Σ_t g_nt a_nt')², shape (out, in)."""
    if g.shape[1] == 1:
        return g[:, 0].square().T @ a[:, 0].square()
    size = max(1, BUFFER // (g.shape[2] * a.shape[2]))
    total = torch.zeros(g.shape[2], a.shape[2], dtype=g.dtype, device=g.device)
    for part_g, part_a in zip(g.split(size), a.split(size), strict=True):
        total += torch.bmm(part_g.transpose(1, 2), part_a).square_().sum(0)
    return total


def _tensors(arguments: tuple) -> list[Tensor]:
    found = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, tuple | list):
            found += [a for a in argument if isinstance(a, Tensor)]
    return found


# ---------------------------------------------------------------------- linear layers


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sink: SquaredGradients) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sink, ctx.weight, ctx.bias = sink, sink.use(weight), sink.use(bias)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        tokens = g.reshape(len(g), -1, g.shape[-1])
        if ctx.weight:
            ctx.sink.add(ctx.weight, (tokens, x.reshape(len(x), -1, x.shape[-1])))
        if ctx.bias:
            ctx.sink.add(ctx.bias, tokens.sum(1))
        return g @ weight if ctx.needs_input_grad[0] else None, None, None, None


def _linear(sink: SquaredGradients, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    return _Linear.apply(x, weight, bias, sink) if x.dim() > 1 else None  # pyright: ignore[reportReturnType]


# ---------------------------------------------------------------------- convolutions


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple, sink: SquaredGradients
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.sink, ctx.weight, ctx.bias = geometry, sink, sink.use(weight), sink.use(bias)
        stride, padding, dilation, groups = geometry
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        if ctx.weight:
            ctx.sink.add(ctx.weight, _convolution_uses(x, g, weight, stride, padding, dilation, groups))
        if ctx.bias:
            ctx.sink.add(ctx.bias, g.flatten(2).sum(2))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        grad_x = torch.ops.aten.convolution_backward(
            g, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )[0]
        return grad_x, None, None, None, None


def _convolution_uses(
    x: Tensor, g: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, Tensor] | Tensor:
    """Factors over output positions, or, for a grouped convolution, per-example gradients."""
    patches = F.unfold(x, weight.shape[2:], tuple(dilation), tuple(padding), tuple(stride))  # (N, in·k, T)
    outputs = g.flatten(2)
    if groups == 1:
        return outputs.transpose(1, 2), patches.transpose(1, 2)
    grouped_g = outputs.unflatten(1, (groups, -1))
    grouped_a = patches.unflatten(1, (groups, -1))
    return torch.einsum("ngot,ngit->ngoi", grouped_g, grouped_a)


def _conv2d(
    sink: SquaredGradients, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Tensor | None:  # fmt: skip
    stride, dilation = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        padding = _named_padding(padding, weight, dilation)
    if padding is None or input.dim() != 4:
        return None
    geometry = (stride, _pair(padding), dilation, groups)
    return _Convolution.apply(input, weight, bias, geometry, sink)  # pyright: ignore[reportReturnType]


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value, *value] if len(value) == 1 else list(value)


def _named_padding(name: str, weight: Tensor, dilation: list[int]) -> list[int] | None:
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if name == "valid":
        return [0, 0]
    return [s // 2 for s in spans] if all(s % 2 == 0 for s in spans) else None


# ---------------------------------------------------------------------- broadcast parameters


class _Expand(torch.autograd.Function):
    """A parameter with a batch axis: what comes back are its per-example gradients."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, shape: tuple[int, ...], sink: SquaredGradients) -> Tensor:
        ctx.sink, ctx.name = sink, sink.use(parameter)
        return parameter.reshape(1, *shape[1:]).expand(shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sink.add(ctx.name, g.flatten(1))
        return None, None, None


def _batched(sink: SquaredGradients, value: Any, like: Tensor, axis: int | None = None) -> Any:
    """A tracked parameter expanded over the batch of `like`; anything else as it is.

    Its axes are the last ones of `like`, as broadcasting has it, or begin at `axis`.
    """
    if not isinstance(value, Tensor) or id(value) not in sink.names:
        return value
    own = tuple(value.shape)
    after = 0 if axis is None else like.dim() - axis - len(own)
    padded = (1,) * (like.dim() - len(own) - after) + own + (1,) * after
    if len(padded) != like.dim() or padded[0] != 1:
        return None
    return _Expand.apply(value, (len(like), *padded[1:]), sink)


def _affine(sink: SquaredGradients, normed: Tensor, weight: Any, bias: Any, axis: int | None) -> Tensor:
    if weight is not None:
        normed = normed * _batched(sink, weight, normed, axis)
    return normed if bias is None else normed + _batched(sink, bias, normed, axis)


def _layer_norm(sink: SquaredGradients, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None,
                eps: float = 1e-5, *unused: Any) -> Tensor | None:  # fmt: skip
    if input.dim() <= len(normalized_shape):
        return None
    return _affine(sink, F.layer_norm(input, normalized_shape, None, None, eps), weight, bias, None)


def _group_norm(sink: SquaredGradients, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None,
                eps: float = 1e-5, *unused: Any) -> Tensor:  # fmt: skip
    return _affine(sink, F.group_norm(input, num_groups, None, None, eps), weight, bias, 1)


def _batch_norm(
    sink: SquaredGradients, input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    if training or running_mean is None:
        return None
    normed = F.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps)
    return _affine(sink, normed, weight, bias, 1)


def _broadcasting(func: Callable) -> Callable[..., Tensor | None]:
    """A two-argument elementwise operation whose one operand is a parameter and whose other has the batch."""

    def handler(sink: SquaredGradients, left: Any, right: Any, **options: Any) -> Tensor | None:
        tracked = [isinstance(v, Tensor) and id(v) in sink.names for v in (left, right)]
        like = right if tracked[0] else left
        if all(tracked) or not isinstance(like, Tensor) or options:
            return None
        operands = [_batched(sink, v, like) for v in (left, right)]
        return None if any(o is None for o in operands) else func(*operands)

    return handler


def _expand(sink: SquaredGradients, parameter: Tensor, *sizes: Any) -> Tensor | None:
    """`parameter.expand(batch, -1, ...)`, as class tokens are: its first axis becomes the batch."""
    wanted = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if (
        len(wanted) != parameter.dim()
        or parameter.shape[0] != 1
        or any(s not in (-1, p) for s, p in zip(wanted[1:], parameter.shape[1:], strict=True))
    ):
        return None
    return _Expand.apply(parameter, (wanted[0], *parameter.shape[1:]), sink)  # pyright: ignore[reportReturnType]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, table: Tensor, sink: SquaredGradients) -> Tensor:
        ctx.save_for_backward(index)
        ctx.sink, ctx.name, ctx.rows = sink, sink.use(table), len(table)
        return F.embedding(index, table)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        (index,) = ctx.saved_tensors
        tokens = g.reshape(len(g), -1, g.shape[-1])
        one_hot = F.one_hot(index.reshape(len(index), -1), ctx.rows).to(g.dtype)
        ctx.sink.add(ctx.name, (one_hot, tokens))
        return None, None, None


def _embedding(
    sink: SquaredGradients, input: Tensor, weight: Tensor, padding_idx: int | None = None,
    max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor | None:  # fmt: skip
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq:
        return None
    return _Embedding.apply(input, weight, sink)  # pyright: ignore[reportReturnType]


_HANDLERS: dict[Callable, Callable[..., Tensor | None]] = {
    F.linear: _linear,
    torch.conv2d: _conv2d,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.embedding: _embedding,
    Tensor.expand: _expand,
    Tensor.add: _broadcasting(torch.add),
    torch.add: _broadcasting(torch.add),
    Tensor.__add__: _broadcasting(torch.add),
    Tensor.__radd__: _broadcasting(torch.add),
    Tensor.mul: _broadcasting(torch.mul),
    torch.mul: _broadcasting(torch.mul),
    Tensor.__mul__: _broadcasting(torch.mul),
    Tensor.__rmul__: _broadcasting(torch.mul),
    Tensor.sub: _broadcasting(torch.sub),
    Tensor.__sub__: _broadcasting(torch.sub),
}
