"""Examples in memory, with the likelihood of their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .trees import Inputs, device_of, examples, mapped, pieces, rows

Likelihood = Literal["categorical", "gaussian", "bernoulli", "heteroscedastic"]
# Those that a data set of a matrix may have: a network of it has one output for a target.
DataLikelihood = Literal["categorical", "gaussian", "bernoulli"]
# A loss of one's own: (outputs, targets) -> its mean over the terms of a batch.
Loss = Callable[[Tensor, Tensor], Tensor]
AnyLikelihood = Likelihood | Loss
Device = str | torch.device


IGNORED = -100  # the label of what is no term of the likelihood, such as padding: torch's own


def terms(y: Tensor) -> int:
    """Factors of the likelihood of targets: see `Split.terms`."""
    return len(y) if y.is_floating_point() or y.dtype == torch.bool else observed(y)


def observed(y: Tensor) -> int:
    """How many numbers or labels were observed: all entries of targets but those labelled `IGNORED`."""
    return y.numel() if y.is_floating_point() or y.dtype == torch.bool else int((y != IGNORED).sum())


def likelihood_of(y: Tensor) -> Likelihood:
    """What targets say by their type, unless they are told otherwise: real, yes or no, or labels."""
    if y.is_floating_point():
        return "gaussian"
    return "bernoulli" if y.dtype == torch.bool else "categorical"


@dataclass(frozen=True, eq=False)
class Split:
    """Examples in memory: x float32 (N, ...); y int64 (N,) for classes, float32 (N, K) for regression.

    Of networks with several inputs x holds as many tensors, in dicts, tuples or lists (`trees.Inputs`).

    The type of y says the likelihood where none is given: "categorical" for labels, "gaussian" for real numbers,
    "bernoulli" for booleans. Probabilities of the classes, float32 (N, K), are "categorical" if that is said. Those of
    "bernoulli" are held as float32 (N, K) zeros and ones, or probabilities, one column for each yes or no.

    Of "heteroscedastic" ones, real too, networks tell K means and then K log variances. A function (outputs, y) -> mean
    loss is a loss of one's own.

    Sequences of tokens are x int64 (N, T), with 0 for padding on the left; their y are classes (N,), or the next
    tokens, int64 (N, T), for a language model. The likelihood is that of all `terms`: losses are means over them,
    penalties in nats are divided by their number, so that a language model counts tokens and a classifier
    sentences. Labels of -100 are no terms.
    """

    x: Inputs
    y: Tensor
    likelihood: AnyLikelihood = None  # pyright: ignore[reportAssignmentType]  (never None once it is made)

    def __post_init__(self) -> None:
        if self.likelihood is None:
            object.__setattr__(self, "likelihood", likelihood_of(self.y))
        if self.likelihood == "bernoulli" and not self.y.is_floating_point():
            object.__setattr__(self, "y", self.y.float())

    def __len__(self) -> int:
        return examples(self.x)

    def __getitem__(self, index: Tensor | slice) -> Split:
        return Split(rows(self.x, index), self.y[index], self.likelihood)

    def to(self, device: Device) -> Split:
        """The same examples on `device`."""
        return Split(mapped(self.x, lambda x: x.to(device)), self.y.to(device), self.likelihood)

    def reading(
        self, change: Callable[[Inputs, Tensor], tuple[Inputs, Tensor]], likelihood: AnyLikelihood | None = None
    ) -> Split:
        """The same examples after `change`, perhaps of another likelihood."""
        return Split(*change(self.x, self.y), likelihood or self.likelihood)

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return device_of(self.x)

    @property
    def terms(self) -> int:
        """Factors of the likelihood: one for each label or row of real targets, T for each sequence of labels."""
        return terms(self.y)

    @property
    def numbers(self) -> int:
        """How many numbers or labels were observed."""
        return observed(self.y)

    def parts(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Everything, as it is in memory at once."""
        yield self.x, self.y

    def batch_sizes(self, size: int) -> list[int]:
        """Sizes of the batches of one pass: `size`, then what is left, but never a batch of one example.

        A last batch of one, from which BatchNorm cannot learn a variance, joins the batch before it.
        """
        full, rest = divmod(len(self), size)
        sizes = [size] * full + ([rest] if rest else [])
        return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and sizes[-1] == 1 else sizes

    def skip(self, generator: torch.Generator) -> None:
        """Draw what a shuffled pass draws, without making it."""
        torch.randperm(len(self), generator=generator)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """One pass in batches of `batch_sizes(size)`.

        In order, or shuffled by `generator`, which must live on the CPU: every device sees one order.
        """
        sizes = self.batch_sizes(size)
        if generator is None:
            yield from zip(pieces(self.x, sizes), self.y.split(sizes), strict=True)
            return
        order = torch.randperm(len(self), generator=generator).to(self.device)
        for index in order.split(sizes):
            yield mapped(self.x, lambda x, i=index: x.index_select(0, i)), self.y.index_select(0, index)
