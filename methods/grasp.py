"""GraSP: gradient signal preservation (Wang, Zhang, Grosse, ICLR 2020, arXiv 2002.07376).

Removing θ_q changes the gradient flow |g|² by -2 θ_q (Hg)_q to first order (equation 8). The paper's
score S = -θ ∘ (Hg) is high for weights whose removal would raise the flow; those are removed. Here larger is
kept, so the score is θ ∘ (Hg). g and H are of the loss of the outputs divided by a temperature.

Deviations: unlike in the published code, the linear layers of the scored copy are not initialised anew, and counts are
    exact (it keeps one weight too many).

Formula: s = θ ∘ (H g)
Paper: wang2020picking
Oracle: test_methods.py::test_grasp_is_the_explicit_hessian_gradient_product
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..datasets.examples import Examples
from .closed_forms.likelihood import mean_loss, output_model
from .closed_forms.posteriors import Laplace
from .laplace.map import MAP
from .pruner import Pruner, State, register
from .scores.scratch import BatchNormMode, gradients_of, scoring_batch, scratch


@register("grasp")
def grasp_pruner(
    temperature: PositiveFloat = 200.0,
    examples_per_class: PositiveInt = 10,
    absolute: bool = False,
    batch_norm: BatchNormMode = "train",
    precision: float = 1.0,
) -> Pruner[Laplace]:
    """Gradient signal preservation θ·(Hg) at initialisation (GraSP, Wang et al. 2020)."""
    score = partial(
        grasp, temperature=temperature, examples_per_class=examples_per_class, absolute=absolute, batch_norm=batch_norm
    )
    return Pruner(partial(MAP, precision), score, when="before")


def grasp(
    state: State, temperature: float, examples_per_class: int, absolute: bool, batch_norm: BatchNormMode
) -> Tensor:
    """θ ∘ (Hg), or its absolute value, summed over a unit's weights; shape (units.n,).

    For targets without classes `examples_per_class` counts ten classes, and the temperature divides nothing.
    """
    train = state.train
    batch = scoring_batch(state, examples_per_class * _classes(train))
    with scratch(state.network, batch_norm) as (network, weights):
        outputs = network(batch.x) / (temperature if output_model(train.likelihood).logits else 1.0)
        loss = mean_loss(outputs, batch.y, train.likelihood)
        products = hessian_gradient_product(loss, list(weights.values()))
    worth = {n: (w * hg).detach() for (n, w), hg in zip(weights.items(), products, strict=True)}
    return state.units.gather({n: w.abs() for n, w in worth.items()} if absolute else worth)


def _classes(train: Examples) -> int:
    """Classes of the targets, or kinds of them: a yes and a no of every label, ten of real numbers."""
    if not output_model(train.likelihood).logits:
        return 10
    if train.likelihood == "bernoulli":
        return 2 * train[:1].y.shape[1]
    y = train[:1].y
    return y.shape[1] if y.is_floating_point() else max(int(part.max()) for _, part in train.parts()) + 1


def hessian_gradient_product(loss: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """Hg, the Hessian of `loss` times its own gradient, by differentiating <stop(g), g>."""
    gradients = gradients_of(loss, weights, create_graph=True)
    flow = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
    return gradients_of(flow, weights)
