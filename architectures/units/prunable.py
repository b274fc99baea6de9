"""Which parameters of a network may be pruned, and which take part in training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..layers.axes import is_transposed
from ..layers.words import Words

# Modules whose parameters called "...weight..." multiply an input; biases, norms and tables are not here.
_WEIGHTED = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    Words,
)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


def all_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have: one that modules share is there for each of them."""
    return dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training may change, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def prunable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that may be pruned, by name, in the network's own order.

    These are the weight tensors of linear, (transposed) convolution, recurrent and attention layers that
    take part in training, and the vectors of `Words`; no biases, norms, other embeddings or position tables, and no
    frozen weights. A tensor that several layers share counts once, under its first name; one shared with another
    embedding is left out.
    """
    tables = [module for module in network.modules() if isinstance(module, _TABLES) and not isinstance(module, Words)]
    weighted = [module for module in network.modules() if isinstance(module, _WEIGHTED) or is_transposed(module)]
    offered = _parameters_of(weighted) - _parameters_of(tables)
    return {name: p for name, p in network.named_parameters() if id(p) in offered and p.requires_grad}


def held_transposed(network: nn.Module, name: str) -> bool:
    """Whether the weight of that name is (in, out)."""
    return is_transposed(network.get_submodule(name.rpartition(".")[0]))


def _parameters_of(modules: Sequence[nn.Module]) -> set[int]:
    own = [item for module in modules for item in module.named_parameters(recurse=False)]
    return {id(parameter) for name, parameter in own if "weight" in name}
