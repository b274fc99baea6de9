"""Sizes that a layer keeps as attributes, brought to agree with its tensors."""

from __future__ import annotations

import functools

from torch import nn

from .attention import resize_heads_


@functools.singledispatch
def resize(module: nn.Module) -> None:
    """Make a module's size attributes agree with its tensors; an architecture registers its own classes."""


@resize.register
def _(module: nn.Linear) -> None:
    module.out_features, module.in_features = module.weight.shape


@resize.register
def _(module: nn.modules.conv._ConvNd) -> None:
    # Axis 0 of the weight counts channels, axis 1 the channels per group; `groups` is a number that groups of units
    # count where whole groups leave.
    sizes = (module.weight.shape[0], module.weight.shape[1] * module.groups)
    module.in_channels, module.out_channels = sizes if module.transposed else sizes[::-1]


@resize.register
def _(module: nn.modules.batchnorm._NormBase) -> None:
    per_channel = module.weight if module.weight is not None else module.running_mean
    if per_channel is not None:
        module.num_features = len(per_channel)


@resize.register
def _(module: nn.GroupNorm) -> None:
    per_group = module.num_channels // module.num_groups
    if module.weight is not None:
        module.num_channels = len(module.weight)
        module.num_groups = module.num_channels // per_group


@resize.register
def _(module: nn.LayerNorm) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


@resize.register
def _(module: nn.RNNBase) -> None:
    rows, module.input_size = module.get_parameter("weight_ih_l0").shape
    module.hidden_size = rows // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)


@resize.register
def _(module: nn.RNNCellBase) -> None:
    module.hidden_size = module.weight_hh.shape[1]
    module.input_size = module.weight_ih.shape[1]


@resize.register
def _(module: nn.Embedding) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@resize.register
def _(module: nn.MultiheadAttention) -> None:
    resize_heads_(module)
