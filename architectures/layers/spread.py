"""Layers that compute some of their outputs only, and put zeros in the places of the others.

What a layer adds to a residual stream can lose single features while the stream keeps them all: the rows that compute
them leave, and what is computed is spread over the places that it has in the stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Spread(nn.Module):
    """Attributes: `source`, of every output the place among those computed, or their number for a zero; (width,)."""

    source: Tensor

    def spread(self, narrow: Tensor, axis: int) -> Tensor:
        """Zeros, but for `narrow` in the places that it has along `axis`.

        In the shape of `narrow` but along the axis, where it is (width,).
        """
        zero = torch.zeros_like(narrow.narrow(axis, 0, 1))
        return torch.cat([narrow, zero], axis).index_select(axis, self.source)

    def extra_repr(self) -> str:
        """As of the layer, and how many outputs there are with the zeros."""
        return f"{super().extra_repr()}, spread over {len(self.source)}"


class SpreadLinear(_Spread, nn.Linear):
    """A linear layer with zeros among its outputs."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (..., width)."""
        return self.spread(super().forward(input), -1)


class SpreadConv1d(_Spread, nn.Conv1d):
    """A convolution with zeros among its channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, length)."""
        return self.spread(super().forward(input), -2)


class SpreadConv2d(_Spread, nn.Conv2d):
    """A convolution with zeros among its channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, rows, columns)."""
        return self.spread(super().forward(input), -3)


class SpreadBatchNorm1d(_Spread, nn.BatchNorm1d):
    """BatchNorm of the channels that are there, with zeros among them."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, ...)."""
        return self.spread(super().forward(input), 1)


class SpreadBatchNorm2d(_Spread, nn.BatchNorm2d):
    """BatchNorm of the channels that are there, with zeros among them."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, rows, columns)."""
        return self.spread(super().forward(input), 1)


class SpreadGroupNorm(_Spread, nn.GroupNorm):
    """GroupNorm of the groups that are there, with zeros among their channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, ...)."""
        return self.spread(super().forward(input), 1)


_SPREAD: dict[type[nn.Module], type[_Spread]] = {
    nn.Linear: SpreadLinear,
    nn.Conv1d: SpreadConv1d,
    nn.Conv2d: SpreadConv2d,
    nn.BatchNorm1d: SpreadBatchNorm1d,
    nn.BatchNorm2d: SpreadBatchNorm2d,
    nn.GroupNorm: SpreadGroupNorm,
}


def can_spread(module: nn.Module) -> bool:
    """Whether `spread_` knows the module; classes derived from those of torch may do more, and are not known."""
    return is_spread(module) or type(module) in _SPREAD


def is_spread(module: nn.Module) -> bool:
    """Whether the layer has zeros among its outputs."""
    return isinstance(module, _Spread)


def spread_(module: nn.Module, stay: Tensor) -> None:
    """Let a layer, in place, put what it still computes into the places it had, zeros elsewhere.

    `stay` is boolean: which of the outputs that it computed it still computes.
    """
    left = int(stay.sum())
    source = torch.where(stay, stay.cumsum(0) - 1, left)
    if isinstance(module, _Spread):
        source = torch.cat([source, source.new_tensor([left])])[module.source]
    become_spread_(module, source)


def become_spread_(module: nn.Module, source: Tensor) -> None:
    """Give a layer, in place, the class that spreads its outputs to the places that `source` tells."""
    if not isinstance(module, _Spread):
        module.__class__ = _SPREAD[type(module)]
    module.register_buffer("source", source)
