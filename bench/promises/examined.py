"""What promises look at together: scoring, choosing masks and adjusting are most of the work of a contract."""

from __future__ import annotations

from functools import cached_property

from ...architectures.units.mask import Mask
from ...datasets.seal import sealed
from ...methods.pruner import Adjusted, State
from ..harness.workbench import Workbench
from ..pruning.adjusting import adjusted
from ..pruning.engine import Scored
from ..training.seeding import seeded
from .broken import changes, fingerprint

HALF = 0.5
SPARSITIES = (0.3, HALF, 0.75)


class Examined(Workbench):
    """A workbench whose promises share what they look at."""

    @cached_property
    def second(self) -> tuple[Scored, list[str]]:
        """A second start, under the same seed, with its scores, and what scoring changed of the network."""
        network, inference = self.engine.start()
        before = fingerprint(network)
        scored = self.engine.score(network, inference)
        return scored, changes(before, network)

    @cached_property
    def trained(self) -> Scored:
        """The trained network, as it comes from the store, with its scores."""
        if self.engine.pruner.when == "after":
            return self.engine.first
        return self.engine.score(*self.fit.restore(self.data, self.device))

    @cached_property
    def masks(self) -> dict[float, Mask]:
        """Of the trained network, by sparsity."""
        return {sparsity: self.engine.mask(self.trained, sparsity) for sparsity in SPARSITIES}

    @cached_property
    def halved(self) -> Mask:
        """Of the first state, half of the units."""
        return self.masks[HALF] if self.trained is self.engine.first else self.engine.mask(self.engine.first, HALF)

    @cached_property
    def moved(self) -> Adjusted:
        """Where the other half moves."""
        return self.adjust(self.halved)

    def adjust(self, mask: Mask, state: State | None = None) -> Adjusted:
        """Where survivors of a mask move, each time under the same seed; of the first state unless another is given."""
        state = self.engine.first.state if state is None else state
        state.generator.manual_seed(0)
        with sealed(), seeded(self.run.seed, "adjust 0"):
            return adjusted(self.engine.pruner, state, mask)
