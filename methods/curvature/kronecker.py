"""Kronecker-factored curvature (KFAC) of every architecture, from per-example gradients.

Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015;
Grosse & Martens, ICML 2016 (convolutions); Eschenhagen et al., "KFAC for modern architectures", NeurIPS 2023
(weight sharing; here its `expand` form).

A weight W (out, in) that meets inputs a and output gradients g at M positions has the block B ⊗ A over the
rows of W, with B = Σ g g' and A = Σ a a' / M: over the examples, their tokens, times or output pixels, and for B over
the output vectors of `curvature` (convolutions: in counts the kernel's places). A weight used several times counts
every use as further positions; the groups of a convolution have a pair each. A table looked up has its rows' counts,
a diagonal, for one factor and Σ g g' / M for the other.
A vector (a bias, a norm's scale) keeps its whole block Σ g g', g the gradients of single examples, without
coupling to any weight; with one position per example a bias's is B. Whatever else is broadcast (position tables,
class tokens), used in ways of different kinds (a table that is also the output layer) or by an unforeseen operation
keeps its exact diagonal.

Cost: positions · (out² + in²) multiplications in a pass, then out³ + in³ for the eigenvectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import trainable
from ...datasets.examples import Examples
from ...datasets.split import AnyLikelihood, Split
from ...datasets.trees import Inputs
from ..closed_forms.curvature_matrix import Curvature, Diagonal
from ..closed_forms.kronecker_product import Kronecker, KroneckerProduct
from ..gradients.interception import ParameterUses
from ..gradients.uses import Convolution, Factors, Lookup, Use
from .diagonals import send_back
from .output_vectors import CurvatureKind

__all__ = ["Kronecker", "KroneckerProduct", "KroneckerSums", "kfac", "kfac_of", "predicted_bytes"]

Factored = Factors | Convolution | Lookup

# Modules whose weights get factors.
FACTORED = (nn.Linear, nn.Conv2d, nn.Embedding, nn.LSTM)
# Numbers in the patches of a convolution that are formed at a time.
PATCHES = 1 << 22


def kfac(
    network: nn.Module, x: Inputs, y: Tensor, likelihood: AnyLikelihood = "categorical", kind: CurvatureKind = "ggn",
    generator: torch.Generator | None = None,
) -> Kronecker:  # fmt: skip
    """Kronecker-factored curvature of the negative log likelihood, summed over the examples.

    Args:
        network: evaluated in evaluation mode; left as it was.
        x: inputs of shape (N, ...).
        y: labels (N,), or targets or probabilities (N, K), as in `diagonal`.
        likelihood: "categorical", "gaussian" with unit noise, or "bernoulli".
        kind: the vectors sent backward, as in `curvature`; "mc" and "rademacher" draw them from `generator`.
        generator: required by the kinds that draw.

    Returns:
        One block for every trainable parameter, in the order of `curvature.trainable`.

    Raises:
        UsageError: no examples, or nothing trainable.
        ArithmeticError: a curvature that is not finite.
    """
    return kfac_of(network, Split(x, y, likelihood), kind, generator)


def kfac_of(
    network: nn.Module, data: Examples, kind: CurvatureKind = "ggn", generator: torch.Generator | None = None
) -> Kronecker:
    """The same of any examples, in memory or not."""
    parameters = trainable(network)
    sums = KroneckerSums(parameters)
    for name, squares in send_back(sums, network, data, kind, generator).items():
        sums.diagonals[name] = squares
    with torch.no_grad():
        blocks = {name: sums.pop(name) for name in parameters}
    return Kronecker(blocks, tuple(p.numel() for p in parameters.values()))


def predicted_bytes(network: nn.Module) -> int:
    """At most what `kfac` holds: factors and eigenvectors, 16 Σ G (out² + in²) over weights, 16 Σ n² over vectors."""
    owners = {id(p): m for m in network.modules() if isinstance(m, FACTORED) for p in m.parameters(recurse=False)}
    return sum(16 * _factor_entries(p, owners.get(id(p))) for p in trainable(network).values())


def _factor_entries(parameter: Tensor, owner: nn.Module | None) -> int:
    rows, numel = (len(parameter) if parameter.dim() else 1), parameter.numel()
    if not numel or (parameter.dim() > 1 and owner is None):
        return numel  # a table that is broadcast: a diagonal
    if isinstance(owner, nn.Embedding):
        return rows + (numel // rows) ** 2
    groups = getattr(owner, "groups", 1) if parameter.dim() > 1 else 1
    return groups * ((rows // groups) ** 2 + (numel // rows) ** 2)


# ---------------------------------------------------------------------- the factors


class KroneckerSums(ParameterUses):
    """Each backward pass adds to the factors of every parameter, or to its diagonal."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__(parameters)
        self.diagonals: dict[str, Tensor] = {}
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        self._positions = Counter[str]()
        self._inputs: dict[str, list[Tensor]] = {}

    def new_batch(self) -> None:
        """Forget the last forward pass."""
        super().new_batch()
        self._inputs.clear()

    def collect(self, name: str, uses: list[Use]) -> None:
        """Add one backward pass of one parameter."""
        if name in self.fallback:
            return
        if self.parameters[name].dim() < 2:
            g = _summed(uses).unsqueeze(1)
            uses = [Factors(g, torch.ones_like(g[:, :, :1]))]
        factored = [u for u in uses if isinstance(u, Factored) and type(u) is type(uses[0])]
        if len(factored) < len(uses):
            _accumulate(self.diagonals, name, _summed(uses).square().sum(0))
            return
        _accumulate(self._left, name, _total([_left(u) for u in factored]))
        if not self._seen(name, factored):
            _accumulate(self._right, name, _total([_right(u) for u in factored]))
            self._positions[name] += sum(_positions(u) for u in factored)

    def _seen(self, name: str, uses: list[Factored]) -> bool:
        """Whether the last vector sent backward met the same inputs, as it does unless they are gradients (tables).

        The inputs are kept until the next batch: another tensor cannot take the place of one that is alive.
        """
        now = [u.a if isinstance(u, Factors) else u.x if isinstance(u, Convolution) else u.g for u in uses]
        before = self._inputs.setdefault(name, now)
        return before is not now and all(p.data_ptr() == q.data_ptr() for p, q in zip(before, now, strict=True))

    def pop(self, name: str) -> Curvature:
        """The block of one parameter, whose sums are freed; nothing collected is no curvature."""
        left, right = self._left.pop(name, None), self._right.pop(name, None)
        if name in self.diagonals or left is None or right is None or not right.numel():
            none = torch.zeros_like(self.parameters[name], dtype=torch.float64)
            return Diagonal(finite(name, self.diagonals.get(name, none)).flatten())
        return KroneckerProduct.of(finite(name, left), finite(name, right) / self._positions[name])


