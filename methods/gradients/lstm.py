"""`nn.LSTM` with its whole back-propagation through time in one autograd node.

Gates i, f, g, o of (Hochreiter and Schmidhuber, 1997), in torch's order: c_t = f c_{t-1} + i g and
h_t = o tanh(c_t). The gradients of their pre-activations at all times are kept, (time, batch, 4 hidden): the
weights are linear layers whose tokens are the times.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .uses import Factors, Gradients, Sink


class _Layer(torch.autograd.Function):
    """One layer in one direction: x (T, N, in), states (N, H) -> outputs (T, N, H), last h and c."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor | None, b_h: Tensor | None,
        sink: Sink,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        gates = F.linear(x, w_x, None if b_x is None or b_h is None else b_x + b_h)
        h, c, tanh_c = _run(gates, h0, c0, w_h)
        ctx.sink, ctx.names = sink, [sink.use(p) for p in (w_x, w_h, b_x, b_h)]
        ctx.save_for_backward(x, h, w_x, w_h, *_slopes(gates, c, tanh_c))
        return h[1:].clone(), h[-1].clone(), c[-1].clone()  # no views: the next operation may work in place

    @staticmethod
    def backward(ctx: Any, g_out: Tensor, g_h: Tensor, g_c: Tensor) -> tuple:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, h, w_x, w_h, *slopes = ctx.saved_tensors
        deltas, g_h, g_c = _back(g_out, g_h, g_c, w_h, *slopes)
        tokens = deltas.transpose(0, 1)
        for name, inputs in zip(ctx.names[:2], (x, h[:-1]), strict=True):
            if name:
                ctx.sink.add(name, Factors(tokens, inputs.transpose(0, 1)))
        for name in filter(None, ctx.names[2:]):
            ctx.sink.add(name, Gradients(deltas.sum(0)))
        g_x = deltas @ w_x if ctx.needs_input_grad[0] else None
        return g_x, g_h, g_c, None, None, None, None, None


def _run(gates: Tensor, h0: Tensor, c0: Tensor, w_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pre-activations from the inputs become gates, in place; states h and c at times 0..T, tanh of c at 1..T."""
    steps, n, hidden = len(gates), *h0.shape
    h, c, tanh_c = (h0.new_empty(length, n, hidden) for length in (steps + 1, steps + 1, steps))
    h[0], c[0] = h0, c0
    for t in range(steps):
        gates[t].addmm_(h[t], w_h.T)
        step(gates[t], c[t], c[t + 1], tanh_c[t], h[t + 1])
    return h, c, tanh_c


def step(gates: Tensor, before: Tensor, c: Tensor, tanh_c: Tensor, h: Tensor) -> None:
    """One step in place: pre-activations (N, 4H) become gates, and give the cell, its tanh and the state (N, H)."""
    hidden = gates.shape[1] // 4
    gates[:, : 2 * hidden].sigmoid_()
    gates[:, 2 * hidden : 3 * hidden].tanh_()
    gates[:, 3 * hidden :].sigmoid_()
    i, f, g, o = gates.chunk(4, 1)
    torch.mul(f, before, out=c).addcmul_(i, g)
    torch.mul(o, torch.tanh(c, out=tanh_c), out=h)


def _slopes(gates: Tensor, c: Tensor, tanh_c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∂c_t/∂(i, f, g pre-activations) (T, N, 3, H); ∂h_t/∂(o pre-activation), ∂h_t/∂c_t, ∂c_t/∂c_{t-1} (T, N, H)."""
    i, f, g, o = gates.chunk(4, 2)
    to_cell = torch.stack([g * i * (1 - i), c[:-1] * f * (1 - f), i * (1 - g * g)], 2)
    to_output = tanh_c * o
    return to_cell, to_output * (1 - o), o - to_output * tanh_c, f


def _back(
    g_out: Tensor, g_h: Tensor, g_c: Tensor, w_h: Tensor, to_cell: Tensor, to_output: Tensor, through: Tensor,
    forget: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the gates' pre-activations (T, N, 4H) and of the first states."""
    steps, n, hidden = g_out.shape
    deltas = g_out.new_empty(steps, n, 4, hidden)
    for t in reversed(range(steps)):
        g_h = g_h + g_out[t]
        cell = torch.addcmul(g_c, g_h, through[t])
        torch.mul(cell.unsqueeze(1), to_cell[t], out=deltas[t, :, :3])
        torch.mul(g_h, to_output[t], out=deltas[t, :, 3])
        g_c, g_h = cell.mul_(forget[t]), deltas[t].flatten(1) @ w_h
    return deltas.flatten(2), g_h, g_c


def lstm(
    sink: Sink, input: Tensor, states: Any, weights: Any, biases: Any, layers: int = 1,
    dropout: float = 0.0, train: bool = False, bidirectional: bool = False, batch_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor] | None:  # fmt: skip
    """`torch.lstm` of padded sequences, without dropout and projections."""
    if not isinstance(biases, bool) or input.dim() != 3 or (train and dropout) or _projects(states):
        return None
    if not sink.batched(input, 0 if batch_first else 1):
        return None
    size, directions = 4 if biases else 2, 2 if bidirectional else 1
    x = input.transpose(0, 1) if batch_first else input
    last: list[tuple[Tensor, Tensor]] = []
    for layer in range(layers):
        outputs = []
        for way in range(directions):
            k = layer * directions + way
            own = [*weights[k * size : (k + 1) * size], None, None][:4]
            run: Any = _Layer.apply(x.flip(0) if way else x, states[0][k], states[1][k], *own, sink)
            outputs.append(run[0].flip(0) if way else run[0])
            last.append(run[1:])
        x = torch.cat(outputs, 2)
    h, c = (torch.stack([pair[j] for pair in last]) for j in (0, 1))
    return x.transpose(0, 1) if batch_first else x, h, c


def _projects(states: Any) -> bool:
    return states[0].shape[2] != states[1].shape[2]
