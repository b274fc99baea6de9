"""Noise on the structures of an LSTM, one draw for each sequence, the same at all of its steps.

With factors z^k of gates and z^h of neurons (Chirkova, Lobacheva, Vetrov, EMNLP 2018, arXiv 1810.10927)

    a_k(t) = (x_t W_x + h_{t-1} W_h) z^k + b_k,    c_t = s(f) c_{t-1} + s(i) tanh(g),    h_t = s(o) tanh(c_t) z^h.

Factors that all sequences share fold into the weights, which the fused kernel then takes; those of a sequence do not,
and the recurrence is written out, with its back-propagation through time in one autograd node.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...architectures.layers.words import Words, located
from ...architectures.lstm import LSTM
from ..gradients.lstm import step
from .structures import Structure

# Factors by the name of their structure, each of shape (1 or sequences, units).
Factors = Mapping[str, Tensor]


class StructureNoise:
    """Hooks that multiply the structures `noisy` of a network by factors, until `remove`.

    A network that is copied takes the noise along.

    Args:
        network: gets the hooks, and another forward pass of its layers.
        noisy: the structures with factors.
        factors: of a number of sequences, in training or in evaluation mode.
    """

    def __init__(self, network: LSTM, noisy: Iterable[Structure], factors: Callable[[int, bool], Factors]) -> None:
        self._names = {structure.name for structure in noisy}
        self._factors = factors
        self._drawn: Factors = {}
        self._layers: list[Any] = list(network.recurrent)
        self._handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(lambda network, inputs: self._enter(network, inputs)),
            network.register_forward_hook(lambda *_: self._leave(), always_call=True),
            *self._on_inputs(network),
        ]
        for i, layer in enumerate(self._layers):
            # A bound method, which a copy of the network binds to its own layer.
            layer.forward = types.MethodType(self._recurrence(f"recurrent.{i}"), layer)

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            del layer.forward

    def _enter(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._drawn = self._factors(len(inputs[0]), network.training)

    def _leave(self) -> None:
        self._drawn = {}  # and with it the graph of the pass

    def _on_inputs(self, network: LSTM) -> Iterable[RemovableHandle]:
        if "inputs words" in self._names and isinstance(network.inputs, Words):
            yield network.inputs.register_forward_hook(lambda *call: self._of_words(*call))
        for name in sorted(self._names & {"inputs dimensions", "inputs words"}):
            if name == "inputs dimensions" or not isinstance(network.inputs, Words):
                multiply = self._multiplier(name)
                yield self._layers[0].register_forward_pre_hook(multiply)

    def _of_words(self, words: Any, inputs: tuple[Tensor, ...], vectors: Any) -> Tensor:
        rows = located(inputs[0], words.present, words.vocabulary)[0]
        factors = self._drawn["inputs words"].expand(len(rows), -1)
        return vectors * factors.gather(1, rows).unsqueeze(2)

    def _multiplier(self, name: str) -> Callable[..., tuple[Any, ...]]:
        return lambda _, inputs: (inputs[0] * self._drawn[name].unsqueeze(1), *inputs[1:])

    def _recurrence(self, layer: str) -> Callable[..., tuple[Tensor]]:
        names = [f"{layer} gates", f"{layer} neurons"]

        def forward(module: Any, x: Tensor) -> tuple[Tensor]:
            rows = (len(module.bias_ih_l0), module.hidden_size)
            z_gates, z_neurons = (self._drawn.get(n, x.new_ones(1, k)) for n, k in zip(names, rows, strict=True))
            compute = folded if len(z_gates) == len(z_neurons) == 1 else written_out
            return (compute(module, x, z_gates, z_neurons),)

        return forward


def folded(module: Any, x: Tensor, z_gates: Tensor, z_neurons: Tensor) -> Tensor:
    """States (N, T, H) of a layer whose factors, (1, 4H) and (1, H), are the same for all sequences x (N, T, in)."""
    first = x.new_zeros(1, len(x), module.hidden_size)
    w_x, w_h = module.weight_ih_l0 * z_gates.T, module.weight_hh_l0 * z_gates.T * z_neurons
    weights = [w_x, w_h, module.bias_ih_l0, module.bias_hh_l0]
    return torch.lstm(x, [first, first], weights, True, 1, 0.0, module.training, False, True)[0] * z_neurons


def written_out(module: Any, x: Tensor, z_gates: Tensor, z_neurons: Tensor) -> Tensor:
    """States (N, T, H) of a layer with factors (1 or N, 4H) and (1 or N, H) for each of the sequences x (N, T, in)."""
    read = F.linear(x.transpose(0, 1), module.weight_ih_l0)
    bias = module.bias_ih_l0 + module.bias_hh_l0
    states: Any = _Recurrence.apply(read, module.weight_hh_l0, bias, z_gates, z_neurons)
    return states.transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """States (T, N, H) from x W_x (T, N, 4H), W_h, b, z^k and z^h, beginning at zero.

    Of W_h, b, z^k and z^h the gradients are sums over the steps, formed at once after the last of them.
    """

    @staticmethod
    def forward(ctx: Any, read: Tensor, w_h: Tensor, bias: Tensor, z_gates: Tensor, z_neurons: Tensor) -> Tensor:
        steps, n, rows = read.shape
        sums, gates = torch.empty_like(read), torch.empty_like(read)
        h, c = (read.new_zeros(steps + 1, n, rows // 4) for _ in range(2))
        tanh_c = torch.empty_like(c[1:])
        for t in range(steps):
            torch.addmm(read[t], h[t], w_h.T, out=sums[t])
            torch.addcmul(bias, sums[t], z_gates, out=gates[t])
            step(gates[t], c[t], c[t + 1], tanh_c[t], h[t + 1])
            h[t + 1].mul_(z_neurons)
        ctx.save_for_backward(w_h, z_gates, z_neurons, sums, gates, h, c, tanh_c)
        return h[1:].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_out: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        w_h, z_gates, z_neurons, sums, gates, h, c, tanh_c = ctx.saved_tensors
        deltas, g_states = torch.empty_like(gates), torch.empty_like(tanh_c)
        g_h, g_c = torch.zeros_like(c[0]), torch.zeros_like(c[0])
        for t in reversed(range(len(gates))):
            torch.add(g_h, g_out[t], out=g_states[t])
            g_c = _to_gates(g_states[t] * z_neurons, g_c, gates[t], c[t], tanh_c[t], deltas[t])
            g_h = (deltas[t] * z_gates) @ w_h
        g_gates = (deltas * sums).sum(0).sum_to_size(z_gates.shape) if ctx.needs_input_grad[3] else None
        o = gates.chunk(4, 2)[3]
        g_neurons = (g_states * o * tanh_c).sum(0).sum_to_size(z_neurons.shape) if ctx.needs_input_grad[4] else None
        g_bias, g_read = deltas.sum((0, 1)), deltas.mul_(z_gates)
        g_w = g_read.flatten(0, 1).T @ h[:-1].flatten(0, 1)
        return g_read, g_w, g_bias, g_gates, g_neurons  # pyright: ignore[reportReturnType]


def _to_gates(g_h: Tensor, g_c: Tensor, gates: Tensor, c: Tensor, tanh_c: Tensor, out: Tensor) -> Tensor:
    """Gradients of one step's pre-activations into `out`; returns that of the cell before it.

    `g_h` is the gradient of s(o) tanh(c_t), `g_c` that of c_t from later steps, `c` the cell before the step.
    """
    i, f, g, o = gates.chunk(4, 1)
    to_i, to_f, to_g, to_o = out.chunk(4, 1)
    torch.mul(g_h, tanh_c, out=to_o)
    g_c = torch.addcmul(g_c, g_h * o, 1 - tanh_c.square())
    torch.mul(g_c, g, out=to_i)
    torch.mul(g_c, c, out=to_f)
    torch.mul(g_c, i, out=to_g).mul_(1 - g.square())
    for gate, gradient in ((i, to_i), (f, to_f), (o, to_o)):
        gradient.mul_(gate).mul_(1 - gate)
    return g_c * f
