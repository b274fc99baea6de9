"""The 2:4 pattern: the best two of every four consecutive inputs, what sparse tensor cores can skip.

Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378. Kernels multiply rows of inputs: of a
convolution the input channels at one output and one place of the kernel, of grouped ones those of the group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...architectures.layers.axes import is_transposed
from ...datasets.errors import UsageError
from ...methods.pruner import State
from .ranking import best, keep_count


def two_of_four(ranking: Tensor, state: State, keep: int) -> Tensor:
    """The best two of every four consecutive inputs of an output; boolean, shape (units.n,).

    Rows whose length is not a multiple of four end in a shorter block, which keeps half; of the middle ones of odd
    blocks the best stay, as many as the exact count asks for. Raises UsageError unless half of single weights is to
    be kept.
    """
    units = state.units
    if units.removable or keep != keep_count(units.n, 0.5) or bool(ranking.isneginf().any()):
        raise UsageError(f"the 2:4 pattern keeps half of the single weights, in one round, not {keep} of {units.n}")
    layers = zip(units.layer_names, units.split(ranking), strict=True)
    parts = [_blocks_of_four(layer, input_rows(state.network, name)) for name, layer in layers]
    kept, middle = (torch.cat(column) for column in zip(*parts, strict=True))
    return kept | (best(ranking.masked_fill(~middle, -math.inf), keep - int(kept.sum())) & middle)


def input_rows(network: nn.Module, name: str) -> Tensor:
    """Positions in the flat weight `name`, int64 (rows, inputs): a row holds the inputs that meet at one place."""
    weight = network.get_parameter(name)
    module = network.get_submodule(name.rpartition(".")[0])
    positions = torch.arange(weight.numel()).view(weight.shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.transposed:  # (inputs of all groups, outputs of a group, kernel)
            positions = positions.unflatten(0, (module.groups, -1)).movedim(1, -1)
        else:  # (outputs, inputs of a group, kernel)
            positions = positions.movedim(1, -1)
    elif is_transposed(module):  # (inputs, outputs)
        positions = positions.T
    return positions.flatten(0, -2)


def _blocks_of_four(layer: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The better half of every block of four, rounded down, and the middle ones of odd blocks; shape (n,) each."""
    width = rows.shape[1]
    blocks = nn.functional.pad(layer[rows], (0, -width % 4), value=-math.inf).reshape(-1, 4)
    places = blocks.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    half = blocks.isfinite().sum(1, keepdim=True) / 2
    masks = (places < half.floor(), (places >= half.floor()) & (places < half))
    first, second = (_placed(mask.view(len(rows), -1)[:, :width], rows) for mask in masks)
    return first, second


def _placed(mask: Tensor, rows: Tensor) -> Tensor:
    """A mask of rows, in the order of the flat weight."""
    flat = torch.empty(rows.numel(), dtype=torch.bool)
    flat[rows.flatten()] = mask.flatten()
    return flat
