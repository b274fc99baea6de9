"""Per-example gradients from one backward pass, handed in by the operations that consume a parameter.

Every operation that consumes a parameter directly is intercepted on its way and runs through an autograd node
whose backward passes the input gradient on as usual, does not form the batch's weight gradient, and hands in
what the gradients of the single examples are made of. Subclasses decide what to make of it: square and sum, or
average into Kronecker factors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ...datasets.trees import Inputs, examples, rows
from . import broadcasting, layers, lstm, norms
from .uses import Convolution, Factors, Geometry, Gradients, Lookup, Use

__all__ = ["Convolution", "Factors", "Geometry", "Gradients", "Lookup", "ParameterUses", "Use"]

# Handlers answer None to a call that they cannot follow.
HANDLERS: dict[Callable, Callable[..., Any]] = {
    F.linear: layers.linear,
    F.embedding: layers.embedding,
    torch.addmm: layers.addmm,
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), layers.matmul),
    torch.conv2d: layers.conv2d,
    torch.lstm: lstm.lstm,
    F.layer_norm: norms.layer_norm,
    F.group_norm: norms.group_norm,
    F.batch_norm: norms.batch_norm,
    Tensor.expand: broadcasting.expand,
    **dict.fromkeys((Tensor.add, torch.add, Tensor.__add__, Tensor.__radd__), broadcasting.elementwise(torch.add)),
    **dict.fromkeys((Tensor.mul, torch.mul, Tensor.__mul__, Tensor.__rmul__), broadcasting.elementwise(torch.mul)),
    **dict.fromkeys((Tensor.sub, torch.sub, Tensor.__sub__), broadcasting.elementwise(torch.sub)),
}
# What may lay the tokens of all examples side by side.
FLATTENING = frozenset((Tensor.view, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten))


class ParameterUses(TorchFunctionMode):
    """While active, forward passes record what per-example gradients need; each backward pass then collects them.

    A handler takes the first axis of an operation's input for the examples. That is right if it is as long as
    the batch, whatever the batch: `forward` tries one example first, so that a constant table or the windows of
    an image do not pass for examples.

    Attributes:
        parameters: tracked, by name.
        names: of the tracked parameters, by `id`.
        fallback: names of parameters that cannot be followed; what is collected of them is incomplete.
        examples: in the present batch, if known.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        self.parameters = dict(parameters)
        self.names = {id(p): name for name, p in parameters.items()}
        self.fallback: set[str] = set()
        self.examples: int | None = None
        self._expected = Counter[str]()
        self._waiting: dict[str, list[Use]] = {}
        self._flat = WeakIdKeyDictionary()  # tensors (N · T, C) that were flattened from a batch

    @abstractmethod
    def collect(self, name: str, uses: list[Use]) -> None:
        """All uses of a parameter in this forward pass have come back: called once per backward pass."""

    def new_batch(self) -> None:
        """Forget the uses of the last forward pass."""
        self._expected.clear()
        self._waiting.clear()
        self._flat.clear()

    def try_out(self, network: nn.Module, x: Inputs) -> Tensor:
        """Outputs of the first example (1, C): finds what cannot be followed, unseen by the network's own hooks."""
        self.new_batch()
        self.examples = 1
        drop_caches(network)
        with torch.enable_grad(), self:
            return network.forward(rows(x, slice(1)))

    def forward(self, network: nn.Module, x: Inputs) -> Tensor:
        """Outputs of a new batch, ready for `backward`; shape (N, C)."""
        self.new_batch()
        self.examples = examples(x)
        drop_caches(network)
        with torch.enable_grad(), self:
            return network(x)

    def backward(self, outputs: Tensor, vectors: Tensor) -> None:
        """Send the vectors (N, K, C) back through the last forward pass, whose outputs were (N, C), one by one."""
        if not outputs.requires_grad:  # no parameter has any part in them
            return
        last = vectors.shape[1] - 1
        for k, vector in enumerate(vectors.unbind(1)):
            torch.autograd.grad(
                outputs, list(self.parameters.values()), vector, retain_graph=k < last, allow_unused=True
            )
            self._collect_the_rest()

    def _collect_the_rest(self) -> None:
        """Parameters some of whose uses had no part in the outputs."""
        for name, uses in self._waiting.items():
            self.collect(name, uses)
        self._waiting.clear()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace operations that consume a tracked parameter; pass all others on."""
        kwargs = kwargs or {}
        consumed = [n for a in _tensors((*args, *kwargs.values())) if (n := self.names.get(id(a)))]
        if not consumed:
            result = func(*args, **kwargs)
            if func in FLATTENING:
                self._note_flat(_tensors((*args, *kwargs.values()))[0], result)
            return result
        handler = None if self.fallback.intersection(consumed) else HANDLERS.get(func)
        result = handler(self, *args, **kwargs) if handler else None
        if result is None:
            result = func(*args, **kwargs)
            if any(t.requires_grad for t in _tensors((result,))):  # a shape or a device is no use of the parameter
                self.fallback.update(consumed)
        return result

    def batched(self, x: Tensor, axis: int = 0) -> bool:
        """Whether an axis is as long as the batch."""
        return self.examples is None or x.shape[axis] == self.examples

    def tokens(self, flat: Tensor) -> Tensor | None:
        """(N, T, C) of what a batch was flattened to, (N · T, C); None of anything else."""
        return flat.view(self.examples or 1, -1, flat.shape[1]) if flat in self._flat else None

    def _note_flat(self, before: Tensor, after: Tensor) -> None:
        if before.dim() > 2 and after.dim() == 2 and self.batched(before) and before.shape[-1] == after.shape[-1]:
            self._flat[after] = True

    # -------------------------------------------------------------- what the nodes hand in

    def use(self, parameter: Tensor | None) -> str | None:
        """Note one use of a parameter; its name if it is tracked."""
        name = self.names.get(id(parameter))
        if name:
            self._expected[name] += 1
        return name

    def add(self, name: str, use: Use) -> None:
        """One use has come back."""
        if name in self.fallback:
            return
        uses = self._waiting.setdefault(name, [])
        uses.append(use)
        if len(uses) == self._expected[name]:
            self.collect(name, self._waiting.pop(name))


def drop_caches(network: nn.Module) -> None:
    """Let go of what a network in evaluation mode computed from its parameters and kept (LeViT's biases).

    A tensor that is kept belongs to the graph of an earlier pass. Networks let go when they are to train.
    """
    modes = {module: module.training for module in network.modules()}
    network.train()
    for module, mode in modes.items():
        module.training = mode


def _tensors(arguments: tuple) -> list[Tensor]:
    found = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif isinstance(argument, tuple | list):
            found += [a for a in argument if isinstance(a, Tensor)]
    return found
