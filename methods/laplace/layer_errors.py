"""Layer by layer: what pruning a weight does to its own layer's outputs, as a posterior whose curvature is the inputs'.

For a weight W with inputs a at all positions, |(W - W')a|² summed is tr (W - W') A (W - W')', A = Σ a a': a Kronecker
precision I ⊗ A, in units of squared outputs and not of nats, in which rows are independent and labels are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import held_transposed, trainable
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Curvature, Diagonal
from ..closed_forms.flat import flat
from ..closed_forms.kronecker_product import Kronecker, KroneckerProduct
from ..closed_forms.posteriors import Laplace
from ..curvature.diagonals import send_back
from ..curvature.kronecker import KroneckerSums, finite
from ..gradients.uses import Lookup, Transposed, Use
from ..pruner import State
from .evidence import drawn
from .map import MAP


@dataclass
class LayerErrors(MAP):
    """MAP training, and ½ Σ |W a - W' a|² as the negative log posterior of each layer.

    Attributes:
        damping: what the diagonal of A gets, as a share of its mean: inputs that are always 0 would be free.

    Raises UsageError for a damping that is not positive and finite.
    """

    damping: float = field(default=0.01, metadata={"after training": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping < float("inf"):
            raise UsageError(f"damping must be positive and finite, got {self.damping!r}")

    @property
    def correlates(self) -> bool:
        """Inputs of a layer hang together."""
        return True

    def identity(self) -> dict[str, Any]:
        """That of MAP, with which it shares what it trains."""
        return {**super().identity(), "name": MAP.__qualname__}

    def posterior(self, network: nn.Module, train: Examples) -> Laplace:
        """I ⊗ A of every weight that a layer multiplies its inputs with; anything else is held by its prior."""
        parameters = trainable(network)
        part, _ = drawn(train, self.examples)
        sums = InputSums(parameters)
        send_back(sums, network, part, "mc", torch.Generator().manual_seed(0))
        blocks: dict[str, Curvature] = {name: sums.pop(name) for name in parameters}
        priors = [flat({name: torch.full_like(p, self._damped(blocks[name]))}) for name, p in parameters.items()]
        whole = Kronecker(blocks, tuple(p.numel() for p in parameters.values()))
        return Laplace.at(parameters, whole, torch.cat(priors))

    def _damped(self, block: Curvature) -> float:
        """The mean of diag A is the mean eigenvalue, and every row has it."""
        if not isinstance(block, KroneckerProduct):
            return 1.0
        return self.damping * max(float(block.h.mean()), torch.finfo(torch.float32).tiny)


class InputSums(KroneckerSums):
    """Adds up A alone: any vector sent back shows the inputs, and no label is read."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__(parameters)
        self._kinds: dict[str, type[Use]] = {}

    def collect(self, name: str, uses: list[Use]) -> None:
        """Also of what kind the uses are, as it says where the inputs stand."""
        self._kinds[name] = type(uses[0])
        super().collect(name, uses)

    def pop(self, name: str) -> Curvature:
        """I ⊗ A of a weight, A ⊗ I of one that is held transposed, A summed over positions.

        Of a vector it is what it is for `KroneckerSums`; a table's rows are looked up and multiply nothing.
        """
        kind, left, right = self._kinds.get(name), self._left.get(name), self._right.get(name)
        vector = self.parameters[name].dim() < 2
        if vector or name in self.diagonals or left is None or right is None or not right.numel():
            return super().pop(name)
        del self._left[name], self._right[name]
        if kind is Lookup:
            return Diagonal(torch.zeros_like(self.parameters[name], dtype=torch.float64).flatten())
        if kind is Transposed:
            return KroneckerProduct.of(finite(name, left), _one_like(right))
        return KroneckerProduct.of(_one_like(left), finite(name, right))


def _one_like(factors: Tensor) -> Tensor:
    return torch.eye(factors.shape[1], dtype=torch.float64, device=factors.device).expand(len(factors), -1, -1)


@dataclass(frozen=True)
class Rows:
    """How a layer multiplies its inputs with a weight, however that is held: G groups of rows, one for each output.

    Attributes:
        weights: (G, out, in), float64.
        vectors: eigenvectors of A, (G, in, in).
        values: its eigenvalues, damping included, (G, in).
        mirrored: whether the weight is held transposed, (in, out).
    """

    weights: Tensor
    vectors: Tensor
    values: Tensor
    mirrored: bool

    @classmethod
    def of(cls, block: KroneckerProduct, weight: Tensor, prior: Tensor, mirrored: bool) -> Rows:
        """Of I ⊗ A; of A ⊗ I where the weight is held `mirrored`."""
        weights, h, vectors = weight.view(block.h.shape), block.h, block.right
        if mirrored:
            weights, h, vectors = weights.mT, h.mT, block.left
        return cls(weights, vectors, h[:, 0] + prior.flatten()[0], mirrored)

    def laid(self, tensor: Tensor) -> Tensor:
        """Any tensor of as many numbers as the weight, in its order, as (G, out, in)."""
        groups, out, inputs = self.weights.shape
        return tensor.view(groups, inputs, out).mT if self.mirrored else tensor.view(groups, out, inputs)

    def back(self, rows: Tensor) -> Tensor:
        """From (G, out, in) to the order of the weight, flat."""
        return (rows.mT if self.mirrored else rows).flatten()


def rows_of(state: State[Laplace]) -> Iterator[tuple[str, Rows | None]]:
    """Every prunable weight by name; None for one that multiplies no inputs."""
    whole, posterior = state.posterior.whole, state.posterior
    for name in state.weights():
        block = whole.blocks[name] if isinstance(whole, Kronecker) else None
        found = None
        if isinstance(block, KroneckerProduct):
            mirrored = held_transposed(state.network, name)
            found = Rows.of(block, posterior.mean[name], posterior.prior[name], mirrored)
        yield name, found
