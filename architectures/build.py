"""Build a network by name, from a seed, and with weights that are given where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..datasets.errors import UsageError
from . import registry
from .running.given_weights import digest_of, load_weights_

# An option of every architecture: a file of weights.
WEIGHTS = "weights"


def build(
    name: str, input_shape: Sequence[int], outputs: int, *, seed: int, weights: str | None = None,
    digest: str | None = None, **options: Any,
) -> nn.Module:  # fmt: skip
    """The network `name` for inputs of `input_shape` (one example), on the CPU and in training mode.

    The same seed gives the same initial weights; the global random state is left as it was. With `weights`, a file of
    that `digest`, it has those instead. Raises UsageError for an unknown name or option, for inputs that the
    architecture cannot take, and for weights of another network.
    """
    # Only the CPU generator draws here: torch.manual_seed would reseed every GPU as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = registry.build(name, tuple(input_shape), outputs, **options)
    if weights is not None:
        load_weights_(network, weights, digest)
    return network


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options of the architecture `name`, without those at their default.

    Raises UsageError for an unknown one, a value of the wrong kind, and a file of weights that is not there.
    """
    own = WEIGHTS in registry.option_names(name)
    weights = None if own else given.get(WEIGHTS)
    checked = registry.options(name, {n: v for n, v in given.items() if own or n != WEIGHTS})
    if weights is None:
        return checked
    if not isinstance(weights, str):
        raise UsageError(f"architecture {name!r}: weights={weights!r} is not valid: give the path of a file")
    digest_of(weights)
    return checked | {WEIGHTS: weights}


def is_own(name: str) -> bool:
    """Whether building `name` runs code of this package, of timm or of torchvision alone.

    Not so the user's `module:function`, nor what a plug-in registered. Raises UsageError for an unknown name.
    """
    builder, placeholders = registry.resolve(name)
    return "module" not in placeholders and builder.__module__.startswith(f"{__package__}.")
