"""Corruptions of test inputs at five severities: noise, blur and rotation, other words; all examples at once.

A corruption draws the same noise and the same directions at every severity, so that more severe means
farther from the clean image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .seeds import torch_stream
from .tokens import START, UNKNOWN

SEVERITIES: Mapping[Literal["image", "table", "tokens"], Mapping[str, tuple[float, ...]]] = {
    "image": {
        "noise": (0.06, 0.12, 0.18, 0.24, 0.30),  # standard deviation, of a value range of 1
        "blur": (0.03, 0.05, 0.07, 0.09, 0.12),  # standard deviation, of the image's shorter side
        "rotation": (10, 20, 30, 45, 60),  # degrees, left or right at random
    },
    "table": {
        "noise": (0.1, 0.2, 0.4, 0.7, 1.0),  # standard deviation, of each feature's own
    },
    "tokens": {
        "swapped": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of tokens
        "unknown": (0.05, 0.1, 0.2, 0.3, 0.5),  # share of tokens
    },
}


def noise(images: Tensor, level: float, seed: int) -> Tensor:
    """Gaussian noise on images (N, C, H, W) in [0, 1], clipped to that range."""
    return (images + level * _normal(images, seed)).clamp(0, 1)


def table_noise(x: Tensor, level: float, seed: int) -> Tensor:
    """Gaussian noise on features (N, F), in units of each one's deviation; constant ones stay constant."""
    return x + level * x.std(dim=0, correction=0) * _normal(x, seed)


def blur(images: Tensor, level: float, seed: int = 0) -> Tensor:
    """Gaussian blur of images (N, C, H, W), edges repeated; nothing in it is random, `seed` has no effect."""
    height, width = images.shape[2:]
    sigma = level * min(height, width)
    return _smoothing(height, sigma).to(images) @ images @ _smoothing(width, sigma).to(images).T


def rotation(images: Tensor, level: float, seed: int) -> Tensor:
    """Rotate images (N, C, H, W) by `level` degrees about their centre, each left or right; edges repeat."""
    count, _, height, width = images.shape
    signs = torch.randint(0, 2, (count,), generator=torch_stream(seed, "shift/rotation")) * 2 - 1
    angle = math.radians(level) * signs.to(images)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid's coordinates run over [-1, 1] along both axes: the ratio keeps a rectangle's angles
    rows = (cos, -sin * (height / width), zero, sin * (width / height), cos, zero)
    grid = F.affine_grid(torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def swapped(x: Tensor, level: float, seed: int) -> Tensor:
    """Sequences (N, T) in which a share `level` of tokens gives way to others of the same frequencies.

    Each is replaced by a token drawn from all that stand in `x`; padding and starts stay.
    """
    tokens = x[x > START]
    drawn = torch.randint(len(tokens), x.shape, generator=torch_stream(seed, "shift/tokens"))
    return torch.where(_hit(x, level, seed), tokens[drawn.to(x.device)], x)


def unknown(x: Tensor, level: float, seed: int) -> Tensor:
    """Sequences (N, T) in which a share `level` of tokens becomes the unknown one; padding and starts stay."""
    return torch.where(_hit(x, level, seed), UNKNOWN, x)


Corruption = Callable[[Tensor, float, int], Tensor]
IMAGE: Mapping[str, Corruption] = {"noise": noise, "blur": blur, "rotation": rotation}
TABLE: Mapping[str, Corruption] = {"noise": table_noise}
TOKENS: Mapping[str, Corruption] = {"swapped": swapped, "unknown": unknown}


def _hit(x: Tensor, level: float, seed: int) -> Tensor:
    drawn = torch.rand(x.shape, generator=torch_stream(seed, "shift/hit")).to(x.device)
    return (drawn < level) & (x > START)


def _normal(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch_stream(seed, "shift/noise")).to(like)


def _smoothing(side: int, sigma: float) -> Tensor:
    """Matrix (side, side) that convolves a line of pixels with a normal density of deviation `sigma` pixels.

    The density is integrated over each pixel, so that a sigma below one pixel still means something;
    the outermost pixels reach to infinity, which repeats the edges.
    """
    pixel = torch.arange(side, dtype=torch.float64)
    edges = torch.cat([torch.tensor([-math.inf]), pixel[1:] - 0.5, torch.tensor([math.inf])])
    return torch.special.ndtr((edges - pixel[:, None]) / sigma).diff()
