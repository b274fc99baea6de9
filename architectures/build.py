"""Build a network by name, from a seed, and with weights that are given where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..datasets.errors import UsageError
from . import registry
from .running.given_weights import digest_of, load_weights_

# Options of every architecture: a file of weights, and which one it has to be.
WEIGHTS, SHA256 = "weights", "sha256"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def build(
    name: str, input_shape: Sequence[int], outputs: int, *, seed: int, weights: str | None = None,
    sha256: str | None = None, **options: Any,
) -> nn.Module:  # fmt: skip
    """The network `name` for inputs of `input_shape` (one example), on the CPU and in training mode.

    The same seed gives the same initial weights; the global random state is left as it was. With `weights`, a file of
    that `sha256`, it has those instead. Raises UsageError for an unknown name or option, for inputs that the
    architecture cannot take, and for weights of another network.
    """
    # Only the CPU generator draws here: torch.manual_seed would reseed every GPU as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = registry.build(name, tuple(input_shape), outputs, **options)
    if weights is not None:
        load_weights_(network, weights, sha256)
    return network


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options of the architecture `name`, without those at their default.

    Raises UsageError for an unknown one, a value of the wrong kind, and a file of weights that is not there and of
    which no `sha256` is given.
    """
    if WEIGHTS in registry.option_names(name) or given.get(WEIGHTS) is None:
        return registry.options(name, given)
    weights, digest = given[WEIGHTS], given.get(SHA256)
    checked = registry.options(name, {n: v for n, v in given.items() if n not in (WEIGHTS, SHA256)})
    if not isinstance(weights, str):
        raise UsageError(f"architecture {name!r}: weights={weights!r} is not valid: give the path of a file")
    if digest is None:
        digest_of(weights)
        return checked | {WEIGHTS: weights}
    if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise UsageError(f"architecture {name!r}: sha256={digest!r} is not valid: give what sha256sum prints")
    return checked | {WEIGHTS: weights, SHA256: digest}


def is_own(name: str) -> bool:
    """Whether building `name` runs code of this package, of timm or of torchvision alone.

    Not so the user's `module:function`, nor what a plug-in registered. Raises UsageError for an unknown name.
    """
    builder, placeholders = registry.resolve(name)
    return "module" not in placeholders and builder.__module__.startswith(f"{__package__}.")
