"""Networks with one input, several, or inputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...datasets.trees import Inputs


def called(network: nn.Module, inputs: Inputs) -> Any:
    """What the network returns for these inputs; one that was given another form takes them as they are."""
    if hasattr(type(network), "_own_class"):
        return network(inputs)
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(inputs) if isinstance(inputs, Tensor) else network(*inputs)
