"""The examples that `prune` is given: as one split in memory, or as a stream of the batches of a loader.

Whatever does not fit is a UsageError of one sentence that names the value and the fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures.running.forms import Forward
from ...architectures.running.modes import evaluating, to_network
from ...datasets.arrays import plain
from ...datasets.data import Data
from ...datasets.errors import UsageError, one_line
from ...datasets.examples import Batch, Examples
from ...datasets.split import Split
from ...datasets.stream import Stream, joined_batches
from ...datasets.trees import Inputs, tensors_in
from ..training.seeding import derived
from .reading import by_name, is_named, with_targets

Array = Tensor | np.ndarray
AnyData = Data | Examples | Sequence[Array] | Iterable[Sequence[Array]]

WRAP = (
    "one tensor is needed: give forward=lambda network, batch: (outputs, targets), which takes batches of any form, or "
    "join the inputs, and wrap the network in a module whose forward(x) takes them apart"
)


def gathered(
    data: AnyData, seed: int = 0, network: nn.Module | None = None, forward: Forward | None = None
) -> Examples:
    """Training examples of any accepted form; int64 inputs may be tokens, and stay.

    Arrays, and batches that are in a list already, become one split in memory; any other loader is a stream of its
    batches, and draws its order and its augmentations under `seed`. Targets keep their type; those of shape (N,) that
    are real become (N, 1). Batches that are dicts, or anything else with a `forward`, need the `network`: see
    `reading`.
    """
    if isinstance(data, Data):
        return gathered(data.train, seed, network, forward)
    read = partial(_read, network=network, forward=forward)
    if isinstance(data, Split) and forward is not None:
        return Split(*read((data.x, data.y)), data.likelihood)
    if isinstance(data, Split | Stream):
        return data
    if _streams(data):
        return Stream(data, read=read, seed=derived(seed, "data"))
    if forward is None:
        batches = _batches(data, network)
        of_pairs = not isinstance(batches[0], Mapping)
        found = [(b[0], b[1]) if of_pairs else read(b) for b in batches]
    else:
        found, of_pairs = [read(b) for b in (data if _are_batches(data) else [data])], False  # pyright: ignore
    x, y = _all_of_pairs(found) if of_pairs else joined_batches([_typed(*pair) for pair in found])
    return Split(x, y, None if y.is_floating_point() else "categorical")  # pyright: ignore[reportArgumentType]


def is_typed(data: AnyData) -> bool:
    """Whether the type of the targets says their likelihood, which that of bare arrays does not."""
    return isinstance(data, Data | Split) or (isinstance(data, Stream) and data.is_typed)


def readable(network: nn.Module, data: Examples) -> Examples:
    """The examples in the types that the network reads: of whole numbers real ones, unless they are tokens.

    Tokens they are to a network that takes them as they are and does not take real numbers.
    """
    fitting = data.reading(lambda x, y: (to_network(x, network), to_network(y, network)))
    few = fitting[:2]
    if not isinstance(few.x, Tensor) or few.x.is_floating_point():
        return fitting
    real = data.reading(lambda x, y: (to_network(x.float(), network), to_network(y, network)))
    return fitting if _takes(network, few) and not _takes(network, real[:2]) else real


def _takes(network: nn.Module, few: Split) -> bool:
    try:
        with evaluating(network), torch.no_grad():
            network(few.x)
    except Exception:
        return False
    return True


def _streams(data: Any) -> TypeGuard[Iterable[Any]]:
    """Whether data give batches one by one, and are no list or array of what is in memory already."""
    arrays = hasattr(data, "__array__") or isinstance(data, Mapping | tuple | list | str)
    return isinstance(data, Iterable) and not arrays


def _are_batches(data: Any) -> bool:
    """Whether data are a list of batches, and not one of arrays."""
    return isinstance(data, list) and bool(data) and not all(hasattr(part, "__array__") for part in data)


def _read(batch: Any, network: nn.Module | None, forward: Forward | None) -> Batch:
    if forward is not None and network is not None:
        return _typed(*with_targets(network, forward, batch))
    if network is not None and is_named(network, batch):
        return _typed(*by_name(network, batch))
    _check_batch(batch)
    return _all_of_pairs([(batch[0], batch[1])])


def _all_of_pairs(batches: Sequence[Sequence[Any]]) -> Batch:
    """Inputs and targets of pairs, each in one tensor."""
    x, y = (_joined([b[i] for b in batches], what) for i, what in enumerate(("inputs", "targets")))
    return _typed(x, y)


def _typed(x: Inputs, y: Tensor) -> Batch:
    for tensor in tensors_in(x):
        if tensor.is_complex() or y.is_complex():
            raise UsageError(f"data must be real numbers, got {tensor.dtype} inputs and {y.dtype} targets")
    if isinstance(x, Tensor):
        x = x if x.dtype == torch.int64 or x.is_floating_point() else x.float()
    if y.is_floating_point():
        return x, y.unsqueeze(1) if y.dim() == 1 else y
    return x, y.long()


# ---------------------------------------------------------------------- batches


def _batches(data: Any, network: nn.Module | None) -> list[Any]:
    if network is not None and is_named(network, data):
        return [data]
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
    named = bool(listed) and network is not None and is_named(network, listed[0])
    for batch in [] if named else listed:
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
