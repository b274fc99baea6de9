"""What a method watches of a training loop that is not its own: mistakes are told in one sentence, before they cost."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from ...architectures.running.modes import evaluating
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ...methods.closed_forms.likelihood import summed_loss
from ..training.loop import DivergedError

NEARLY = 4  # a loss within this factor of the batch size times the mean loss looks like a sum over the batch
RECENT = 0.9  # share of the past in the running mean of the losses


class Watch:
    """Sees every loss and every step.

    Attributes:
        seen: backward passes of the present epoch.
        recent: running mean of the losses.
        fresh: until the first step has been looked at.
    """

    def __init__(self, network: nn.Module, own: list[nn.Parameter]) -> None:
        self.network, self.seen, self.recent = network, 0, 0.0
        self._own, self._shapes = own, _shapes(network)
        self.fresh = True
        self._first: list[tuple[nn.Parameter, Tensor, bool]] | None = None  # parameter, its first value, whether own

    def loss(self, loss: Tensor, epoch: int) -> None:
        """A loss, before its gradient is computed; raises DivergedError if it is not finite."""
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} in epoch {epoch}; nothing was changed by it: lower the learning rate, or look at "
                "the inputs"
            )
        self.recent = RECENT * self.recent + (1 - RECENT) * value if self.seen else value

    def backward(self) -> None:
        """Gradients have been computed; raises UsageError if they are of another network."""
        self.seen += 1
        if self.fresh and self._first is None:
            trained = [p for p in self.network.parameters() if p.grad is not None]
            if not trained:
                raise UsageError(
                    "the loss gives the network that the method is attached to no gradient: attach to the network that "
                    "is trained, not to a copy of it"
                )
            own = [p for p in self._own if p.grad is not None and bool(p.grad.any())]
            watched = [(p, False) for p in trained[:8]] + [(p, True) for p in own]
            self._first = [(p, p.detach().clone(), is_own) for p, is_own in watched]

    def step(self) -> None:
        """The optimiser has taken its first step; raises UsageError if it moved the network, and not the method."""
        if self._first is None:
            raise UsageError("after_step comes after method.backward(loss) and optimizer.step()")
        moved = {is_own: False for *_, is_own in self._first}
        for parameter, before, is_own in self._first:
            moved[is_own] |= not torch.equal(parameter, before)
        self._first, self.fresh = None, False
        if moved.get(False) and moved.get(True) is False:
            raise UsageError(
                "the optimiser does not train the method's own parameters: give it "
                "[*network.parameters(), *method.parameters()]"
            )

    def epoch(self) -> None:
        """An epoch is over; raises UsageError if nothing was trained in it, or the network is another one."""
        if not self.seen:
            raise UsageError("after_epoch comes after an epoch of training: no method.backward(loss) was called in it")
        self.same_network()
        self.seen = 0

    def same_network(self) -> None:
        """Raises UsageError for a network with other parameters than when the method was attached."""
        if (now := _shapes(self.network)) != self._shapes:
            name = sorted(name for name, _ in now.items() ^ self._shapes.items())[0]
            raise UsageError(
                f"the network has changed since the method was attached: {name!r} was {self._shapes.get(name)} and is "
                f"{now.get(name)}; attach the method to the network as it will be trained"
            )

    @torch.no_grad()
    def mean(self, part: Examples, batch: int) -> None:
        """Warn of losses that look like sums over a `batch`, next to the mean loss of a `part` of the examples."""
        if batch < NEARLY**2 or not self.recent:
            return
        with evaluating(self.network):
            mean = summed_loss(self.network, part).item() / part.terms
        ratio = self.recent / max(mean, 1e-12)
        if batch / NEARLY <= ratio <= batch * NEARLY:
            warnings.warn(
                f"the loss is about {ratio:.0f} times the mean loss of an example, as if it were a sum over a batch of "
                f"{batch}: the penalty is too small by that factor unless the loss is a mean", stacklevel=4,
            )  # fmt: skip


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in network.named_parameters()}
