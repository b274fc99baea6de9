"""Named tensors as one flat vector in a fixed order, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries in the order of the names, float64, shape (P,)."""
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors.values()])


def named(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of `vector`, shape (P,), in the names and shapes of `like`."""
    parts = vector.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(tensor.shape) for part, (name, tensor) in zip(parts, like.items(), strict=True)}
