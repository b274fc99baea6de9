"""A cheap digest of a data set in memory, by which a change in place is noticed."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...datasets.data import Data, Scaling
from ...datasets.split import Split

Fingerprint = dict[str, tuple[Any, ...]]


def fingerprint(data: Data) -> Fingerprint:
    """Shape, type, flags and checksum of every tensor of a data set, by name."""
    return {name: _of(tensor) for name, tensor in _tensors(data)}


def changed_tensors(data: Data, before: Fingerprint) -> list[str]:
    """Names of the tensors that are not what they were."""
    now = fingerprint(data)
    return [name for name in before if now.get(name) != before[name]]


def _of(tensor: Tensor) -> tuple[Any, ...]:
    """A checksum finds what version counters miss: `.data`, and arrays that share the memory."""
    flags = tensor.dtype, tuple(tensor.shape), tensor.device, tensor.requires_grad, tensor.grad is None
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return *flags, zlib.crc32(content.data), len(tensor._backward_hooks or ())


def _tensors(data: Data) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
        elif isinstance(value, Split | Scaling):
            parts = {f"{field.name}.{part.name}": getattr(value, part.name) for part in dataclasses.fields(value)}
            yield from ((name, part) for name, part in parts.items() if isinstance(part, Tensor))
