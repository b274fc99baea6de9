"""Trials: of the groups that a graph proposes, those that can be cut out without changing the function."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..compaction.compact import cut, positions
from ..running.loan import lent, put
from ..units.mask import Mask
from ..units.slices import Group
from ..units.vector import Units

# Largest difference to the masked network, relative to the largest output, in float32 at random weights:
# rounding stays below 1e-5 there, and mixing what should be apart gives differences of order one.
TOLERANCE = 1e-4
# Shares of the units that stay, one trial each: a mask can be right by chance where a group is not.
SHARES = (0.5, 0.25, 0.75)


def exact(
    network: nn.Module, x: Tensor, groups: Sequence[Group], generator: torch.Generator, accepted: tuple[Group, ...] = ()
) -> tuple[Group, ...]:
    """Those of `groups` of which any part can be cut out of `network` as if it were only masked.

    All are tried at once, together with those `accepted` before; if that fails, each half for itself. A
    sound proposal costs two forward passes for each of SHARES, each unsound group a logarithmic number more.

    Args:
        network: Lent and with random tensors (`randomise_`), in evaluation mode.
        x: A batch of inputs.
        groups: The proposals.
        generator: Draws which units leave.
        accepted: Groups that were tried before and that stay part of every trial.
    """
    if not groups or _agrees(network, x, (*accepted, *groups), generator):
        return tuple(groups)
    if len(groups) == 1:
        return ()
    half = len(groups) // 2
    first = exact(network, x, groups[:half], generator, accepted)
    return first + exact(network, x, groups[half:], generator, accepted + first)


def _agrees(network: nn.Module, x: Tensor, groups: tuple[Group, ...], generator: torch.Generator) -> bool:
    """Whether the network with some units cut out computes what it computes with these units masked."""
    owner = Units(groups)
    masks = (Mask(owner, torch.cat([_some(n, share, generator) for n in owner.layer_sizes])) for share in SHARES)
    return all(_same(network, x, mask) for mask in masks)


def _same(network: nn.Module, x: Tensor, mask: Mask) -> bool:
    try:
        with lent(network):
            cut(network, mask, positions(mask), partial(put, network))
            found = _outputs(network, x)
    except Exception:  # whatever a forward pass raises here, it says that these cannot be cut out
        return False
    with lent(network):
        for name, stays in mask.tensors.items():
            parameter = network.get_parameter(name)
            put(network, name, parameter.detach().masked_fill(~stays.to(parameter.device), 0))
        expected = _outputs(network, x)
    return len(found) == len(expected) and all(map(_close, found, expected))


def _some(n: int, share: float, generator: torch.Generator) -> Tensor:
    """About this share of n >= 2 units, neither none nor all: bool, shape (n,)."""
    kept = torch.rand(n, generator=generator) < share
    one, other = torch.randperm(n, generator=generator)[:2]
    kept[one], kept[other] = True, False
    return kept


def _outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(network(x)) if isinstance(leaf, Tensor)]


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
