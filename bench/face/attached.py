"""A method at work on a network in somebody else's training loop."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...architectures.running.forms import Form, Forward, in_form
from ...architectures.running.modes import evaluating, to_network
from ...architectures.units.mask import Mask
from ...datasets.data import AnyLikelihood
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ...datasets.trees import examples as len_of
from ...methods.pruner import Inference
from ..evaluation.deployment import CERTIFIED
from ..pruning.engine import Engine, cloned
from ..training.loop import without_noise
from ..training.ranks import from_first, joined_over_ranks, ranks
from ..training.seeding import seeded
from ..training.steps import Steps
from .announced import Announced
from .cuts import Cuts
from .gathering import AnyData
from .pruned import Pruned
from .readers import read
from .watch import Watch
from .work import Asked


class AttachedMethod:
    """Made by `bayesprune.attach`; the loop calls it, the optimiser trains its parameters.

    Attributes:
        network: the user's own, trained and pruned in place.
        inference: what the method learns beside the network.
    """

    def __init__(
        self, asked: Asked, engine: Engine, network: nn.Module, inference: Inference, dense: nn.Module,
        likelihood: AnyLikelihood | None, epochs: int | None, forward: Forward | None, form: Form | None,
    ) -> None:  # fmt: skip
        self.network, self.inference = network, inference
        self._dense, self._engine = dense, engine
        self._likelihood: AnyLikelihood | None = likelihood
        self._forward, self._form = forward, form
        self._inputs = engine.split[:CERTIFIED].x
        self._steps = Steps(network, inference, engine.split.terms)
        if epochs is not None:
            inference.begin(epochs)
        self._watch = Watch(network, self.parameters())
        self._identity = _identity(asked, engine)
        self._finished = False
        self._given: tuple[AnyData, Examples] | None = None
        with in_form(self._form, network):
            self._cuts = Cuts(asked, engine, network, inference, epochs)
        if self._cuts.some:
            self._steps.hold(self.mask)
        if asked.pruner.when == "before":
            self.prune(asked.sparsity)

    # ------------------------------------------------------------------ in the loop

    def parameters(self) -> list[nn.Parameter]:
        """The method's own parameters, for the optimiser, beside the network's."""
        return list(self.inference.parameters())

    @property
    def asked_when(self) -> str:
        """When the method prunes: before, during, online or after."""
        return self._cuts.asked.pruner.when

    @property
    def mask(self) -> Mask:
        """What is kept at present."""
        return self._cuts.mask

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._steps.epoch

    def penalty(self) -> Tensor:
        """The penalty over N, differentiable, for those who add it to the mean loss themselves: a scalar."""
        return self.inference.penalty(self.network) / self._steps.terms

    def backward(self, loss: Tensor, scaler: Any = None) -> None:
        """The gradients of the mean `loss` over a batch and, once before each step, of the penalty over N.

        Args:
            loss: a mean over the batch; of accumulated batches its share of theirs, such as loss / 4.
            scaler: the `torch.amp.GradScaler` that will take the step.

        Raises:
            DivergedError: the loss is infinite or NaN; no gradient has been computed.
            UsageError: the loss does not depend on the network, or `finish` was called.
        """
        self._check_at_work()
        self._watch.loss(loss, self._steps.epoch + 1)
        self._steps.backward(loss, scaler)
        self._watch.backward()

    def add_penalty(self, scale: float = 1.0) -> None:
        """Only the gradient of scale · penalty / N, once before each step: for trainers that call backward themselves.

        Under DistributedDataParallel the method's own gradients are averaged over the ranks here.
        """
        self._check_at_work()
        self._steps.average()
        self._steps.penalise(scale)
        self._watch.backward()

    def after_step(self) -> None:
        """After the optimiser's step: what has left is zero again."""
        if self._watch.fresh or self._steps.due:
            self._watch.step()
        self._steps.after_step()

    def optimizer(self, lr: float, steps: int) -> torch.optim.Optimizer:
        """The optimiser that the method wants for `steps` steps: one of its own (ivon-*), or Adam.

        It trains the network's parameters and the method's own.
        """
        trained = self._steps.parameters()
        return self.inference.optimizer(trained, lr, steps) or torch.optim.Adam(trained, lr)

    def perturbed(self) -> AbstractContextManager[None]:
        """Put forward and backward inside, for methods that take gradients at draws of the weights (ivon-*)."""
        return self.inference.perturbed(self.network)

    def after_epoch(self, data: AnyData, optimizer: torch.optim.Optimizer | None = None) -> None:
        """After each epoch: evidence steps, pruning during training, whatever the method does then.

        Args:
            optimizer: what it remembers of weights that come back, with methods of dynamic sparse training (set,
                rigl, ...), is cleared.
            data: the training examples, in any form that `bayesprune.prune` takes. Under DistributedDataParallel
                each rank gives its own.

        Raises:
            UsageError: no step was taken since the last epoch, the data do not have the size that was announced, or
                the network is another one.
        """
        self._check_at_work()
        self._watch.same_network()
        examples = self._examples(data)
        if self.epoch == 0:
            count = len_of(self._inputs)
            with in_form(self._form, self.network):
                self._watch.mean(examples[:count], getattr(data, "batch_size", None) or count)
        self._watch.epoch()
        self._engine.split = examples
        with seeded(self._cuts.asked.seed, f"after epoch {self.epoch + 1}"), in_form(self._form, self.network):
            self._steps.after_epoch(examples, self._cuts.after_epoch, optimizer)
        self._share()

    def prune(self, sparsity: float | Literal["auto"] | None = None, data: AnyData | None = None) -> Mask:
        """Cut now, and train on: what has left stays zero in the steps that follow. Returns the mask.

        Args:
            sparsity: share of the units that is gone afterwards, or "auto"; that of `attach` unless given.
            data: training examples; those of the last `after_epoch` unless given.
        """
        self._check_at_work()
        self._see(data)
        with in_form(self._form, self.network):
            self._cuts.cut(sparsity)
        self._hold()
        return self.mask

    def finish(self, sparsity: float | Literal["auto"] | None = None, data: AnyData | None = None) -> Pruned:
        """End the training: prune if that is still to be done, take the method off the network, and sum up.

        The arguments are those of `prune`. The network of the result is the user's own, its hooks gone.
        """
        self._check_at_work()
        self._watch.same_network()
        self._see(data)
        cuts, split = self._cuts, self._engine.split
        with seeded(cuts.asked.seed, "finish"), evaluating(self.network), in_form(self._form, self.network):
            trained = bool(self._watch.seen or self.epoch)
            if trained:
                without_noise(self.network, self.inference, split, self._engine.training)
            learned = cuts.learned(trained)
            cuts.cut_at_last(sparsity, self.epoch)
            self._hold()
        self.inference.detach(self.network)
        self._finished = True
        notes = cuts.asked.notes(self.mask, split[:CERTIFIED]) | {"epochs": self.epoch, "learned": learned}
        inputs = to_network(self._inputs, self._dense)
        return Pruned(
            self.network, self.mask, cuts.outcome.scores, inputs, self._dense, notes, self.inference, self._form
        )

    # ------------------------------------------------------------------ saving

    def state_dict(self) -> dict[str, Any]:
        """All that the method holds beside the network's own tensors, for a checkpoint in the middle of training.

        Tensors, numbers and texts only: `torch.load(..., weights_only=True)` reads it. The state of torch's generators
        is part of it, as noise is drawn from them.
        """
        return {
            "method": self._identity,
            "epoch": self.epoch,
            "seen": self._watch.seen,
            "due": self._steps.due,
            "inference": cloned(self.inference.tensors()),
            "momenta": cloned(self.inference.momenta()),
            **self._cuts.state(),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called; the network and the optimiser are loaded by the user, before.

        Raises UsageError for the state of another method, or of one with other options.
        """
        if not isinstance(state, Mapping) or "method" not in state:
            raise UsageError("this is no state of an attached method: save method.state_dict()")
        if state["method"] != self._identity:
            raise UsageError(f"the state is of {state['method']}, and this method is {self._identity}")
        self._cuts.load(state)
        self.inference.load_tensors({n: t.to(self._engine.device) for n, t in state["inference"].items()})
        self.inference.load_momenta({n: t.to(self._engine.device) for n, t in state["momenta"].items()})
        self._steps = Steps(self.network, self.inference, self._steps.terms, self.mask, state["epoch"])
        self._watch.seen, self._steps.due = state["seen"], state["due"]
        first, *others = state["generators"]
        torch.set_rng_state(first.cpu())
        if others:
            torch.cuda.set_rng_state_all([other.cpu() for other in others])

    # ------------------------------------------------------------------ what it is given, and gives

    def _see(self, data: AnyData | None) -> None:
        if data is not None:
            self._engine.split = self._examples(data)
        elif isinstance(self._engine.split, Announced):
            raise UsageError("the method has seen no training examples: call after_epoch(loader), or give data=loader")

    def _hold(self) -> None:
        """What has left stays zero in the steps that follow."""
        self._share()
        self._steps.hold(self.mask)
        self._steps.unbind()

    def _share(self) -> None:
        """Every rank has what the first has learned and decided."""
        if ranks() > 1:
            held = self.inference.tensors()
            from_first(list(held.values()))
            self.inference.load_tensors(held)
            kept = self.mask.kept.clone()
            from_first([kept])
            self._cuts.mask = Mask(self._engine.units, kept)
            from_first([*self.network.state_dict().values()])

    def _examples(self, data: AnyData) -> Examples:
        """The training examples of all ranks, in the form that the network reads."""
        if self._given is not None and data is self._given[0]:
            return self._given[1]
        split, _ = read(self.network, data, self._cuts.asked.seed, self._likelihood, self._forward, joined_over_ranks)
        announced = self._steps.terms
        if abs(split.terms - announced) > max(1, announced // 100):
            raise UsageError(
                f"the data have {split.terms:,} examples, and attach was told size={announced:,}, by which the penalty "
                "is divided: give attach the size of the training set, and after_epoch the whole of it"
            )
        self._given = data, split
        return split

    def _check_at_work(self) -> None:
        if self._finished:
            raise UsageError("the method has finished and is off the network: attach a new one to train on")


def _identity(asked: Asked, engine: Engine) -> str:
    """What a checkpoint must be of, to go on from it."""
    options = ", ".join(f"{name}={value!r}" for name, value in sorted(asked.options.items()))
    return f"{asked.method}({options}) for {engine.units.n} {asked.granularity}, sparsity {asked.sparsity}"
