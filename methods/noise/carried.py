"""Noise of structures, drawn once for a network and carried by its layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...architectures.units.vector import Units
from ...datasets.trees import examples
from .carriers import Carrier, carriers


class Noise:
    """The noise of one pass, shape (1 or examples, structures), cut into groups at once.

    A view of each group on its own would have a gradient of the size of the whole.
    """

    def __init__(self, values: Tensor, units: Units):
        self.values = values
        ends = [*itertools.accumulate(units.layer_sizes)]
        self.groups = dict(zip(zip([0, *ends], ends, strict=False), values.split(units.layer_sizes, 1), strict=True))

    def at(self, carrier: Carrier) -> Tensor:
        """What multiplies every position of a carrier; shape (1 or examples, width)."""
        group = self.groups.get(carrier.run) if carrier.run else None
        return carrier.positions(self.values) if group is None else group


class CarriedNoise:
    """Hooks that put noise on the structures of a network until `remove`; a copy takes them along.

    Args:
        network: gets the hooks.
        units: its structures.
        drawn: told a number of examples and whether the network is training, gives the noise of a pass, shape (1 or
            examples, structures); or None, where every carrier draws for itself.
        elementwise: that draw, of the shape of `carrier.last(x)`.

    Raises NotApplicable where structures are not read in a way that can carry noise.
    """

    def __init__(
        self, network: nn.Module, units: Units, drawn: Callable[[int, bool], Tensor | None],
        elementwise: Callable[[Carrier, Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self._units, self._drawn, self._elementwise = units, drawn, elementwise
        self._noise: Noise | None = None
        self.carriers = carriers(network, units)
        # Functions, not bound methods: these would be copied with the network, and the noise with only some of them.
        self._handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(lambda *call: self._enter(*call), with_kwargs=True),
            network.register_forward_hook(lambda *_: self._leave(), always_call=True),
            *(carrier.hook(network, self._of(carrier)) for carrier in self.carriers),
        ]

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, network: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = self._drawn(examples((inputs, named)), network.training)
        self._noise = None if values is None else Noise(values, self._units)

    def _leave(self) -> None:
        self._noise = None  # and with it the graph of the pass

    def _of(self, carrier: Carrier) -> Callable[[Tensor], Tensor]:
        def noise(x: Tensor) -> Tensor:
            if self._noise is not None:
                return self._noise.at(carrier)
            assert self._elementwise is not None
            return self._elementwise(carrier, x)

        return noise
