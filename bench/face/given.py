"""A network as it was given: copies to work on, each with a method's inference attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...architectures.discovery.units_of import units
from ...architectures.running.forms import Form, adapt_
from ...architectures.running.modes import working_
from ...architectures.running.plain import copied, keep_removed_
from ...architectures.units.vector import Granularity
from ...datasets.examples import Examples
from ...methods.pruner import Pruner
from ..pruning.engine import Attached
from ..training.seeding import seeded


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
        learned: what the method learned of a network that is trained already, as JSON; None where there is nothing.
    """

    network: nn.Module
    pruner: Pruner
    granularity: Granularity
    split: Examples
    seed: int
    removed: Mapping[str, Tensor]
    form: Form | None = None
    learned: dict[str, Any] | None = None
    _adapted: dict[str, Tensor] | None = field(default=None, init=False)
    _handles: list[RemovableHandle] = field(default_factory=list, init=False)

    def attached(self) -> Attached:
        """A copy of the network, with a fresh inference attached to it."""
        network = adapt_(working_(copied(self.network)), self.form)
        inference = self.pruner.inference().for_units(self.granularity)
        with seeded(self.seed, "attach"):
            inference.attach(network, units(network, "weights"), self.split)
        self._handles += keep_removed_(network, dict(self.removed))
        return network, inference

    def start(self) -> Attached:
        """The same, with what a method for trained networks learns of this one; it learns once."""
        network, inference = self.attached()
        if self.pruner.when == "after":
            if self._adapted is None:
                self.learned = inference.adapt(network, self.split)
                self._adapted = {name: tensor.clone() for name, tensor in inference.tensors().items()}
            else:
                inference.load_tensors(self._adapted)
        return network, inference

    def let_go(self) -> None:
        """Take off what kept removed entries away in training."""
        for handle in self._handles:
            handle.remove()
