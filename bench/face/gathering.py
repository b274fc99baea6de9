"""The examples that `prune` is given, as one split in memory.

Whatever does not fit is a UsageError of one sentence that names the value and the fix.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures.running.modes import evaluating, to_network
from ...datasets.arrays import plain
from ...datasets.data import Data, Split
from ...datasets.errors import UsageError, one_line
from ..training.seeding import derived, seeded

Array = Tensor | np.ndarray
Examples = Data | Split | Sequence[Array] | Iterable[Sequence[Array]]

WRAP = (
    "one tensor is needed: join the inputs, and wrap the network in a module whose forward(x) takes them apart, such "
    "as self.network(x[:, :6], x[:, 6:])"
)


def gathered(data: Examples, seed: int = 0) -> Split:
    """Training examples of any accepted form, as one split in memory; int64 inputs may be tokens, and stay.

    What a loader draws (its order, augmentations) it draws under `seed`. Targets keep their type; those of shape (N,)
    that are real become (N, 1).
    """
    if isinstance(data, Data):
        return data.train
    if isinstance(data, Split):
        return data
    with drawing_under(seed, data):
        batches = _batches(data)
    x, y = (_joined([b[i] for b in batches], what) for i, what in enumerate(("inputs", "targets")))
    if x.is_complex() or y.is_complex():
        raise UsageError(f"data must be real numbers, got {x.dtype} inputs and {y.dtype} targets")
    x = x if x.dtype == torch.int64 or x.is_floating_point() else x.float()
    if y.is_floating_point():
        return Split(x, y.unsqueeze(1) if y.dim() == 1 else y)
    return Split(x, y.long(), "categorical")


def readable(network: nn.Module, split: Split) -> Split:
    """The split in the types that the network reads: of whole numbers real ones, unless they are tokens.

    Tokens they are to a network that takes them as they are and does not take real numbers.
    """
    x, y = (to_network(part, network) for part in (split.x, split.y))
    if split.x.is_floating_point():
        return Split(x, y, split.likelihood)
    real = Split(to_network(split.x.float(), network), y, split.likelihood)
    tokens = Split(x, y, split.likelihood)
    return tokens if _takes(network, tokens) and not _takes(network, real) else real


def _takes(network: nn.Module, split: Split) -> bool:
    try:
        with evaluating(network), torch.no_grad():
            network(split.x[:2])
    except Exception:
        return False
    return True


# ---------------------------------------------------------------------- what a loader draws


@contextmanager
def drawing_under(seed: int, data: Any) -> Iterator[None]:
    """Whatever is drawn in the block, by torch, numpy, Python or generators that `data` holds, follows from `seed`.

    All are put back to where they were.
    """
    number = derived(seed, "data")
    generators = {id(g): g for g in _generators(data)}.values()
    states = [(g, g.get_state()) for g in generators]
    before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002
        for generator in generators:
            generator.manual_seed(number)
        with seeded(seed, "data"):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)  # noqa: NPY002
        for generator, state in states:
            generator.set_state(state)


def _generators(data: Any) -> Iterator[torch.Generator]:
    """The generators of a loader and of what it draws with."""
    sampler, batches = getattr(data, "sampler", None), getattr(data, "batch_sampler", None)
    for holder in (data, sampler, batches, getattr(batches, "sampler", None)):
        if isinstance(found := getattr(holder, "generator", None), torch.Generator):
            yield found


# ---------------------------------------------------------------------- batches


def _batches(data: Any) -> list[Sequence[Any]]:
    if isinstance(data, Mapping):
        if set(data) != {"x", "y"}:
            raise UsageError(f"data is a dict of {_keys(data)}, not of x and y: {WRAP}")
        data = (data["x"], data["y"])
    if isinstance(data, tuple | list) and data and all(hasattr(part, "__array__") for part in data):
        if len(data) > 2:
            raise UsageError(f"data holds {len(data)} arrays, not x and y: {WRAP}")
        if len(data) == 2:
            return [data]
    listed: list[Any] = list(data) if isinstance(data, Iterable) and not hasattr(data, "__array__") else []
    for batch in listed:
        _check_batch(batch)
    if not listed:
        raise UsageError("data must be (x, y) arrays or an iterable of (x, y) batches with at least one batch")
    return listed


def _check_batch(batch: Any) -> None:
    if isinstance(batch, Mapping):
        raise UsageError(f"the batches of data are dicts of {_keys(batch)}, not (x, y): {WRAP}")
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise UsageError("data must be (x, y) arrays or an iterable of (x, y) batches with at least one batch")
    if len(batch) > 2:
        raise UsageError(f"the batches of data hold {len(batch)} things, not x and y: {WRAP}")
    for what, part, other in (("inputs", batch[0], batch[1]), ("targets", batch[1], batch[0])):
        if isinstance(part, Mapping):
            raise UsageError(f"the {what} of a batch are a dict of {_keys(part)}, not one tensor: {WRAP}")
        several = isinstance(part, tuple | list) and any(hasattr(p, "shape") and p.shape for p in part)
        if several and len(part) != (len(other) if hasattr(other, "__len__") else -1):
            raise UsageError(f"the {what} of a batch are {len(part)} tensors, not one: {WRAP}")


def _keys(batch: Mapping) -> str:
    return ", ".join(map(repr, batch)) or "nothing"


def _joined(parts: list[Any], what: str) -> Tensor:
    try:
        return torch.cat([_tensor(what, part) for part in parts])
    except UsageError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the {what} of data are not numbers of one shape per example: {one_line(error)}") from error


def _tensor(what: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    if isinstance(values, tuple | list) and any(isinstance(value, Tensor) for value in values):
        return torch.stack([torch.as_tensor(value) for value in values]).detach()
    array = plain(f"the {what} of data", values)
    if array.dtype.kind in "US":
        raise UsageError(
            f"the {what} of data are words, such as {str(array.flat[0])!r}; give numbers"
            + (": the class that each word is to the network, from 0" if what == "targets" else "")
        )
    return torch.from_numpy(np.array(array, order="C"))
