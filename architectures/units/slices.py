"""What belongs to a unit: positions of tensors, and families of units that are removed alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Slice:
    """The positions along one axis of one tensor that belong to each of n units.

    `index` has shape (n, k): unit i owns the whole hyperplanes `index[i]` along `axis` of the tensor
    `name`, whose shape is `shape`.
    """

    name: str
    axis: int
    index: Tensor
    shape: torch.Size

    @property
    def size(self) -> int:
        """Number of units n."""
        return len(self.index)

    def sum(self, values: Tensor) -> Tensor:
        """Sum `values` (of `shape`) over everything that belongs to each unit: shape (n,), float64."""
        others = [axis for axis in range(values.dim()) if axis != self.axis]
        # An empty list of axes would mean "all of them" to torch.sum.
        along = values.sum(others, dtype=torch.float64) if others else values.to(torch.float64)
        return along[self.index.to(values.device)].sum(1)

    def positions(self, kept: Tensor) -> Tensor:
        """Which positions along `axis` stay, given `kept` (bool, shape (n,)): bool, (shape[axis],)."""
        stay = torch.ones(self.shape[self.axis], dtype=torch.bool, device=kept.device)
        stay[self.index.to(kept.device)[~kept].flatten()] = False
        return stay

    def mask(self, kept: Tensor) -> Tensor:
        """Which entries of the tensor stay, given `kept` (bool, shape (n,)): bool, `shape`."""
        broadcast = [-1 if axis == self.axis else 1 for axis in range(len(self.shape))]
        return self.positions(kept).view(broadcast).expand(self.shape)

    def to(self, device: torch.device | str) -> Slice:
        """The same slice with its index on `device`."""
        return replace(self, index=self.index.to(device))


@dataclass(frozen=True, eq=False)
class Elementwise:
    """Every element of the tensor `name` is a unit of its own, in the order of `flatten`."""

    name: str
    shape: torch.Size

    @property
    def size(self) -> int:
        """Number of units n."""
        return self.shape.numel()

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves: shape (n,), float64."""
        return values.to(torch.float64).flatten()

    def mask(self, kept: Tensor) -> Tensor:
        """`kept` (bool, shape (n,)) in the shape of the tensor."""
        return kept.view(self.shape)

    def to(self, device: torch.device | str) -> Elementwise:
        """Itself: there is no index to move."""
        return self


@dataclass(frozen=True, eq=False)
class Count:
    """A whole number that a module keeps and that falls with the units, such as a number of heads.

    Attributes:
        module: path of the module.
        attribute: its name there.
        place: where in a tuple or list, -1 if it is a number by itself.
        lost: by how much it falls for each of n units that leave, shape (n,).
    """

    module: str
    attribute: str
    place: int
    lost: Tensor


@dataclass(frozen=True, eq=False)
class SizedCall:
    """A size that the forward pass of a module writes down, and that falls with the units (`layers.sized`).

    Attributes:
        module: path of the module.
        call: which of the calls that take sizes.
        place: which of its sizes.
        size: what it is while all units are there.
        lost: by how much it falls for each of n units that leave, shape (n,).
    """

    module: str
    call: int
    place: int
    size: int
    lost: Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """A family of n parallel units that are removed alike: the neurons of a layer, the heads of a block.

    `slices` are the parameters that belong to the units; masking a unit zeroes them. `buffers` are
    statistics of the units, such as BatchNorm's running variance: they leave when a unit is cut out, but
    are never masked, because a variance of zero is not the absence of a channel.

    Attributes:
        name: unique in a network, for example "layers.0 neurons".
        kind: "weight", "neuron", "filter", "channel", "head", "hidden" or "output".
        slices: one per parameter and axis; all have the same number of units.
        buffers: one per buffer and axis, of the same number of units.
        spread: name of the layer behind which units that leave become zeros, as what reads them keeps its width;
            "" where units leave on all sides.
        counts: numbers in modules that count the units.
        calls: sizes that forward passes write down.
        settles: layers that compute their weights, and that lose inputs as plain ones with the weights computed.
    """

    name: str
    kind: str
    slices: tuple[Slice | Elementwise, ...]
    buffers: tuple[Slice, ...] = ()
    spread: str = ""
    counts: tuple[Count, ...] = ()
    calls: tuple[SizedCall, ...] = ()
    settles: tuple[str, ...] = ()

    def __post_init__(self):
        sizes = {part.size for part in (*self.slices, *self.buffers)}
        if len(sizes) != 1 or not self.slices:
            raise ValueError(f"group {self.name!r} needs slices of one size; got {sorted(sizes) or 'none'}")

    @property
    def size(self) -> int:
        """Number of units n."""
        return self.slices[0].size

    def to(self, device: torch.device | str) -> Group:
        """The same group with its indices on `device`."""
        slices = tuple(part.to(device) for part in self.slices)
        return replace(self, slices=slices, buffers=tuple(part.to(device) for part in self.buffers))
