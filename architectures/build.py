"""Build a network by name, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from . import registry


def build(name: str, input_shape: Sequence[int], outputs: int, *, seed: int, **options: Any) -> nn.Module:
    """The network `name` for inputs of `input_shape` (one example), on the CPU and in training mode.

    The same seed gives the same initial weights; the global random state is left as it was. Raises
    UsageError for an unknown name or option and for inputs that the architecture cannot take.
    """
    # Only the CPU generator draws here: torch.manual_seed would reseed every GPU as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return registry.build(name, tuple(input_shape), outputs, **options)


def is_own(name: str) -> bool:
    """Whether building `name` runs code of this package, of timm or of torchvision alone.

    Not so the user's `module:function`, nor what a plug-in registered. Raises UsageError for an unknown name.
    """
    builder, placeholders = registry.resolve(name)
    return "module" not in placeholders and builder.__module__.startswith(f"{__package__}.")
