"""A pass in double precision from end to end, whatever precision a network asks for on its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_LESS = frozenset((torch.float32, torch.float16, torch.bfloat16))


@contextmanager
def in_double() -> Iterator[None]:
    """Inside, whatever was to be made, converted or read in a floating-point type of less precision is in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(before)


class _Double(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation with float64 in the place of any lesser type."""
        kwargs = kwargs or {}
        if any(_is_less(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
            written = args[:1] if func._schema.is_mutable else ()
            args, kwargs = pytree.tree_map(_raised, (args[len(written) :], kwargs))
            args = (*written, *args)
        return func(*args, **kwargs)


def _is_less(value: Any) -> bool:
    return (value.dtype if isinstance(value, Tensor) else value) in _LESS if _is_typed(value) else False


def _is_typed(value: Any) -> bool:
    return isinstance(value, (Tensor, torch.dtype))


def _raised(value: Any) -> Any:
    if not _is_less(value):
        return value
    return value.to(torch.float64) if isinstance(value, Tensor) else torch.float64
