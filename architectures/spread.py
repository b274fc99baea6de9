"""Layers that compute some of their outputs only, and put zeros in the places of the others.

What a layer adds to a residual stream can lose single features while the stream keeps them all: the rows that compute
them leave, and what is computed is spread over the places that it has in the stream.
"""

from __future__ import annotations

from torch import Tensor, nn


def _spread(narrow: Tensor, layer: nn.Module, axis: int) -> Tensor:
    """Zeros, but for `narrow` in its `places` among `width` along `axis`."""
    places, width = layer.get_buffer("places"), int(vars(layer)["width"])
    shape = list(narrow.shape)
    shape[axis] = width
    return narrow.new_zeros(shape).index_copy(axis, places, narrow)


class SpreadLinear(nn.Linear):
    """A linear layer with zeros among its outputs."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (..., width)."""
        return _spread(super().forward(input), self, -1)


class SpreadConv1d(nn.Conv1d):
    """A convolution with zeros among its channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, length)."""
        return _spread(super().forward(input), self, 1)


class SpreadConv2d(nn.Conv2d):
    """A convolution with zeros among its channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, height, width of the image)."""
        return _spread(super().forward(input), self, 1)


class SpreadBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm of the channels that are there, with zeros among them."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, ...)."""
        return _spread(super().forward(input), self, 1)


class SpreadBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm of the channels that are there, with zeros among them."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, height, width of the image)."""
        return _spread(super().forward(input), self, 1)


class SpreadGroupNorm(nn.GroupNorm):
    """GroupNorm of the groups that are there, with zeros among their channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Outputs, shape (N, width, ...)."""
        return _spread(super().forward(input), self, 1)


_SPREAD: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: SpreadLinear,
    nn.Conv1d: SpreadConv1d,
    nn.Conv2d: SpreadConv2d,
    nn.BatchNorm1d: SpreadBatchNorm1d,
    nn.BatchNorm2d: SpreadBatchNorm2d,
    nn.GroupNorm: SpreadGroupNorm,
}


def can_spread(module: nn.Module) -> bool:
    """Whether `spread_` knows the module; classes derived from those of torch may do more, and are not known."""
    return type(module) in _SPREAD


def spread_(module: nn.Module, places: Tensor, width: int) -> None:
    """Let a layer, in place, put what it computes into `places` among `width`, zeros elsewhere.

    `places` are whole numbers, as many as the layer computes outputs.
    """
    module.__class__ = _SPREAD[type(module)]
    module.register_buffer("places", places)
    vars(module)["width"] = width
