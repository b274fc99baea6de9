"""Building a network that a file describes, without letting the file decide how much is built.

A bundle's plan says depths, widths and shapes of inputs, and anybody can write a file. What it describes may be larger
than what it holds, as a compact network is smaller than the dense one, but every dense tensor has a counterpart in
the file. So numbers of layers are bounded exactly, and elements by a generous multiple of those in the file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.nn.modules import module as modules
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...datasets.errors import UsageError

FREE = 1 << 26  # elements that any file may describe: 256 MiB in single precision
RATIO = 4096  # dense elements for each one in the file, beyond that
INPUT = 1 << 24  # elements of one example
REPLACED = 4  # how often a builder may put another tensor or module in a place that it has filled
WITHOUT_TENSORS = 16  # modules for each tensor: activations, dropout, containers
FEW = 1024  # modules that any network may have

_bounded: ContextVar[bool] = ContextVar("bounded", default=False)


def is_bounded() -> bool:
    """Whether a file's description is being built: its inputs have no meaning, and nothing is run on them."""
    return _bounded.get()


def check_numbers(architecture: Mapping[str, Any], most: int) -> None:
    """Raise UsageError for numbers of an architecture that no file could fill, before a builder loops over them."""
    for number in _numbers(architecture):
        if not math.isfinite(number) or abs(number) > most:
            raise UsageError(f"it describes a network with a size of {number:.6g}, more than its tensors can fill")
    if any(side < 1 for side in architecture["input_shape"]) or architecture["outputs"] < 1:
        raise UsageError("the shape of its inputs and the number of its outputs must be above 0")
    if math.prod(architecture["input_shape"]) > INPUT and len(architecture["input_shape"]) != 2:
        raise UsageError(f"it describes inputs of shape {architecture['input_shape']}, larger than this program reads")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_numbers, value))
    elif isinstance(value, int | float):
        yield value


def most_elements(elements: int) -> int:
    """Elements that the description in a file of so many elements may ask for."""
    return max(FREE, RATIO * elements)


@contextmanager
def bounded(tensors: int, elements: int) -> Iterator[None]:
    """Build at most what a file with so many tensors and elements can describe; raises UsageError at the excess."""
    counts = {"tensor": REPLACED * tensors, "module": REPLACED * WITHOUT_TENSORS * tensors + FEW}

    def count(kind: str) -> None:
        counts[kind] -= 1
        if counts[kind] < 0:
            raise UsageError(f"it describes a network of more layers than its {tensors} tensors can fill")

    hooks = [
        modules.register_module_parameter_registration_hook(lambda *_: count("tensor")),
        modules.register_module_module_registration_hook(lambda *_: count("module")),
    ]
    token = _bounded.set(True)
    try:
        with _Elements(most_elements(elements)):
            yield
    finally:
        _bounded.reset(token)
        for hook in hooks:
            hook.remove()


class _Elements(TorchDispatchMode):
    """Counts the elements that operators make: those of new tensors before they are there, others afterwards."""

    def __init__(self, most: int):
        super().__init__()
        self.left = most

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = tree_leaves((args, kwargs))
        if not any(isinstance(value, Tensor) for value in given):
            self._take(_asked_for(args))
            return func(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._take(value.numel())
        return made

    def _take(self, elements: float) -> None:
        self.left -= elements
        if self.left < 0:
            raise UsageError("it describes a network larger than its tensors can fill")


def _asked_for(args: tuple) -> float:
    """Elements of a new tensor: the product of its sizes, or the end of a range."""
    sizes = [math.prod(value) for value in args if isinstance(value, list | tuple) and all(map(_is_size, value))]
    return max(sizes, default=max((value for value in args if _is_size(value)), default=0))


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
