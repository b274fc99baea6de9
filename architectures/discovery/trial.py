"""Trials: of the groups that tracing proposes, those that can be cut out without changing the function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..compaction.compact import cut, positions
from ..layers.sized import observed
from ..running.loan import lent, put
from ..units.mask import Mask
from ..units.slices import Group, SizedCall
from ..units.vector import Units
from .sizings import needed

# Largest difference to the masked network, relative to the largest output, in float64 at random weights. Rounding stays
# below it even where a hundred layers blow it up a billion times; mixing gives differences of order one.
TOLERANCE = 1e-5
# Shares of the units that stay, one trial each: a mask can be right by chance where a group is not.
SHARES = (0.5, 0.25, 0.75)
# Groups of one kind, such as the same layers in all blocks, that fail before the others are taken to fail too.
ALIKE = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """What is needed to try groups.

    Attributes:
        run: Runs a network on the inputs.
        network: Lent and with random tensors in float64 (`randomise_`), in evaluation mode.
        generator: Draws which units leave.
        trains: Whether layers that compute in training only are tried too.
    """

    network: nn.Module
    run: Callable[[nn.Module], Any]
    generator: torch.Generator
    trains: bool

    def exact(self, groups: Sequence[Group], accepted: tuple[Group, ...] = ()) -> tuple[Group, ...]:
        """Those of `groups` of which any part can be cut out of the network as if it were only masked.

        All are tried at once, together with those `accepted` before; if that fails, each half for itself, groups of
        one kind side by side. A sound proposal costs two forward passes for each of SHARES, each unsound group a
        logarithmic number more; of a kind of which ALIKE have failed and none has passed, the rest is not tried.
        """
        failed: Counter[Hashable] = Counter()

        def tried(some: list[Group], before: tuple[Group, ...]) -> tuple[Group, ...]:
            some = [group for group in some if failed[kind_of(group)] < ALIKE]
            if not some or self.agrees((*before, *some)):
                failed.update({kind_of(group): -len(groups) for group in some})
                return tuple(some)
            if len(some) == 1:
                failed[kind_of(some[0])] += 1
                return ()
            half = len(some) // 2
            first = tried(some[:half], before)
            return first + tried(some[half:], before + first)

        kinds = list(dict.fromkeys(map(kind_of, groups)))
        found = set(tried(sorted(groups, key=lambda group: kinds.index(kind_of(group))), accepted))
        return tuple(group for group in groups if group in found)

    def adapted(
        self, groups: Sequence[Group], calls: Mapping[str, Sequence[SizedCall]], accepted: tuple[Group, ...] = ()
    ) -> list[Group]:
        """The groups, with those of their `calls`, by the name of the group, that write down sizes that must fall.

        All sizes are replaced in a pass with some units cut out: where they were right anyway, they are left alone. If
        no such pass runs with all groups, each is tried by itself.
        """
        wanted = [replace(group, calls=tuple(calls[group.name])) for group in groups]
        if (replaced := self._replaced((*accepted, *wanted))) is not None:
            return [needed(group, calls[group.name], replaced) for group in groups]
        each = [(group, self._replaced([own])) for group, own in zip(groups, wanted, strict=True)]
        return [needed(group, calls[group.name], replaced or set()) for group, replaced in each]

    def _replaced(self, groups: Sequence[Group]) -> set[tuple[str, int]] | None:
        """The calls, by module and number, whose sizes were others than expected; None if the pass fails."""
        if not any(group.calls for group in groups):
            return set()
        seen: dict[str, set[tuple[int, int]]] = {}
        try:
            with lent(self.network):
                self._cut(self._mask(Units(tuple(groups)), SHARES[0]))
                with observed(self.network, seen):
                    self._outputs(False)
        except Exception:  # as in `_same`
            return None
        return {(name, call) for name, found in seen.items() for call, _ in found}

    def agrees(self, groups: tuple[Group, ...]) -> bool:
        """Whether the network with some units cut out computes what it computes with these units masked."""
        owner = Units(groups)
        modes = (False, True) if self.trains else (False,)
        return all(self._same(self._mask(owner, share), mode) for share in SHARES for mode in modes)

    def _mask(self, owner: Units, share: float) -> Mask:
        return Mask(owner, torch.cat([_some(n, share, self.generator) for n in owner.layer_sizes]))

    def _cut(self, mask: Mask) -> None:
        cut(self.network, mask, positions(mask), partial(put, self.network))

    def _same(self, mask: Mask, training: bool) -> bool:
        try:
            with lent(self.network):
                self._cut(mask)
                found = self._outputs(training)
        except Exception:  # whatever a forward pass raises here, it says that these cannot be cut out
            return False
        with lent(self.network):
            for name, stays in mask.tensors.items():
                parameter = self.network.get_parameter(name)
                put(self.network, name, parameter.detach().masked_fill(~stays.to(parameter.device), 0))
            expected = self._outputs(training)
        return len(found) == len(expected) and all(map(_close, found, expected))

    def _outputs(self, training: bool) -> list[Tensor]:
        with torch.no_grad(), _WithoutChance():
            results = self.run(self.network.train(training))
            return [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]


def kind_of(group: Group) -> Hashable:
    """What groups have in common that are made of the same layers in different places of a network."""
    numberless = [re.sub(r"\d+", "", part.name) for part in (*group.slices, *group.buffers)]
    return (*numberless, *(count.attribute for count in group.counts))


def _some(n: int, share: float, generator: torch.Generator) -> Tensor:
    """About this share of n >= 2 units, neither none nor all: bool, shape (n,)."""
    kept = torch.rand(n, generator=generator) < share
    one, other = torch.randperm(n, generator=generator)[:2]
    kept[one], kept[other] = True, False
    return kept


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


class _WithoutChance(TorchDispatchMode):
    """Dropout keeps everything inside: what it would keep depends on the width of what it is given."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, with ones in the place of random ones and zeros."""
        name = func.overloadpacket.__name__
        if name == "bernoulli_":
            return args[0].fill_(1)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))
