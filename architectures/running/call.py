"""Networks with one input, several, or inputs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

# What a network is called with: a tensor, several in their order, or some by the names of its arguments.
Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def called(network: nn.Module, inputs: Inputs) -> Any:
    """What the network returns for these inputs."""
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(inputs) if isinstance(inputs, Tensor) else network(*inputs)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists and dicts, in their order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def rows(inputs: Inputs, some: slice) -> Inputs:
    """Some of the examples of every input."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[some], inputs)


def examples(inputs: Inputs) -> int:
    """How many examples there are: the length of every input, the first one's if they differ; 0 without inputs."""
    tensors = tensors_in(inputs)
    return len(tensors[0]) if tensors and tensors[0].dim() else 0
