"""The interface every method lives in: an inference, a score, a moment, and perhaps its own threshold.

A :class:`Pruner` answers three questions about a method. How is the network trained (an
:class:`Inference`)? What is a unit worth (a score: larger is kept)? When are units removed (before,
during or after training)? A method that decides the sparsity by itself adds the threshold on its score.
The harness owns everything else: data, budgets, selection, masks, fine-tuning, timing, files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

import torch
from torch import Tensor, nn

from ..architectures.units.mask import Mask
from ..architectures.units.prunable import prunable
from ..architectures.units.vector import Granularity, Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from . import registry

register = registry.register

Posterior = TypeVar("Posterior")
When = Literal["before", "during", "online", "dynamic", "after"]

AFTER_TRAINING: Mapping[str, bool] = MappingProxyType({"after training": True})
Allocation = Literal["global", "layerwise", "rowwise", "erk", "lamp", "2:4"]
Adjusting = Literal["none", "condition"]
Rewind = int | Literal["initial", "transplant"]
Retrain = Literal["shared", "each", "only"]


def structures_of(granularity: Granularity) -> Granularity:
    """The structures that are pruned at a granularity; all groups where single weights are."""
    return "groups" if granularity == "weights" else granularity


@dataclass
class Inference(ABC, Generic[Posterior]):
    """How a network is trained, and the posterior over its weights that this yields.

    Subclasses are dataclasses: their fields are the hyperparameters and, with the class's name, their
    identity; a field that only shapes the posterior carries the metadata AFTER_TRAINING, so that methods
    that differ in it share one trained network. What is learned beside the network's own parameters lives
    in attributes that are not fields, is exposed by `tensors`, and is put back by `load_tensors`. Penalties
    are in nats for the whole training set; the training loop divides by the number of examples, once.

    Attributes:
        stochastic: whether a network in training mode computes with noise that it does not have in evaluation mode.
            BatchNorm's running statistics, which remember training, are then measured anew after it.
        revision: of the class, raised with every change that moves results beyond rounding.
    """

    stochastic: ClassVar[bool] = False
    revision: ClassVar[int] = 1

    @abstractmethod
    def penalty(self, network: nn.Module) -> Tensor:
        """Negative log prior, or KL divergence, of the current network: a scalar in nats."""

    @abstractmethod
    def posterior(self, network: nn.Module, train: Examples) -> Posterior:
        """The posterior over the parameters of the trained `network`."""

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """A function to call after each backward pass: it adds the gradient of `scale * penalty`.

        Override it where that gradient has a closed form; parameters are bound once, not at every step.
        """
        return lambda: (scale * self.penalty(network)).backward()

    def for_units(self, granularity: Granularity) -> Self:
        """The inference for pruning such units: itself, unless it learns of some structures only."""
        return self

    def candidates(self) -> Sequence[Inference[Posterior]]:
        """The inferences among which the validation split chooses; one by default: this one."""
        return (self,)

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Prepare for training `network`: create own parameters, add hooks."""

    def begin(self, epochs: int) -> None:
        """A training of so many epochs begins; not called in loops whose length nobody has told."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Own parameters for the optimiser, beside the network's."""
        return ()

    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """After each epoch: what the loss does not train, such as evidence steps.

        Epochs are counted from 1 and go on through fine-tuning.
        """

    def adapt(self, network: nn.Module, train: Examples) -> dict[str, Any] | None:
        """Attached to a network that is trained already: learn what training would have taught.

        Returns what was learned as JSON, with a sentence for users under "said"; None where there is nothing to learn.
        """
        return None

    @property
    def settles(self) -> int:
        """The first epoch after which the penalty is the final one; losses of earlier networks are not comparable."""
        return 0

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Units have left: stop penalising them. What follows depends on this mask alone, not on earlier ones."""

    def optimizer(self, parameters: Sequence[nn.Parameter], lr: float, steps: int) -> torch.optim.Optimizer | None:
        """An optimiser of its own for a training of so many steps, which then holds the prior; None for the usual."""
        return None

    def perturbed(self, network: nn.Module) -> AbstractContextManager[None]:
        """Around forward and backward of each step: where gradients are taken. Afterwards weights are as before."""
        return nullcontext()

    def detach(self, network: nn.Module) -> None:
        """Training has ended: fold what was learned into the network and remove every hook."""

    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of parameters of the detached `network`, by name; none where it predicts at one point only."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What was learned beside the network's parameters, by name."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""

    def momenta(self) -> dict[str, Tensor]:
        """State of the inference's own optimisers, by name, for a training that goes on from a checkpoint."""
        return {}

    def load_momenta(self, momenta: dict[str, Tensor]) -> None:
        """Put back what `momenta` returned."""

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """What was learned beside the network's parameters, summed up as JSON for the record."""
        return {}

    def unfinished(self) -> str | None:
        """Why training was too short for a decision of its own, in words that follow a colon; None where it was not."""
        return None

    @classmethod
    def revisions(cls) -> dict[str, int]:
        """Revisions beyond the first of the class and of those that it is made of, by name."""
        given = {kind.__qualname__: vars(kind).get("revision", 1) for kind in cls.__mro__}
        return {name: revision for name, revision in given.items() if isinstance(revision, int) and revision != 1}

    @property
    def correlates(self) -> bool:
        """Whether the posterior knows how weights hang together, so that survivors can move when others leave."""
        return False

    def identity(self) -> dict[str, Any]:
        """Name and hyperparameters: inferences of equal identity train equal networks."""
        decisive = [f.name for f in fields(self) if f.metadata != AFTER_TRAINING]
        return {"name": type(self).__qualname__, **{option: getattr(self, option) for option in decisive}}


