"""What one use of a parameter in a forward pass leaves behind for its per-example gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers in one example's gradient up to which oneDNN forms it in place of patches, one group per example.
GROUPED = 12_000
# Channels in a block of oneDNN; with fewer it is slower than patches and matrix products.
BLOCK = 8


class Use(Protocol):
    """One operation that consumed a parameter, and the output gradient that came back to it."""

    def __len__(self) -> int:
        """Number of examples N."""
        ...

    def split(self, size: int) -> Sequence[Use]:
        """The same for parts of at most `size` examples each."""
        ...

    def per_example(self) -> Tensor:
        """Gradients of the examples, shape (N, ...); the rest flattens to the parameter's numel; shape (N, ...)."""
        ...


class Sink(Protocol):
    """Where the nodes of a forward pass hand in the uses of tracked parameters.

    Attributes:
        names: of the tracked parameters, by `id`.
        examples: in the present batch, if known.
    """

    names: Mapping[int, str]
    examples: int | None

    def use(self, parameter: Tensor | None) -> str | None:
        """Note one use of a parameter; its name if it is tracked."""
        ...

    def add(self, name: str, use: Use) -> None:
        """One use has come back."""
        ...

    def batched(self, x: Tensor, axis: int = 0) -> bool:
        """Whether an axis is as long as the batch."""
        ...

    def tokens(self, flat: Tensor) -> Tensor | None:
        """(N, T, ...) of what a batch was flattened to, (N · T, ...); None of anything else."""
        ...


@dataclass(frozen=True)
class Gradients:
    """Per-example gradients as they are, shape (N, ...)."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def split(self, size: int) -> list[Gradients]:
        """Parts of at most `size` examples."""
        return [Gradients(part) for part in self.values.split(size)]

    def per_example(self) -> Tensor:
        """The same gradients; shape (N, ...)."""
        return self.values


@dataclass(frozen=True)
class Factors:
    """Gradients Σ_t g_nt a_nt' of a weight (out, in): g of shape (N, T, out), a of shape (N, T, in)."""

    g: Tensor
    a: Tensor

    def __len__(self) -> int:
        return len(self.g)

    def split(self, size: int) -> list[Self]:
        """Parts of at most `size` examples."""
        return [type(self)(g, a) for g, a in zip(self.g.split(size), self.a.split(size), strict=True)]

    def per_example(self) -> Tensor:
        """Shape (N, out, in); shape (N, ...)."""
        return self.g.transpose(1, 2) @ self.a


@dataclass(frozen=True)
class Transposed(Factors):
    """The same of a weight (in, out), that multiplies inputs from the right: `g` are the inputs, `a` came back."""


@dataclass(frozen=True)
class Lookup:
    """Rows of a table (rows, dim): g_nt (N, T, dim) came back to the row `index` (N, T) names."""

    index: Tensor
    g: Tensor
    rows: int

    def __len__(self) -> int:
        return len(self.index)

    def split(self, size: int) -> list[Lookup]:
        """Parts of at most `size` examples."""
        parts = zip(self.index.split(size), self.g.split(size), strict=True)
        return [Lookup(index, g, self.rows) for index, g in parts]

    def factors(self) -> Factors:
        """A linear layer on one-hot rows; its weight is the table as it is, (rows, dim), not transposed."""
        return Factors(F.one_hot(self.index, self.rows).to(self.g), self.g)

    def per_example(self) -> Tensor:
        """Shape (N, rows, dim); shape (N, ...)."""
        table = self.g.new_zeros(len(self), self.rows, self.g.shape[2])
        return table.scatter_add_(1, self.index.unsqueeze(2).expand_as(self.g), self.g)


class Geometry(NamedTuple):
    """How the kernel of a two-dimensional convolution moves, two numbers each, and its groups."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Convolution:
    """A convolution of x (N, in, H, W) with output gradient g (N, out, H', W'); nothing is formed until asked for."""

    x: Tensor
    g: Tensor
    weight: Tensor
    geometry: Geometry

    def __len__(self) -> int:
        return len(self.x)

    def split(self, size: int) -> list[Convolution]:
        """Parts of at most `size` examples."""
        parts = zip(self.x.split(size), self.g.split(size), strict=True)
        return [Convolution(x, g, self.weight, self.geometry) for x, g in parts]

    def factors(self) -> Factors:
        """One token per output position: a holds the (in, kernel) patches. Ungrouped convolutions only.

        Raises ValueError for others.
        """
        if self.geometry.groups != 1:
            raise ValueError("a grouped convolution has no factors: use per_example()")
        return Factors(self.g.flatten(2).transpose(1, 2), self._patches().flatten(1, 3).flatten(2).transpose(1, 2))

    @property
    def patch_numbers(self) -> int:
        """Numbers in one example's patches."""
        return self.g[0, 0].numel() * self.x.shape[1] * self.weight[0, 0].numel()

    @property
    def grouped(self) -> bool:
        """Whether the examples are best formed as the groups of one convolution."""
        suits = self.x.dtype == torch.float32 and self.x.device.type == "cpu"
        wide = self.weight.shape[1] % BLOCK == 0 and self.weight[0, 0].numel() > 1
        return self.geometry.groups > 1 or (suits and wide and self.weight.numel() < GROUPED)

    def per_example(self) -> Tensor:
        """Shape (N, out, in/groups, ...); shape (N, ...)."""
        return self._as_groups() if self.grouped else self.factors().per_example()

    def _as_groups(self) -> Tensor:
        """One convolution over all examples' channels: the weight gradients of its groups are the examples'."""
        n, (stride, padding, dilation, groups) = len(self), self.geometry
        weights = self.weight.expand(n, *self.weight.shape).flatten(0, 1)
        x, g = (t.reshape(1, -1, *t.shape[2:]) for t in (self.x, self.g))
        found = torch.ops.aten.convolution_backward(
            g, x, weights, None, stride, padding, dilation, False, [0, 0], n * groups, [False, True, False]
        )[1]
        return found.unflatten(0, (n, -1))

    def _patches(self) -> Tensor:
        """What the kernel sees at every output position: a view of shape (N, in, kernel, kernel, H', W')."""
        (down, right), (top, left), (below, beside), _ = self.geometry
        x = F.pad(self.x, (left, left, top, top)) if top or left else self.x
        n, channels, rows, columns = x.stride()
        shape = (*x.shape[:2], *self.weight.shape[2:], *self.g.shape[2:])
        return x.as_strided(shape, (n, channels, below * rows, beside * columns, down * rows, right * columns))
