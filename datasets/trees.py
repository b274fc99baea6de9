"""Inputs of any form: one tensor, or nested dicts, tuples and lists of tensors, each with a row for every example.

One tensor, by far the most frequent form, is never taken apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import UsageError

# A tensor (N, ...), or nested dicts, tuples and lists of such; what is no tensor among them stays as it is.
Inputs = Any


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists and dicts, in their order."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def mapped(inputs: Inputs, change: Any) -> Inputs:
    """The same form, with `change` of every tensor in its place."""
    return change(inputs) if isinstance(inputs, Tensor) else pytree.tree_map_only(Tensor, change, inputs)


def rows(inputs: Inputs, some: Tensor | slice) -> Inputs:
    """Some of the examples of every input."""
    return inputs[some] if isinstance(inputs, Tensor) else mapped(inputs, lambda tensor: tensor[some])


def pieces(inputs: Inputs, size: int | list[int]) -> Sequence[Inputs]:
    """All examples in parts of at most `size`, or of these sizes."""
    if isinstance(inputs, Tensor):
        return inputs.split(size)
    leaves, form = pytree.tree_flatten(inputs)
    count = examples(inputs)
    sizes = size if isinstance(size, list) else [min(size, count - start) for start in range(0, count, size)]
    split = [leaf.split(sizes) if isinstance(leaf, Tensor) else [leaf] * len(sizes) for leaf in leaves]
    return [pytree.tree_unflatten(list(part), form) for part in zip(*split, strict=True)]


def examples(inputs: Inputs) -> int:
    """How many examples there are: the length of every input, the first one's if they differ; 0 without inputs."""
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.dim() else 0
    tensors = tensors_in(inputs)
    return len(tensors[0]) if tensors and tensors[0].dim() else 0


def device_of(inputs: Inputs) -> torch.device:
    """Where the first tensor lives; the CPU without any."""
    if isinstance(inputs, Tensor):
        return inputs.device
    return next((tensor.device for tensor in tensors_in(inputs)), torch.device("cpu"))


def plain_tree(value: Any) -> Inputs:
    """What a loader gives in plain dicts, tuples, lists and tensors; arrays of numpy become tensors."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain_tree(part) for key, part in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(plain_tree(part) for part in value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "buif":
        return torch.from_numpy(np.array(value, order="C"))
    return value


def form_of(inputs: Inputs) -> tuple[Any, ...]:
    """What batches of one set have in common: names and places of the tensors, their types and numbers of axes."""
    if isinstance(inputs, Tensor):
        return inputs.dtype, inputs.dim()
    leaves, form = pytree.tree_flatten(inputs)
    return form, *((leaf.dtype, leaf.dim()) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves)


def described(inputs: Inputs) -> str:
    """The same in words."""
    if isinstance(inputs, Tensor):
        return f"{str(inputs.dtype).removeprefix('torch.')} of {inputs.dim()} axes"
    if isinstance(inputs, dict):
        return f"a dict of {', '.join(map(repr, inputs)) or 'nothing'}"
    if isinstance(inputs, tuple | list):
        return f"({', '.join(map(described, inputs))})"
    return f"a {type(inputs).__name__}"


def is_padded(inputs: Inputs) -> bool:
    """Whether sequences may be filled up: an `attention_mask` says what of them is no input."""
    return isinstance(inputs, dict) and "attention_mask" in inputs


def joined(parts: Sequence[Inputs], fill: float = 0, padded: bool | None = None) -> Inputs:
    """The examples of all parts, one after the other; if they are `padded`, shorter sequences are filled up at the end.

    Raises UsageError for other parts whose examples differ in shape.
    """
    if len(parts) == 1:
        return parts[0]
    found, start = blank(parts[0], sum(map(examples, parts))), 0
    for part in parts:
        where = torch.arange(start, start + examples(part))
        found = placed(found, where, part, fill, is_padded(parts[0]) if padded is None else padded)
        start += len(where)
    return found


def blank(like: Inputs, count: int) -> Inputs:
    """Room for so many examples that are like these."""
    return mapped(like, lambda tensor: tensor.new_zeros((count, *tensor.shape[1:])))


def placed(into: Inputs, where: Tensor, part: Inputs, fill: float, padded: bool) -> Inputs:
    """The examples `into`, after those of `part` have been put at the positions `where`; errors as of `joined`."""
    leaves, form = pytree.tree_flatten(into)
    pairs = zip(leaves, pytree.tree_leaves(part), strict=True)
    return pytree.tree_unflatten([_placed(old, where, new, fill, padded) for old, new in pairs], form)


def _placed(into: Any, where: Tensor, part: Any, fill: float, padded: bool) -> Any:
    if not isinstance(into, Tensor):
        return into
    if into.shape[1:] != part.shape[1:]:
        if not padded or into.dim() < 2 or into.shape[2:] != part.shape[2:]:
            raise UsageError(
                f"examples of different shapes cannot be joined, {tuple(into.shape[1:])} and {tuple(part.shape[1:])}: "
                "let the loader pad or resize all to one shape, or give dicts with an attention_mask"
            )
        longest = max(into.shape[1], part.shape[1])
        into, part = (_filled_up(tensor, longest, fill) for tensor in (into, part))
    into[where.to(into.device)] = part
    return into


def _filled_up(sequences: Tensor, length: int, fill: float) -> Tensor:
    missing = length - sequences.shape[1]
    if not missing:
        return sequences
    return torch.cat([sequences, sequences.new_full((len(sequences), missing, *sequences.shape[2:]), fill)], 1)