@dataclass
class State(Generic[Posterior]):
    """What a score may read: the network, its units, the training split, and the posterior on demand.

    `generator` is a CPU generator for whatever the score draws. Scores never change the network. `present` are the
    units that no earlier round has removed, boolean (units.n,); None for all.
    """

    network: nn.Module
    units: Units
    train: Examples
    inference: Inference[Posterior]
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    present: Tensor | None = None

    @cached_property
    def posterior(self) -> Posterior:
        """The inference's posterior, computed when first read, so that magnitude never pays for curvature."""
        return self.inference.posterior(self.network, self.train)

    def weights(self) -> dict[str, Tensor]:
        """Prunable weights by parameter name, detached."""
        return {name: weight.detach() for name, weight in prunable(self.network).items()}


@dataclass(frozen=True)
class Adjusted:
    """Where survivors go: whole new tensors by parameter name, and what there is to say of it, as JSON."""

    tensors: Mapping[str, Tensor]
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruner(Generic[Posterior]):
    """A pruning method, as a value.

    Attributes:
        inference: makes a fresh inference; with no arguments left to give.
        score: maps a state to worths of shape (units.n,), larger is kept, finite.
        keep_above: the method's own threshold on the score, if it has one; it answers `sparsity: auto`.
        decide: the method's own decision where no threshold on its score makes it: boolean, (units.n,), what stays.
        reselect: the method's own choice of single weights, where what is worth how much depends on what has left: of
            the state, of what its scores alone keep, boolean (units.n,), and of the cell of each unit, int64, -1 for
            what left before; it returns as many of every cell.
        report: what the method says about a state that it scores, as JSON for the record.
        when: remove units before training (at initialisation), after it, gradually during it, or online: more
            and more every ten epochs of it, nothing kept from growing back, so that one run gives every sparsity; or
            dynamic: sparse from the start, the units that are there exchanged as training goes on.
        rounds: number of rounds of scoring and pruning; each keeps the same fraction of what is left.
        every: during training, epochs from one pruning to the next.
        allocation: how a budget is shared among layers: one global ranking, the same density in each layer, or in
            each output of each layer ("rowwise"), or the densities of Erdős-Rényi-Kernel (ERK) or LAMP, ranking
            within layers by the score; or the best two of every four consecutive weights ("2:4"), which sparse tensor
            cores can use.
        shuffle: keep as many units of each layer as selected, but random ones: the control for the method.
        adjust: where survivors go when a mask takes the others: nowhere, or to the mean of the posterior given that the
            others are 0 ("condition"), or a function of the state that was scored and the mask, which changes neither.
        grow: dynamic pruning's worth of absent units, (units.n,): the largest come back.
        regrow: the share of the kept units that dynamic pruning exchanges at first; it falls to 0 by a cosine.
        rewind: after each round survivors take the values of an epoch, and training goes on from there, instead of
            fine-tuning: an epoch's number, "initial" for 0, or "transplant": those of a fresh initialisation.
        stop: whether rounds end, by what the method has reported in each, before more is removed; where the method
            decides how much is.
        retrain: what the epochs of retraining are for: "shared" among the rounds; all of them after "each" round; or,
            for pruning at initialisation, they are the "only" training, so that masks found before training and
            after it are trained for equally long.
    """

    inference: Callable[[], Inference[Posterior]]
    score: Callable[[State[Posterior]], Tensor]
    keep_above: float | None = None
    decide: Callable[[State[Posterior]], Tensor] | None = None
    reselect: Callable[[State[Posterior], Tensor, Tensor], Tensor] | None = None
    report: Callable[[State[Posterior]], dict[str, Any]] | None = None
    when: When = "after"
    rounds: int = 1
    every: int = 1
    allocation: Allocation = "global"
    shuffle: bool = False
    adjust: Adjusting | Callable[[State[Posterior], Mask], Adjusted] = "none"
    grow: Callable[[State[Posterior], Mask], Tensor] | None = None
    regrow: float = 0.3
    rewind: Rewind | None = None
    stop: Callable[[Sequence[dict[str, Any]]], bool] | None = None
    retrain: Retrain = "shared"

    @property
    def adjusts(self) -> bool:
        """Whether survivors move when others leave."""
        return self.adjust != "none"

    @property
    def decides(self) -> bool:
        """Whether the method can choose the sparsity."""
        return self.keep_above is not None or self.decide is not None

    def __post_init__(self) -> None:
        if self.keep_above is not None and self.decide is not None:
            raise UsageError("a pruner decides by keep_above or by decide, not by both")
        for name, value, choices in (("when", self.when, When), ("allocation", self.allocation, Allocation)):
            if value not in get_args(choices):
                raise UsageError(f"a pruner's {name} must be one of {', '.join(get_args(choices))}, got {value!r}")
        for name, value in (("rounds", self.rounds), ("every", self.every)):
            if value < 1:
                raise UsageError(f"a pruner's {name} must be a whole number >= 1, got {value!r}")
        if isinstance(self.adjust, str) and self.adjust not in get_args(Adjusting):
            raise UsageError(f"a pruner's adjust must be one of {', '.join(get_args(Adjusting))}, got {self.adjust!r}")
        if self.adjusts and self.when in ("before", "online", "dynamic"):
            why = "an untrained network is no mode of a posterior" if self.when == "before" else "units may grow back"
            raise UsageError(f"survivors cannot be adjusted with when={self.when!r}, as {why}: use when='after'")
        if (self.when == "dynamic") != (self.grow is not None):
            raise UsageError(
                "when='dynamic' needs a method that says what grows back, such as set or rigl, and they it"
            )
        if not 0 < self.regrow <= 1:
            raise UsageError(f"a pruner's regrow must be a share in (0, 1], got {self.regrow!r}")
        if self.rewind is not None:
            self._check_rewind()
        self._check_retrain()
        if self.shuffle and (
            self.when in ("during", "online", "dynamic") or (self.when == "after" and self.rounds > 1)
        ):
            raise UsageError("a shuffled control is not possible where training goes on between rounds: use rounds=1")

    def _check_retrain(self) -> None:
        if self.retrain not in get_args(Retrain):
            raise UsageError(f"a pruner's retrain must be one of {', '.join(get_args(Retrain))}, got {self.retrain!r}")
        if self.retrain == "each" and (self.when != "after" or self.rewind is not None):
            raise UsageError("retrain='each' trains on after each round of pruning: use when='after', without rewind")
        if self.retrain == "only" and self.when != "before":
            raise UsageError("retrain='only' leaves out the training before retraining: use when='before'")

    def _check_rewind(self) -> None:
        epoch = self.rewind
        whole = isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 0
        if not whole and epoch not in ("initial", "transplant"):
            raise UsageError(f"rewind must be an epoch, 'initial' or 'transplant', got {epoch!r}")
        if self.when != "after":
            raise UsageError(f"rewind={epoch!r} goes back from a trained network: use when='after'")
        if self.adjusts:
            raise UsageError("survivors are rewound or adjusted, not both: leave out rewind, or choose adjust: none")


# Prior precisions among which validation chooses: weight decays of about 1e-4 to 1e-1 at 1,000 examples.
TUNING_GRID = (0.1, 1.0, 10.0, 30.0, 100.0)
