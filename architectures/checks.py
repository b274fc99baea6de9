"""Checks that builders share: what an input must look like, and which sizes make sense."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..datasets.errors import UsageError
from ..datasets.tokens import RESERVED

MOST_PATCHES = 8  # patches per side


def image(architecture: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of an image; raises UsageError for a table or anything else."""
    if len(input_shape) != 3:
        raise UsageError(
            f"architecture {architecture!r} needs images (channels, height, width), got inputs of shape "
            f"{tuple(input_shape)}; use {'lstm' if len(input_shape) == 2 else 'mlp'!r} for {kind_of(input_shape)}"
        )
    channels, height, width = input_shape
    return channels, height, width


def flat(architecture: str, input_shape: tuple[int, ...]) -> int:
    """Numbers in one example; raises UsageError for sequences of tokens, which are no numbers."""
    if len(input_shape) == 2:
        raise UsageError(
            f"architecture {architecture!r} cannot read sequences of tokens (length, vocabulary), got inputs of shape "
            f"{tuple(input_shape)}; use 'lstm'"
        )
    return math.prod(input_shape)


def kind_of(input_shape: Sequence[int]) -> str:
    """What inputs of one example's shape are called: (F,), (T, V) or (C, H, W)."""
    return {1: "tables", 2: "sequences of tokens"}.get(len(input_shape), "images")


def random_inputs(input_shape: Sequence[int], count: int) -> Tensor:
    """Inputs of no meaning, always the same: normal numbers, or for (T, V) tokens after the reserved ones."""
    generator = torch.Generator().manual_seed(0)
    if len(input_shape) == 2:
        length, vocabulary = input_shape
        return torch.randint(min(len(RESERVED), vocabulary - 1), vocabulary, (count, length), generator=generator)
    return torch.randn(count, *input_shape, generator=generator)


def positive(architecture: str, **sizes: float) -> None:
    """Raises UsageError unless every size is above zero."""
    for option, value in sizes.items():
        if value <= 0:
            raise UsageError(f"architecture {architecture!r}: {option}={value!r} must be above 0")


def patch_size(architecture: str, sides: Sequence[int], patch: int | None) -> int:
    """`patch`, or the smallest of at least 2 that divides both sides into at most 8; raises UsageError."""
    if patch is None:
        common = math.gcd(*sides)
        fits = [p for p in range(2, common + 1) if common % p == 0 and max(sides) // p <= MOST_PATCHES]
        if not fits:
            raise UsageError(
                f"architecture {architecture!r}: no patch divides images of {sides[0]}x{sides[1]} into "
                f"at most {MOST_PATCHES} per side; give the option patch, or resize the images"
            )
        return fits[0]
    positive(architecture, patch=patch)
    if any(side % patch for side in sides):
        raise UsageError(
            f"architecture {architecture!r}: patch={patch} does not divide images of {sides[0]}x{sides[1]}"
        )
    return patch
