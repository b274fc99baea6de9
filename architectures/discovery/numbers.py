"""Whole numbers that modules keep, such as a number of heads, followed into the operations that take them.

A forward pass tells an operation how many heads there are by `self.num_heads`, or by something computed from it. While
a network is lent, such attributes are `Number`s: integers that remember where they were read and what was computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn
from torch.overrides import TorchFunctionMode

from ..layers.resize import resize
from ..layers.sized import sizes_in
from .positions import Track
from .watch import Watch

_ATTENTION = "scaled_dot_product_attention"
Key = tuple[str, str, int]  # the module's path, the attribute, and the place in it, -1 if it is no sequence


class Number(int):
    """An integer, the attributes that it was computed from, and how to compute it from others."""

    values: dict[Key, int]
    compute: Callable[[Mapping[Key, int]], int]

    def __new__(cls, value: int, values: dict[Key, int], compute: Callable[[Mapping[Key, int]], int]) -> Number:
        """The integer `value`, computed from attributes of these `values`."""
        number = super().__new__(cls, value)
        number.values, number.compute = values, compute
        return number

    @property
    def sources(self) -> frozenset[Key]:
        """The attributes that it was computed from."""
        return frozenset(self.values)

    @classmethod
    def read(cls, key: Key, value: int) -> Number:
        """The value of an attribute."""
        return cls(value, {key: value}, lambda values: values.get(key, value))

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def __deepcopy__(self, memo: object) -> int:
        return int(self)


def _computed(function: Callable[[int, int], Any], swapped: bool) -> Callable[[Any, Any], Any]:
    def compute(one: Any, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        left, right = (other, one) if swapped else (one, other)

        def again(values: Mapping[Key, int]) -> int:
            now = (each.compute(values) if isinstance(each, Number) else int(each) for each in (left, right))
            return function(*now)

        values = {k: v for each in (left, right) if isinstance(each, Number) for k, v in each.values.items()}
        return Number(function(int(left), int(right)), values, again)

    return compute


for _name in ("add", "sub", "mul", "floordiv"):
    setattr(Number, f"__{_name}__", _computed(getattr(operator, _name), False))
    setattr(Number, f"__r{_name}__", _computed(getattr(operator, _name), True))


@dataclass(frozen=True, eq=False)
class Need:
    """That `number` counts the positions of `track` along `axis`, or those before `end` of them."""

    number: Number
    track: Track
    axis: int
    start: int = 0
    end: int | None = None


# Sizes that layers of torch keep of themselves; `layers.resize` and the groups of convolutions see to these.
LAYER_SIZES = frozenset((
    "in_features", "out_features", "in_channels", "out_channels", "groups", "num_features", "num_channels",
    "num_groups", "normalized_shape", "num_embeddings", "embedding_dim", "input_size", "hidden_size",
))  # fmt: skip


def follow_numbers(network: nn.Module) -> None:
    """Put Numbers in the place of whole numbers that modules of a lent network keep; layers of torch keep theirs."""
    for path, module in network.named_modules():
        if not type(module).__module__.startswith("torch.nn"):
            own = vars(module)
            theirs = LAYER_SIZES if resize.dispatch(type(module)) is not resize.dispatch(nn.Module) else ()
            for name, value in list(own.items()):
                if not name.startswith("_") and name not in theirs:
                    own[name] = _read(path, name, value)


def _read(path: str, name: str, value: Any) -> Any:
    if type(value) is int:
        return Number.read((path, name, -1), value)
    if type(value) in (tuple, list) and value and all(type(each) is int for each in value):
        return type(value)(Number.read((path, name, i), each) for i, each in enumerate(value))
    return value


class Seen(Protocol):
    """What is noted of calls: those that took sizes, and whether the one that runs scales by the width of heads."""

    sizings: list[Sizing]
    by_width: bool
    is_averaging: bool


class Passing(TorchFunctionMode):
    """Note, for each function of torch that is called, the Numbers among its arguments, and calls that take sizes.

    Attributes:
        noted: The Numbers of the call that runs.
        flow: Takes up the calls that took sizes.
    """

    def __init__(self, watch: Watch, noted: list[Number], flow: Seen):
        super().__init__()
        self.watch, self.noted, self.flow = watch, noted, flow

    def __torch_function__(self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`."""
        kwargs = kwargs or {}
        taken = sizes_in(func, args, kwargs)
        outer, self.noted[:] = list(self.noted), _numbers((args, kwargs)) if taken is None else ()
        self.flow.is_averaging = taken is not None and taken.is_average
        self.flow.by_width = getattr(func, "__name__", "") == _ATTENTION and kwargs.get("scale") is None
        try:
            result = func(*args, **kwargs)
        finally:
            self.noted[:], self.flow.by_width, self.flow.is_averaging = outer, False, False
        if taken is not None:
            self._size(func.__name__, args, kwargs, taken.sizes, result)
        return result

    def _size(self, name: str, args: Any, kwargs: Any, sizes: tuple[int, ...], result: Any) -> None:
        places = dict(zip(self.watch.inside, self.watch.sized, strict=True))
        self.watch.sized[:] = [count + 1 for count in self.watch.sized]
        self.flow.sizings.append(Sizing(name, places, args, kwargs, sizes, result))


@dataclass(frozen=True, eq=False)
class Sizing:
    """A call that took sizes.

    Attributes:
        name: Of the function.
        calls: Modules whose forward passes were running, and which of their calls it was.
        args: Its arguments, the tensor first.
        kwargs: Those that have names.
        sizes: The sizes among them, some of them Numbers.
        result: What it returned.
    """

    name: str
    calls: Mapping[str, int]
    args: Any
    kwargs: Any
    sizes: tuple[int, ...]
    result: Any


def _numbers(value: Any) -> Iterator[Number]:
    if isinstance(value, Number):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, slice):
        yield from _numbers((value.start, value.stop, value.step))


def counted(need: Need, track: Track) -> np.ndarray:
    """The positions that a number counts, shape (n,), of the settled `track`; none if they vary along other axes."""
    if track.shape[need.axis] == 1:
        return np.empty(0, np.int64)
    return np.moveaxis(track, need.axis, 0).reshape(track.shape[need.axis], -1)[need.start : need.end, 0]
