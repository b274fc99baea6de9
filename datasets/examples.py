"""What is learned from: labelled examples, whether they lie in memory or come batch by batch.

Whatever trains, scores, estimates curvature, fits the evidence, re-estimates norms or evaluates reads them through
this protocol. `split.Split` has all examples in memory, `stream.Stream` one batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from .split import AnyLikelihood, Split
from .trees import Inputs

Batch = tuple[Inputs, Tensor]


class Examples(Protocol):
    """Examples (x, y) of one likelihood; x of any form (`trees.Inputs`), y as in `Split`."""

    @property
    def likelihood(self) -> AnyLikelihood:
        """What the loss is the negative logarithm of."""
        ...

    @property
    def y(self) -> Tensor:
        """All targets, one after the other."""
        ...

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        ...

    @property
    def terms(self) -> int:
        """Factors of the likelihood: see `Split.terms`."""
        ...

    @property
    def numbers(self) -> int:
        """How many numbers were observed: one for each entry of the targets that is not ignored."""
        ...

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitem__(self, index: Tensor | slice) -> Split:
        """Some examples, in memory: `[:n]` the first ones of an unshuffled pass, or those at the positions given."""
        ...

    def parts(self) -> Iterator[Batch]:
        """One pass, always the same, in whatever is in memory at once: everything, or a batch."""
        ...

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass in batches, of `size` where nobody else decides it: always the same, or drawn with `generator`."""
        ...

    def skip(self, generator: torch.Generator) -> None:
        """Draw of the generator what such a pass draws, without making it."""
        ...

    def batch_sizes(self, size: int) -> list[int]:
        """Sizes of those batches."""
        ...

    def reading(self, change: Callable[[Inputs, Tensor], Batch], likelihood: AnyLikelihood | None = None) -> Examples:
        """The same examples after `change` of what is in memory at once, perhaps of another likelihood."""
        ...

    def to(self, device: str | torch.device) -> Examples:
        """The same examples on `device`."""
        ...
