"""What a method adds to a training loop, whoever runs the loop: at every step, and after every epoch.

The suite's own loop (`loop.train`) and a loop of the user's (`bench.face.attach`) call the same object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...datasets.examples import Examples
from ...methods.pruner import Inference
from .ranks import average_over_ranks

AfterEpoch = Callable[[int], Mask | None]


class Steps:
    """An inference at work on the network that is being trained.

    Attributes:
        network: trained in place, by whoever owns the optimiser.
        inference: attached to it; gives the penalty, its own parameters, and the update after each epoch.
        terms: N, which the penalty in nats is divided by, as the loss is a mean over the terms of the likelihood.
        mask: what holds at present; None while nothing has left.
        epoch: epochs done, those of earlier phases included.
        due: whether the penalty's gradient is still to be added before the next step.
    """

    def __init__(
        self, network: nn.Module, inference: Inference, terms: int, mask: Mask | None = None, epoch: int = 0
    ) -> None:
        self.network, self.inference, self.terms, self.epoch = network, inference, terms, epoch
        self._own = list(inference.parameters())
        self._scale, self.due = 1.0, True
        self._add: Callable[[], None] | None = None  # adds the gradient of the penalty
        self.hold(mask)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser trains: the network's parameters and the inference's own, but for what is frozen."""
        return [p for p in (*self.network.parameters(), *self._own) if p.requires_grad]

    def hold(self, mask: Mask | None) -> None:
        """Zero what the mask leaves out, now and after every step from now on; None holds nothing."""
        self._enforce, self.mask = _nothing, mask
        if mask is not None:
            mask.apply_(self.network)
            self._enforce = mask.enforcer(self.network)

    def backward(self, loss: Tensor, scaler: Any = None) -> None:
        """Gradients of the mean loss, and once before each step those of the penalty / N.

        So batches may be accumulated, each with its share of the mean loss. `scaler` is a `torch.amp.GradScaler`,
        with which the step will be taken.
        """
        self.gradient(loss, scaler)
        if self.due:
            self.penalise(1.0 if scaler is None else scaler.get_scale())

    def gradient(self, loss: Tensor, scaler: Any = None) -> None:
        """That of the loss alone, of all ranks."""
        (loss if scaler is None else scaler.scale(loss)).backward()
        if self._own:
            self.average()

    def average(self) -> None:
        """Give every rank the mean of the gradients of the inference's own parameters."""
        average_over_ranks(self._own)

    def penalise(self, scale: float = 1.0) -> None:
        """Add the gradient of scale · penalty / N, once before each step."""
        if not self.due:
            return
        if scale != self._scale:
            self._scale, self._add = scale, None
        if self._add is None:
            self._add = self.inference.penalizer(self.network, self._scale / self.terms)
        self.due = False
        self._add()

    def after_step(self) -> None:
        """What has left is zero again."""
        self.due = True
        self._enforce()

    def after_epoch(
        self, examples: Examples, told: AfterEpoch | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """The inference learns what the loss does not train; `told` may return a mask that holds from now on.

        Of weights that come back with it the `optimizer` remembers nothing.
        """
        self.epoch += 1
        self.inference.update(self.network, examples, self.epoch)
        if told and (mask := told(self.epoch)):
            if optimizer is not None and self.mask is not None:
                clear_newborn_(optimizer, self.network, self.mask, mask)
            self.hold(mask)
        self.unbind()

    def unbind(self) -> None:
        """What the penalty is bound to has changed: it is bound anew before the next step."""
        self._add = None


def _nothing() -> None: ...


@torch.no_grad()
def clear_newborn_(optimizer: torch.optim.Optimizer, network: nn.Module, old: Mask, new: Mask) -> None:
    """What the optimiser remembers of weights that were away and are back: nothing."""
    for name, kept in new.tensors.items():
        born = kept & ~old.tensors[name]
        parameter = network.get_parameter(name)
        for memory in optimizer.state[parameter].values() if bool(born.any()) else ():
            if isinstance(memory, Tensor) and memory.shape == parameter.shape:
                memory.masked_fill_(born.to(memory.device), 0)
