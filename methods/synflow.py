"""SynFlow: iterative synaptic flow pruning without data (Tanaka, Kunin, Yamins, Ganguli, NeurIPS 2020, 2006.05467).

With every weight replaced by its absolute value and an input of ones, R is the sum of the outputs and the
score is θ ∘ ∂R/∂θ (equation 2), computed anew in each of 100 rounds (algorithm 1). Float64 throughout:
the product over many layers leaves the range of float32. Whole network in evaluation mode.

Formula: s = θ ∘ ∂R/∂θ,  R = 1ᵀ (Π_l |θ_l|) 1
Paper: tanaka2020pruning
Deviations: LayerNorm and GroupNorm are reduced to their affine parts, which the published networks do not have.
Oracle: test_methods.py::test_synflow_is_conserved_across_layers_and_has_its_closed_form
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ..datasets.errors import NotApplicable
from .closed_forms.posteriors import Laplace
from .laplace.map import MAP
from .pruner import Pruner, State, register
from .scores.scratch import gradients_of, scratch


@register("synflow")
def synflow_pruner(rounds: PositiveInt = 100, precision: float = 1.0) -> Pruner[Laplace]:
    """Synaptic flow |θ|·∂R/∂|θ| at initialisation, without data, in rounds (Tanaka et al. 2020)."""
    return Pruner(partial(MAP, precision), synflow, when="before", rounds=rounds)


def synflow(state: State) -> Tensor:
    """|θ| ∂R/∂|θ|, summed over a unit's weights; shape (units.n,); raises NotApplicable for networks of words."""
    x = state.train[:1].x
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise NotApplicable("synflow sends an input of ones through the network: there is none among words")
    with scratch(state.network, "eval") as (network, weights):
        linearised = _linearised_(network.double())
        flow = linearised(torch.ones_like(x, dtype=torch.float64)).sum()
        gradients = gradients_of(flow, list(weights.values()))
    return state.units.gather({n: (w * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)})


@torch.no_grad()
def _linearised_(network: nn.Module) -> nn.Module:
    """Absolute values everywhere, and norms reduced to their affine part, in place.

    BatchNorm in evaluation mode is affine already. LayerNorm and GroupNorm divide by statistics of the input,
    which for an input of ones measures nothing and breaks the conservation of flow that the method rests on.
    """
    for tensor in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
        tensor.abs_()
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.register_forward_hook(_affine)  # what a hook returns takes the output's place
    return network


def _affine(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    (x,) = inputs
    channels_first = isinstance(module, nn.GroupNorm) or "2d" in type(module).__name__  # timm's LayerNorm2d
    after_channels = (1,) * (x.dim() - 2) if channels_first else ()
    for parameter, combine in ((module.weight, torch.mul), (getattr(module, "bias", None), torch.add)):
        if isinstance(parameter, Tensor):
            x = combine(x, parameter.view(*parameter.shape, *after_channels))
    return x
