"""SpaM: networks trained to be sparsifiable by the marginal likelihood (Dhahri et al., NeurIPS 2024).

Dhahri, Immer, Charpentier, Günnemann, Fortuin, "Shaving weights with Occam's razor", arXiv 2402.15978. The
prior precisions are learned during training: every K epochs after a burn-in, the Laplace evidence at the
present network is raised by S steps of Adam on the log precisions, curvature and network held fixed; in
between, the network descends on mean loss + T ½ Σ δ θ² / N. The posterior precision then scores weights.

BatchNorm makes the likelihood blind to the scale of the weights before it, which the prior then shrinks from step
to step; running statistics lag behind, and evaluation mode shows another network than the one in training. So the
statistics are set anew before each fit of the evidence.

Deviations: unlike in the published code, the penalty is not divided by the initial precision; log precisions are
    clamped, because a vanishing curvature or weight drives them without bound; the precisions in use are those after
    the last step, not one step behind; the training mode is restored after each fit. T is 0.3, with which dense
    networks are as accurate as MAP's on small data: `preset: authors` has the paper's 1.

Formula: δ ← argmax log p(D | δ) every K epochs;  then the score of the criterion
Paper: dhahri2024shaving, immer2021scalable
Oracle: test_spam.py::test_gradient_equals_autograd_and_mackay_is_its_root,
    test_spam.py::test_evidence_of_a_linear_model_is_exact_iff_its_design_is_orthogonal
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..architectures.running.batch_norm import reestimate_batch_norm
from ..architectures.units.mask import Mask
from ..architectures.units.prunable import trainable
from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from . import registry
from .closed_forms.flat import named
from .closed_forms.order_statistics import quantiles
from .closed_forms.posteriors import Laplace
from .curvature.estimate import CurvatureStructure
from .curvature.output_vectors import CurvatureKind
from .laplace.evidence import Evidence, evidence_at, log_evidence
from .laplace.hyperparameters import Hyperparameters, UpdateRule
from .laplace.map import FITTING_ROUNDS, FITTING_STEPS, MAP
from .laplace.prior_structure import PriorStructure
from .pruner import AFTER_TRAINING, Inference, Pruner, register

__all__ = ["SpaM", "log_evidence", "spam"]

Preset = Literal["authors"]

# T of this suite's training: the evidence of a diagonal counts correlated weights several times.
TEMPERATURE = 0.3
BATCH = 256  # examples in one forward pass that re-estimates BatchNorm
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class SpaM(Inference[Laplace]):
    """MAP training whose prior precisions follow the Laplace evidence.

    Attributes:
        prior: which parameters share a precision.
        curvature: "diag", or "kfac": its evidence is tighter, and regularises less.
        kind: of the curvature: "rademacher" needs one backward pass where the exact "ggn" needs as many as there
            are classes; the published code's default, "ef", vanishes as the network interpolates.
        frequency: K, epochs between evidence steps.
        burn_in: the first epoch that may end with evidence steps.
        steps: S, steps of Adam in each, or rounds of MacKay's fixed point.
        temperature: T; the likelihood counts 1/T-fold, for augmented data.
        update_rule: "adam", or "mackay": δ = Σγ / Σθ² over the parameters that share δ.
        lr: of Adam on the log precisions (and the log noise), whose state persists.
        learn_noise: for real targets; without it the observation noise is 1.
        posterior_curvature: of the posterior that scores read; that of the training by default.
    """

    prior: PriorStructure = "parameterwise"
    curvature: CurvatureStructure = "diag"
    kind: CurvatureKind = "rademacher"
    frequency: int = 5
    burn_in: int = 0
    steps: int = 100
    temperature: float = 1.0
    update_rule: UpdateRule = "adam"
    lr: float = 0.1
    learn_noise: bool = True
    posterior_curvature: CurvatureStructure | None = field(default=None, metadata=AFTER_TRAINING)

    def __post_init__(self) -> None:
        for name in ("frequency", "steps", "lr", "temperature"):
            if not getattr(self, name) > 0:
                raise UsageError(f"SpaM: {name} must be positive, got {getattr(self, name)!r}")
        if self.update_rule == "mackay" and (self.prior == "unitwise" or self._mixed_kfac):
            raise UsageError(
                "MacKay's fixed point needs one precision per group and no negative γ, which unit-wise precisions, and "
                f"kfac with different precisions in one tensor, do not give (prior={self.prior!r}): use adam"
            )

    @property
    def correlates(self) -> bool:
        """Whether the posterior that scores read does."""
        return (self.posterior_curvature or self.curvature) != "diag"

    @property
    def _mixed_kfac(self) -> bool:
        return self.curvature == "kfac" and self.prior in ("unitwise", "parameterwise")

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Start from precision 1 and noise 1, with fresh optimiser state and an empty trace."""
        self.hyper = Hyperparameters(
            self.prior, trainable(network), lr=self.lr, rule=self.update_rule, learn_noise=self.learn_noise
        )
        self.trace: list[tuple[float, float, float]] = []  # epoch, log evidence, effective parameters
        self.masks: dict[str, Tensor] = {}

    # -------------------------------------------------------------- the network's step

    def penalty(self, network: nn.Module) -> Tensor:
        """s² T ½ Σ δ θ², in nats for the whole training set at unit noise; a scalar."""
        parameters = trainable(network)
        deltas = named(self.hyper.precision(), parameters)
        return 0.5 * self._scale * torch.stack([(deltas[n] * p.square()).sum() for n, p in parameters.items()]).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds scale · s² T δ ∘ θ to the gradients, in one fused step."""
        parameters = trainable(network)
        deltas = named(self.hyper.precision(), parameters)
        pairs = [(p, deltas[name].to(p.dtype)) for name, p in parameters.items()]

        @torch.no_grad()
        def add() -> None:
            active = [(p.grad, d, p) for p, d in pairs if p.grad is not None]
            if not active:
                return
            gradients, deltas, parameters = (list(column) for column in zip(*active, strict=True))
            torch._foreach_addcmul_(gradients, deltas, parameters, value=scale * self._scale)  # pyright: ignore

        return add

    @property
    def _scale(self) -> float:
        return (2 * self.hyper.log_noise).exp().item() * self.temperature

    # -------------------------------------------------------------- the evidence's steps

    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """Evidence steps, if it is their epoch; the trace keeps the evidence after them.

        Raises ArithmeticError if the evidence is not finite.
        """
        if epoch % self.frequency or epoch < self.burn_in:
            return
        reestimate_batch_norm(network, (x for x, _ in train.batches(BATCH)))
        evidence = self.evidence(network, train)
        self.hyper.ascend(evidence, self.steps)
        self._note(evidence, epoch)

    def adapt(self, network: nn.Module, train: Examples) -> dict[str, Any]:
        """Raise the evidence of a network that is trained already, as far as it goes; the trace calls this epoch 0.

        The weights stay. Raises ArithmeticError if the evidence is not finite.
        """
        evidence = self.evidence(network, train)
        before = evidence.value(self.hyper.precision(), self.hyper.log_noise).item()
        self.hyper.ascend(evidence, FITTING_ROUNDS if self.update_rule == "mackay" else FITTING_STEPS)
        self._note(evidence, 0)
        found = self.learned(network)
        found["said"] = (
            f"prior precisions ({self.prior}) fitted to the evidence of the network as given, not in training: log "
            f"evidence from {before:,.1f} to {found['log_evidence']:,.1f} nats, "
            f"{found['effective_parameters']:,.1f} of {found['parameters']:,} parameters determined by the data"
        )
        return found | {"log_evidence_before": before}

    def _note(self, evidence: Evidence, epoch: int) -> None:
        delta, log_noise = self.hyper.precision(), self.hyper.log_noise
        value = evidence.value(delta, log_noise).item()
        if not math.isfinite(value):
            raise ArithmeticError(f"the evidence after epoch {epoch} is {value}: the network diverged, lower its lr")
        self.trace.append((float(epoch), value, evidence.determined(delta, log_noise).sum().item()))

    def evidence(self, network: nn.Module, train: Examples, curvature: CurvatureStructure | None = None) -> Evidence:
        """The evidence at the present network, as a function of the hyperparameters."""
        generator = torch.Generator().manual_seed(len(self.trace))
        structure = curvature or self.curvature
        return evidence_at(network, train, structure, self.kind, generator, self.temperature, self.masks)

    # -------------------------------------------------------------- what remains

    def posterior(self, network: nn.Module, train: Examples) -> Laplace:
        """Laplace posterior at the final network: precision cH + δ."""
        evidence = self.evidence(network, train, self.posterior_curvature)
        curvature, noise = evidence.tempered(self.hyper.log_noise), self.hyper.log_noise.exp()
        return Laplace.at(trainable(network), curvature, self.hyper.precision(), noise, self.temperature)

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """What has left takes no part in the evidence any more."""
        self.masks = dict(mask.tensors)

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """The evidence over the epochs, and the quantiles of the prior precisions of every tensor."""
        deltas = named(self.hyper.precision(), trainable(network))
        levels = self.hyper.log_noise.new_tensor(QUANTILES)
        return {
            "log_evidence": self.trace[-1][1] if self.trace else None,
            "effective_parameters": self.trace[-1][2] if self.trace else None,
            "parameters": sum(delta.numel() for delta in deltas.values()),
            "prior": self.prior,
            "curvature": self.curvature,
            "trace": [list(row) for row in self.trace],
            "precisions": {n: quantiles(d.flatten(), levels) for n, d in deltas.items()},
            "noise": self.hyper.log_noise.exp().item(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Log precisions, log noise and the evidence trace (epoch, log evidence, effective parameters)."""
        trace = torch.tensor(self.trace, dtype=torch.float64).view(-1, 3)
        return {"log_precisions": self.hyper.precisions.free, "log_noise": self.hyper.log_noise, "trace": trace}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned; Adam's state starts anew."""
        self.hyper.precisions.free.copy_(tensors["log_precisions"])
        self.hyper.log_noise.copy_(tensors["log_noise"])
        self.trace = [(row[0], row[1], row[2]) for row in tensors["trace"].tolist()]

    def momenta(self) -> dict[str, Tensor]:
        """Adam's state of the log precisions and of the log noise."""
        return self.hyper.momenta()

    def load_momenta(self, momenta: dict[str, Tensor]) -> None:
        """Put back what `momenta` returned."""
        self.hyper.load_momenta(momenta)


