"""The gradients of single examples as rows: curvature of low rank, with everything between its parameters.

With kind "ef" a row is the gradient of one example's loss, as in WoodFisher (Singh, Alistarh, NeurIPS 2020) and CHITA
(Benbaki et al., ICML 2023), there in means, here in nats; with "mc" and "rademacher" also one row for an example, with
"ggn" one for each root of the Hessian in its outputs. More examples beat more roots of fewer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.low_rank import Formed, LowRank, Outer, Rows
from ..gradients.interception import ParameterUses
from ..gradients.uses import Factors, Use
from .diagonals import send_back
from .output_vectors import CurvatureKind, passes

# Rows of which an n by n matrix takes 200 MB, and bytes that they may take themselves.
MOST_ROWS = 5_000
MOST_BYTES = 4 << 30


def low_rank(
    network: nn.Module, split: Examples, kind: CurvatureKind = "ef", generator: torch.Generator | None = None
) -> LowRank:
    """The rows of all examples; see `curvature.diagonal` for the arguments.

    Raises:
        UsageError: more than 5,000 rows, or 4 GB of them, or a parameter used in a way that cannot be followed.
        ArithmeticError: a gradient that is not finite.
    """
    parameters = trainable(network)
    _check_size(network, split, kind, sum(p.numel() for p in parameters.values()))
    found = _Rows(parameters)
    send_back(found, network, split, kind, generator)
    if found.fallback:
        raise UsageError(
            f"the gradients of {min(found.fallback)!r} cannot be told apart example by example: use curvature: kfac"
        )
    rows = {name: found.joined(name) for name in parameters}
    return LowRank(rows, tuple(p.numel() for p in parameters.values()), found.count)


def _check_size(network: nn.Module, split: Examples, kind: CurvatureKind, weights: int) -> None:
    with torch.no_grad():
        was = network.training
        outputs = network.eval()(split[:1].x)
        network.train(was)
    count = len(split) * (1 if kind in ("ef", "mc", "rademacher") else passes(outputs, split.likelihood, kind))
    if count > MOST_ROWS or 4 * count * weights > MOST_BYTES:
        raise UsageError(
            f"curvature: lowrank would keep {count:,} rows of {weights:,} weights, more than {MOST_ROWS:,} rows or "
            f"{MOST_BYTES >> 30} GB: choose examples: 1000 or fewer, and kind: ef or kind: mc for one row for each"
        )


class _Rows(ParameterUses):
    """Every backward pass hands in one row for each example."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__(parameters)
        self.count = 0
        self._found: dict[str, list[tuple[int, Rows]]] = {name: [] for name in parameters}

    def collect(self, name: str, uses: list[Use]) -> None:
        """Keep the outer product of a weight that met one input, and form all others."""
        if len(uses) == 1 and isinstance(use := uses[0], Factors) and use.g.shape[1] == 1:
            rows: Rows = Outer(use.g[:, 0].clone(), use.a[:, 0].detach().clone())
        else:
            rows = Formed(torch.stack([u.per_example().flatten(1) for u in uses]).sum(0))
        self._found[name].append((self.count, rows))

    def _collect_the_rest(self) -> None:
        super()._collect_the_rest()
        self.count += self.examples or 0

    def joined(self, name: str) -> Rows:
        """All rows of one parameter, zeros where a pass did not reach it; its parts are let go."""
        found, like = self._found.pop(name), self.parameters[name]
        kinds = {type(rows) for _, rows in found}
        if kinds == {Outer} and sum(len(r.g) for _, r in found if isinstance(r, Outer)) == self.count:
            outer = [r for _, r in found if isinstance(r, Outer)]
            return Outer(*(_finite(name, torch.cat(part)) for part in ([r.g for r in outer], [r.a for r in outer])))
        whole = like.new_zeros(self.count, like.numel())
        for start, rows in found:
            block = torch.cat(list(rows.blocks(like.numel())), 1)
            whole[start : start + len(block)] = block
        return Formed(_finite(name, whole.detach()))


def _finite(name: str, rows: Tensor) -> Tensor:
    if not torch.isfinite(rows).all():
        raise ArithmeticError(f"the gradients of {name!r} are not finite: the network has diverged, lower its lr")
    return rows
