"""Checks that builders share: what an input must look like, and which sizes make sense."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..datasets.registry import UsageError

MOST_PATCHES = 8  # patches per side


def image(architecture: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of an image; raises UsageError for a table or anything else."""
    if len(input_shape) != 3:
        raise UsageError(
            f"architecture {architecture!r} needs images (channels, height, width), got inputs of shape "
            f"{tuple(input_shape)}; use 'mlp' for tables"
        )
    channels, height, width = input_shape
    return channels, height, width


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
