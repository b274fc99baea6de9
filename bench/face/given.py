"""A network as it was given: copies to work on, each with a method's inference attached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...architectures.discovery.units_of import units
from ...architectures.running.forms import Form, adapt_, release_
from ...architectures.running.modes import working_
from ...architectures.running.plain import copied, keep_removed_
from ...architectures.units.vector import Granularity
from ...datasets.examples import Examples
from ...methods.pruner import Inference, Pruner
from ..pruning.engine import Attached, Kept
from ..training.seeding import seeded

Learn = Callable[["Given"], Attached]


@dataclass
class Given:
    """Where the engine starts, with a network of one's own.

    Attributes:
        network: plain, and left as it is.
        pruner: the method.
        granularity: what it prunes.
        split: the training examples.
        seed: governs what attaching draws.
        removed: entries that had left before, boolean, by the name of their tensor; they stay away.
        form: how the network is called, where it does not take and give one tensor.
        learn: what comes before the pruning of a method that prunes after training; `adapted` or a training.
        learned: what the method learned of a network that was trained before, as JSON; None where there is nothing.
        inference: that which was chosen, if there were several candidates.
    """

    network: nn.Module
    pruner: Pruner
    granularity: Granularity
    split: Examples
    seed: int
    removed: Mapping[str, Tensor]
    learn: Learn
    form: Form | None = None
    learned: dict[str, Any] | None = None
    inference: Inference | None = None
    _kept: Kept | None = field(default=None, init=False)
    _handles: list[RemovableHandle] = field(default_factory=list, init=False)

    def fresh(self) -> Inference:
        """An inference of the method for its units, attached to nothing yet."""
        return self.pruner.inference().for_units(self.granularity)

    def attached(self, inference: Inference | None = None) -> Attached:
        """A copy of the network, with a fresh inference attached to it, of the hyperparameters of `inference`."""
        network = adapt_(working_(copied(self.network)), self.form)
        inference = replace(inference or self.inference or self.fresh())
        with seeded(self.seed, "attach"):
            inference.attach(network, units(network, "weights"), self.split)
        self._handles += keep_removed_(network, dict(self.removed))
        return network, inference

    def start(self) -> Attached:
        """The same, after what comes before the pruning; that is done once."""
        if self.pruner.when != "after":
            return self.attached()
        if self._kept is None:
            network, inference = self.learn(self)
            self._kept = Kept.of(network, inference)
            return network, inference
        return self._kept.into(*self.attached())

    def dense(self) -> nn.Module:
        """The network that is pruned, with what came before the pruning, off its method."""
        if self.pruner.when != "after":
            return self.network
        network, inference = self.start()
        inference.detach(network)
        return release_(network)

    def let_go(self) -> None:
        """Take off what kept removed entries away in training."""
        for handle in self._handles:
            handle.remove()


def adapted(given: Given) -> Attached:
    """A network that is trained already, with what the method learns of it as it is."""
    network, inference = given.attached()
    given.learned = inference.adapt(network, given.split)
    return network, inference
