"""Gradients of the summed loss, and products with its Gauss-Newton matrix, without the matrix.

Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 14, 2002:
G v = J' (H_f (J v)), J the Jacobian of the outputs f and H_f the Hessian of the loss in them. J v is the derivative of
J' u in u, times v, which costs one more backward pass and asks no rule of any layer but its own derivative's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...architectures.running.modes import as_rows
from ...datasets.examples import Batch
from ...datasets.split import AnyLikelihood
from ..closed_forms.likelihood import output_model
from .scratch import gradients_of


def gradient_and_product(
    network: nn.Module, weights: list[Tensor], direction: Sequence[Tensor], batch: Batch, likelihood: AnyLikelihood
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """g and G v, in the shapes of the weights, of the loss summed over the terms of a batch."""
    x, y = batch
    outputs = as_rows(network(x))
    leaf = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(output_model(likelihood).summed_loss(leaf, y), leaf, create_graph=True)
    moved = _forward(outputs, weights, direction)
    (pull,) = gradients_of((slope * moved).sum(), [leaf])
    one, other = ((outputs * sent.detach()).sum() for sent in (slope, pull))
    return gradients_of(one, weights, retain=True), gradients_of(other, weights)


def _forward(outputs: Tensor, weights: list[Tensor], direction: Sequence[Tensor]) -> Tensor:
    """J v."""
    u = torch.zeros_like(outputs, requires_grad=True)
    back = gradients_of((outputs * u).sum(), weights, create_graph=True)
    along = torch.stack([(j * v).sum() for j, v in zip(back, direction, strict=True)]).sum()
    return gradients_of(along, [u], retain=True)[0]
