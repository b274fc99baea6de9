"""The regularised horseshoe as a prior of scales: of rows of weights, and of single weights.

Ghosh, Yao, Doshi-Velez, ICML 2018 (arXiv 1806.05975); Marković, Friston, Kiebel, arXiv 2309.12095. In row i of a hidden
layer (an output unit with its bias)

    τ_i² = τ0² (z0 v_i) / (z1 u_i),  γ_i² = c² τ_i² / (c² + τ_i²),  z, u, v ~ Gamma(½, 1),

the square root of a ratio of two Gamma(½) variables being half-Cauchy, with the slab c⁻² ~ Gamma(2, 6) of the layer.
The last layer has one scale, γ² = z0 / z1. With `local` scales every weight has a ratio of its own beside its row's.
Louizos, Ullrich, Welling (NIPS 2017) have the same τ_i, without a slab, on groups of weights.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import softplus

from .scale_factors import Factor, Layer, Prior, Scale

HALF = (0.5, 1.0)  # Gamma(½, 1)
SLAB = (2.0, 6.0)  # of c⁻²: a Student-t slab of 4 degrees of freedom and scale √3


def horseshoe_prior(layer: Layer, scale: float, local: bool = False) -> Prior:
    """Gamma(½) factors of the layer, its rows and perhaps its weights, and the slab's; `scale` is τ0."""
    ratio = f"{layer.weight} z0", f"{layer.weight} z1"
    offset = 0.0 if layer.last else 2 * math.log(scale)
    start = 0.5 * (2 * math.log(layer.rms) - offset) if layer.rms else 0.0  # of z0, and of z1 with a minus
    factors = {name: Factor(torch.Size(), *HALF, sign * start) for name, sign in zip(ratio, (1, -1), strict=True)}
    if layer.last:
        return factors, {n: Scale(len(s), offset, ratio[:1], ratio[1:]) for n, s in layer.members.items()}
    rows, slab = (f"{layer.weight} v", f"{layer.weight} u"), f"{layer.weight} c"
    factors |= {name: Factor(torch.Size([layer.rows]), *HALF) for name in rows}
    factors[slab] = Factor(torch.Size(), *SLAB, -math.log(3))
    scales = {}
    for name, shape in layer.members.items():
        own = (f"{name} λ+", f"{name} λ-") if local else ()
        factors |= {part: Factor(shape, *HALF, of=name) for part in own}
        plus, minus = (ratio[0], rows[0], *own[:1]), (ratio[1], rows[1], *own[1:])
        scales[name] = Scale(len(shape), offset, plus, minus, slab, layer.outputs_of(name))
    return factors, scales


def group_horseshoe(group: str, size: int, scale: float) -> tuple[dict[str, Factor], Scale]:
    """Factors of the scales τ_i of the units of a group, without a slab: all τ_i are 1 where they start.

    Of the z0 and z1 whose ratio is τ0⁻² those start it that are nearest to their prior.
    """
    names, lift = [f"{group} {part}" for part in ("z0", "z1", "v", "u")], torch.tensor(-2 * math.log(scale))
    starts = (-softplus(-lift).item(), -softplus(lift).item(), 0.0, 0.0)
    shapes = (torch.Size(), torch.Size(), torch.Size([size]), torch.Size([size]))
    factors = {n: Factor(shape, *HALF, start) for n, shape, start in zip(names, shapes, starts, strict=True)}
    return factors, Scale(1, -lift.item(), (names[0], names[2]), (names[1], names[3]))