def _left(use: Factored) -> Tensor:
    """Σ g g' over positions, shape (G, out, out); of a table the counts of its rows, each a group of its own."""
    if isinstance(use, Lookup):
        return torch.bincount(use.index.flatten(), minlength=use.rows).view(-1, 1, 1)
    if isinstance(use, Factors):
        return _second_moment(use.g, 1)
    return _second_moment(use.g.flatten(2).transpose(1, 2), use.geometry.groups)


def _right(use: Factored) -> Tensor:
    """Σ a a' over positions, shape (G, in, in), of a table Σ g g', shared by its rows."""
    if isinstance(use, Convolution):
        groups, numbers = use.geometry.groups, use.x.shape[1] * use.weight[0, 0].numel() * use.g[0, 0].numel()
        whole = replace(use, geometry=use.geometry._replace(groups=1))  # patches know no groups
        parts = whole.split(max(1, PATCHES // max(numbers, 1)))
        return _total([_second_moment(cast(Convolution, part).factors().a, groups) for part in parts])
    return _second_moment(use.a if isinstance(use, Factors) else use.g, 1)


def _positions(use: Factored) -> int:
    return use.g.numel() // use.g.shape[1] if isinstance(use, Convolution) else use.g.shape[:2].numel()


def _second_moment(tokens: Tensor, groups: int) -> Tensor:
    """Σ t t' over N and T of tokens (N, T, groups · n), shape (groups, n, n), float64."""
    parts = tokens.flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)
    return (parts.mT @ parts).double()


def _summed(uses: list[Use]) -> Tensor:
    """Per-example gradients over all uses, shape (N, numel)."""
    return _total([u.per_example().flatten(1) for u in uses])


def _total(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0])


def _accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value.double()


def finite(name: str, value: Tensor) -> Tensor:
    """The value; raises ArithmeticError if a curvature is not finite."""
    if not torch.isfinite(value).all():
        raise ArithmeticError(
            f"the curvature of {name!r} is not finite: the network has diverged, lower the learning rate"
        )
    return value
