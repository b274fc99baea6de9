"""Maximum a posteriori training under an isotropic Gaussian prior, and its Laplace posterior.

MacKay, "A practical Bayesian framework for backpropagation networks", Neural Computation 4 (1992): with the
prior N(0, 1/δ) on every parameter, the penalty is ½ δ |θ|² nats, that is, weight decay δ/N on the mean
loss of N examples; at the mode the posterior precision is H + δ, H the curvature of the summed
negative log likelihood, by default the diagonal of the generalised Gauss-Newton matrix (GGN). The prior of
the posterior may also be fitted to the trained network, by the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.flat import flat
from ..closed_forms.posteriors import Laplace
from ..curvature.estimate import CurvatureStructure, curvature_of
from ..curvature.output_vectors import CurvatureKind
from ..pruner import AFTER_TRAINING, TUNING_GRID, Inference
from .evidence import drawn, evidence_at, kept_entries
from .hyperparameters import Hyperparameters, UpdateRule
from .prior_structure import PriorStructure

# Evidence steps that fit a prior to a trained network: of Adam, by which log precisions may move by up to 20...
FITTING_STEPS = 200
# ...or rounds of MacKay's fixed point, where each of them inverts a whole matrix, which is expensive.
FITTING_ROUNDS = 50


@dataclass
class MAP(Inference[Laplace]):
    """MAP training with prior precision δ; posterior by a Laplace approximation.

    Attributes:
        precision: δ, or "tuned": chosen on the validation split (by negative log likelihood) from a fixed grid.
        kind: of the curvature.
        curvature: its diagonal ("diag"), Kronecker factors ("kfac"), the rows of single examples ("lowrank"), or, of
            small networks, the whole matrix ("full").
        prior: of the posterior: None is the one trained with; a structure is fitted by the evidence, and for
            real targets the observation noise too.
        examples: of the curvature at most, drawn anew for each posterior; all of them by default.
        update_rule: by which the evidence fits the prior, as `Hyperparameters`; by default what is affordable.

    Raises UsageError for a negative or non-finite precision.
    """

    precision: float | Literal["tuned"] = 1.0
    kind: CurvatureKind = field(default="ggn", metadata=AFTER_TRAINING)
    curvature: CurvatureStructure = field(default="diag", metadata=AFTER_TRAINING)
    prior: PriorStructure | None = field(default=None, metadata=AFTER_TRAINING)
    examples: int | None = field(default=None, metadata=AFTER_TRAINING)
    update_rule: UpdateRule | None = field(default=None, metadata=AFTER_TRAINING)

    @property
    def correlates(self) -> bool:
        """Of the diagonal, no."""
        return self.curvature != "diag"

    def __post_init__(self) -> None:
        if self.precision != "tuned" and not 0 <= self.precision < float("inf"):
            raise UsageError(f"prior precision must be a finite number >= 0 or 'tuned', got {self.precision!r}")
        self.masks: dict[str, Tensor] = {}

    def candidates(self) -> Sequence[MAP]:
        """One MAP for each precision of the grid when it is to be tuned."""
        return [replace(self, precision=p) for p in TUNING_GRID] if self.precision == "tuned" else (self,)

    def penalty(self, network: nn.Module) -> Tensor:
        """½ δ |θ|², in nats for the whole training set; a scalar."""
        return 0.5 * self._delta * torch.stack([p.square().sum() for p in trainable(network).values()]).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds scale · δ · θ to the gradients, in one fused step."""
        parameters, weight = list(trainable(network).values()), scale * self._delta

        def add() -> None:
            if penalised := [p for p in parameters if p.grad is not None]:
                with torch.no_grad():  # as a decorator it takes longer than the sum
                    torch._foreach_add_([p.grad for p in penalised], penalised, alpha=weight)  # pyright: ignore

        return add if weight and parameters else lambda: None

    def posterior(self, network: nn.Module, train: Examples) -> Laplace:
        """Laplace posterior at the network's parameters: precision cH + δ."""
        parameters, generator = trainable(network), torch.Generator().manual_seed(0)
        if self.prior is None:
            part, share = drawn(train, self.examples)
            curvature = curvature_of(network, part, self.curvature, self.kind, generator)
            curvature = curvature if share == 1 else curvature.scaled(share)
            if self.masks and self.correlates:
                curvature = curvature.masked(kept_entries(parameters, self.masks))
            delta = torch.full_like(flat(parameters), self._delta)
            return Laplace.at(parameters, curvature, delta, torch.ones_like(delta[0]))
        evidence = evidence_at(network, train, self.curvature, self.kind, generator, 1.0, self.masks, self.examples)
        expensive = self.curvature in ("full", "lowrank") and self.prior != "unitwise"
        rule = self.update_rule or ("mackay" if expensive else "adam")
        sums = (self.update_rule == "mackay" or self.curvature == "lowrank") and self.prior in ("scalar", "layerwise")
        hyper = Hyperparameters(self.prior, parameters, self._delta or 1.0, rule=rule, sums=sums)
        hyper.ascend(evidence, FITTING_ROUNDS if rule == "mackay" else FITTING_STEPS)
        curvature = evidence.tempered(hyper.log_noise)
        return Laplace.at(parameters, curvature, hyper.precision(), hyper.log_noise.exp())

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """What has left takes no part in the evidence that fits the prior."""
        self.masks = dict(mask.tensors)

    @property
    def _delta(self) -> float:
        if isinstance(self.precision, str):
            raise UsageError("a tuned precision must first be chosen among candidates() on the validation split")
        return self.precision