def trained_by(
    preset: Preset | None, prior: PriorStructure, curvature: CurvatureStructure, kind: CurvatureKind, frequency: int,
    burn_in: int, steps: int, temperature: float | None, update: UpdateRule,
) -> SpaM:  # fmt: skip
    """The training of a preset, or this suite's, unless a temperature is given."""
    own = 1.0 if preset == "authors" else TEMPERATURE
    return SpaM(prior, curvature, kind, frequency, burn_in, steps, temperature or own, update)


@register("spam-<criterion>", revision=2)
def spam(
    criterion: str,
    prior: PriorStructure = "parameterwise",
    curvature: CurvatureStructure = "diag",
    kind: CurvatureKind = "rademacher",
    frequency: PositiveInt = 5,
    burn_in: NonNegativeInt = 0,
    steps: PositiveInt = 100,
    temperature: PositiveFloat | None = None,
    update: UpdateRule = "adam",
    preset: Preset | None = None,
) -> Pruner[Any]:
    """Another method's score (opd, magnitude, snip, ...) after SpaM training (Dhahri et al. 2024).

    `preset: authors` trains at temperature 1.
    """
    other: Pruner = registry.build(criterion)
    posterior = other.inference()
    if not isinstance(posterior, MAP):
        raise UsageError(
            f"spam-{criterion}: {criterion!r} has an inference of its own ({type(posterior).__name__}); "
            "choose a criterion that scores MAP networks"
        )
    trained = trained_by(preset, prior, curvature, kind, frequency, burn_in, steps, temperature, update)
    structure = max((curvature, posterior.curvature), key=get_args(CurvatureStructure).index)
    inference = partial(replace, trained, posterior_curvature=structure)
    moving = {"adjust": other.adjust, "rounds": other.rounds, "report": other.report} if other.adjusts else {}
    return Pruner(inference, other.score, reselect=other.reselect, allocation=other.allocation, **moving)
