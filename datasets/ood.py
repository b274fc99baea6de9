"""Procedural out-of-distribution twins: inputs that look alike value by value and mean nothing.

Images become tangles of random strokes with the pixel histogram of the data; tables get each feature
permuted among the examples, which keeps every marginal and breaks the joint distribution; sequences of tokens
lose their order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .seeds import torch_stream
from .tokens import START

STROKES, POINTS = 4, 16  # strokes in an image, points along a stroke
LEVELS = 4096  # steps of brightness that recolouring tells apart
SAMPLE = 200_000  # pixels that stand for all when a histogram is read


def permuted(x: Tensor, seed: int) -> Tensor:
    """Features (N, F), each column in its own random order."""
    order = torch.rand(x.shape, generator=torch_stream(seed, "ood/permuted")).argsort(dim=0)
    return x.gather(0, order.to(x.device))


def shuffled(x: Tensor, seed: int) -> Tensor:
    """Sequences (N, T), the tokens of each in a random order; padding and starts stay at the head."""
    drawn = torch.rand(x.shape, generator=torch_stream(seed, "ood/shuffled")).to(x.device)
    order = torch.where(x > START, drawn, x - 1.0 - START).argsort(dim=1, stable=True)
    return x.gather(1, order)


def strokes(images: Tensor, seed: int) -> Tensor:
    """As many images (N, C, H, W) of random strokes, with the pixel histogram of each channel of `images`."""
    count, channels, height, width = images.shape
    generator = torch_stream(seed, "ood/strokes")
    drawing = _ink(count, height, width, generator)[:, None]
    if channels > 1:  # a random colour for the ground and one for the ink
        ground, ink = torch.rand((2, count, channels, 1, 1), generator=generator)
        drawing = ground + (ink - ground) * drawing
    drawing = drawing.to(images)
    return torch.stack([_recoloured(drawing[:, c], images[:, c]) for c in range(channels)], dim=1)


def _ink(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Strokes (N, H, W) in [0, 1]: Gaussian dots along quadratic Bézier curves, summed and saturated.

    A dot is a product of a profile along each axis, so a drawing is one batched matrix product.
    """
    start, bend, end = torch.rand((3, count, STROKES, 1, 2), generator=generator) * 0.9 + 0.05
    t = torch.linspace(0, 1, POINTS)[:, None]
    points = ((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end).flatten(1, 2)  # (N, dots, 2)
    thickness = 0.03 + 0.03 * torch.rand((count, 1, 1), generator=generator)
    thickness = thickness.clamp_min(0.5 / min(height, width))  # no stroke falls between two pixels
    down, across = (_profile(points[..., i], side, thickness) for i, side in enumerate((height, width)))
    return 1 - torch.exp(-down.mT @ across)


def _profile(position: Tensor, side: int, thickness: Tensor) -> Tensor:
    """Dots at `position` (N, P), seen along one axis of `side` pixels: (N, P, side)."""
    centres = (torch.arange(side) + 0.5) / side
    return torch.exp(-0.5 * ((position[..., None] - centres) / thickness) ** 2)


def _recoloured(drawing: Tensor, reference: Tensor) -> Tensor:
    """Map values of `drawing` (N, H, W) monotonely so that their distribution is that of `reference`.

    Through a table over `LEVELS` steps of [0, 1]: a step's share of smaller values, counting half of its
    own, is the quantile that replaces it.
    """
    steps = (drawing * (LEVELS - 1)).round_().long()
    share = torch.bincount(steps.flatten(), minlength=LEVELS).double()
    rank = (share.cumsum(0) - share / 2) / share.sum()
    wanted = reference.flatten()[:: max(1, reference.numel() // SAMPLE)].sort().values
    return wanted[(rank * (len(wanted) - 1)).round().long()][steps]
