"""Modules whose forward pass writes sizes down, and that are told other ones.

Many an attention layer views its values as (B, N, C) with the C of its inputs, or computes the width of its heads from
it, which is wrong once heads have left. The sizes that a forward pass gives to views are replaced where they must be
others: `sized_calls` tells which.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Three numbers for each size: which of the calls that take sizes, which of its sizes, and what that is to be.
Calls = tuple[int, ...]
_LISTED = frozenset(("reshape", "view", "expand"))


class Sized(TorchFunctionMode):
    """Count the calls that take sizes inside a `with` block, and replace sizes that are to be others.

    Attributes:
        replaced: The (call, place) whose sizes were others than those to be put in their place.
    """

    def __init__(self, sizes: Mapping[tuple[int, int], int]):
        super().__init__()
        self.sizes = sizes
        self.replaced: set[tuple[int, int]] = set()
        self._calls = 0

    def __torch_function__(self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` with the sizes that it is to have."""
        kwargs = kwargs or {}
        if (taken := sizes_in(func, args, kwargs)) is None:
            return func(*args, **kwargs)
        call, self._calls = self._calls, self._calls + 1
        wanted = {place: size for (number, place), size in self.sizes.items() if number == call}
        if not wanted:
            return func(*args, **kwargs)
        sizes = taken.sizes
        self.replaced.update((call, place) for place, size in wanted.items() if sizes[place] not in (-1, size))
        result = func(*taken.arguments([wanted.get(place, size) for place, size in enumerate(sizes)]))
        return result * taken.share(wanted) if taken.is_average else result


@dataclass(frozen=True)
class Taken:
    """The sizes that a call takes, and how to write its arguments with others in their place.

    Of an average, they are the lengths of the axes that it is taken over: others mean that it is to be one over more.
    """

    sizes: tuple[int, ...]
    arguments: Callable[[list[int]], tuple[Any, ...]]
    is_average: bool = False

    def share(self, wanted: Mapping[int, int]) -> float:
        """By what an average is multiplied to be one over as many terms as wanted, of which the others are zero."""
        return math.prod(self.sizes[place] / size for place, size in wanted.items())


def sizes_in(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Taken | None:
    """The sizes that a call takes, or None: those of views, of parts and of averages, and the bounds of slices."""
    name = getattr(func, "__name__", "")
    if not args or not isinstance(args[0], Tensor):
        return None
    if name == "mean":
        sizes = tuple(args[0].shape[axis] for axis in averaged_axes(args, kwargs))
        axes, keeps = averaged_axes(args, kwargs), args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        return Taken(sizes, lambda _: (args[0], axes, keeps), True) if not kwargs.keys() - {"dim", "keepdim"} else None
    if len(args) < 2:
        return None
    if name in _LISTED and not kwargs:
        sizes = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
        return Taken(tuple(sizes), lambda now: (args[0], now))
    if name == "unflatten" and len(args) == 3 and isinstance(args[1], int):
        return Taken(tuple(args[2]), lambda now: (args[0], args[1], now))
    if name in ("split", "split_with_sizes"):
        axis = args[2] if len(args) > 2 else kwargs.get("dim", 0)
        if isinstance(args[1], (tuple, list)):
            return Taken(tuple(args[1]), lambda now: (args[0], now, axis))
        return Taken((args[1],), lambda now: (args[0], now[0], axis))
    if name == "__getitem__":
        return _bounds(args[0], args[1])
    return None


def averaged_axes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int]:
    """The axes that `mean` with these arguments is taken over."""
    given, dim = args[1] if len(args) > 1 else kwargs.get("dim"), args[0].dim()
    axes = range(dim) if given is None or given == () else given if isinstance(given, (tuple, list)) else (given,)
    return sorted(axis % dim for axis in axes)


def _bounds(tensor: Tensor, index: Any) -> Taken | None:
    """The bounds of the slices of an index, in their order."""
    parts = index if isinstance(index, tuple) else (index,)
    given = [(i, end) for i, part in enumerate(parts) if isinstance(part, slice) for end in ("start", "stop")]
    given = [(i, end) for i, end in given if isinstance(getattr(parts[i], end), int) and getattr(parts[i], end) > 0]
    if not given:
        return None

    def arguments(now: list[int]) -> tuple[Any, ...]:
        told = dict(zip(given, now, strict=True))
        changed = [
            slice(told.get((i, "start"), part.start), told.get((i, "stop"), part.stop), part.step)
            if isinstance(part, slice)
            else part
            for i, part in enumerate(parts)
        ]
        return tensor, tuple(changed)

    return Taken(tuple(getattr(parts[i], end) for i, end in given), arguments)


def axes_of_bounds(index: Any, dim: int) -> list[int]:
    """The axis, of `dim` axes, that each of the bounds of the slices of an index is on."""
    parts = index if isinstance(index, tuple) else (index,)
    width = sum(part.dim() if isinstance(part, Tensor) and part.dtype == torch.bool else 1
                for part in parts if part is not None and part is not Ellipsis)  # fmt: skip
    axes, axis = [], 0
    for part in parts:
        if isinstance(part, slice):
            bounds = (part.start, part.stop)
            axes += [axis] * sum(isinstance(bound, int) and bound > 0 for bound in bounds)
        axis += dim - width if part is Ellipsis else part is not None
    return axes


# Who wants to know which sizes are replaced, the last one first.
_observers: list[Callable[[nn.Module, set[tuple[int, int]]], None]] = []


@contextlib.contextmanager
def observed(network: nn.Module, seen: dict[str, set[tuple[int, int]]]) -> Iterator[None]:
    """Collect, for every module by its name, the (call, place) at which its sizes are replaced inside the block."""
    names = {module: name for name, module in network.named_modules()}

    def observe(module: nn.Module, replaced: set[tuple[int, int]]) -> None:
        found.append((names[module], replaced))

    found: list[tuple[str, set[tuple[int, int]]]] = []
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)
        for name, replaced in found:
            seen.setdefault(name, set()).update(replaced)


class _Resized(nn.Module):
    """Attributes: `sized_calls`, which calls of the forward pass take which sizes."""

    sized_calls: Calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the class does, with other sizes."""
        with Sized(_mapping(self.sized_calls)) as sized:
            if _observers:
                _observers[-1](self, sized.replaced)
            return super().forward(*args, **kwargs)  # pyright: ignore[reportCallIssue]

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (type(self).__mro__[2],), self.__dict__


@functools.cache
def _resized(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Resized, kind), {"__module__": kind.__module__})


def _new(kind: type[nn.Module]) -> nn.Module:
    own = _resized(kind)
    return own.__new__(own)


def _mapping(calls: Calls) -> dict[tuple[int, int], int]:
    return {(call, place): size for call, place, size in zip(*[iter(calls)] * 3, strict=True)}


def resized_(module: nn.Module, calls: Calls) -> None:
    """Let the forward pass of a module, in place, use these sizes, beside those that it is told already."""
    known = _mapping(module.sized_calls) if isinstance(module, _Resized) else {}
    if not isinstance(module, _Resized):
        module.__class__ = _resized(type(module))
    vars(module)["sized_calls"] = tuple(_flat(known | _mapping(calls)))


def _flat(sizes: Mapping[tuple[int, int], int]) -> Iterator[int]:
    for (call, place), size in sorted(sizes.items()):
        yield from (call, place, size)
