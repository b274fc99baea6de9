"""Examples that come batch by batch, each time anew: never more than one batch of them is in memory.

A stream keeps the loader's own batches: their size, order and augmentation are the loader's business. What it draws
follows from a seed (`draws.Draws`): passes without a generator are all the same, as the examples in memory are; those
of training are drawn with its generator, each by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .draws import Draws, normal_kept
from .errors import UsageError
from .examples import Batch
from .split import IGNORED, AnyLikelihood, Device, Split, likelihood_of, observed, terms
from .trees import Inputs, blank, described, examples, form_of, is_padded, joined, mapped, placed, plain_tree, rows

Read = Callable[[Any], Batch]
Change = Callable[[Inputs, Tensor], Batch]


@dataclass(frozen=True)
class Facts:
    """What a whole pass showed: sizes of the batches, terms of the likelihood, and numbers observed."""

    sizes: tuple[int, ...]
    terms: int
    numbers: int

    @property
    def examples(self) -> int:
        """How many there were."""
        return sum(self.sizes)


def pair(batch: Any) -> Batch:
    """(x, y) of a batch that is such a pair; raises UsageError for any other."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UsageError(f"a batch must be a pair (x, y), got {described(plain_tree(batch))}")
    x, y = plain_tree(batch[0]), batch[1]
    return x, torch.as_tensor(y)


class Stream:
    """Examples of a loader that can be gone through again and again, as `examples.Examples`.

    Args:
        loader: a DataLoader, or anything that `iter` can be called on for every pass.
        size: how many examples there are, if that is known; else the first whole pass counts them.
        read: (x, y) of what the loader gives.
        likelihood: of the targets; what their type says unless given.
        seed: governs what the loader draws.
        device: where batches go; left where they are unless given.

    Raises:
        UsageError: an iterator, which can be gone through only once; and, while it is read, no batch, a batch of
            another form than the first, or another number of examples than `size`.
    """

    def __init__(
        self, loader: Iterable[Any], size: int | None = None, *, read: Read = pair,
        likelihood: AnyLikelihood | None = None, seed: int = 0, device: Device | None = None,
    ):  # fmt: skip
        if isinstance(loader, Iterator):
            raise UsageError(
                f"data is a {type(loader).__name__}, which can be gone through only once: give what makes it anew for "
                "every pass, such as a DataLoader, or a list of all batches"
            )
        self.loader, self.size, self.seed = loader, size, seed
        self._read, self._device = read, device
        self._likelihood: AnyLikelihood | None = likelihood
        self._changes: list[Change] = []
        self._facts: Facts | None = None
        self._first: list[Batch] = []
        self._form: tuple[Any, str] | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"Stream({type(self.loader).__name__}, likelihood={self._likelihood!r})"

    # ------------------------------------------------------------------ other streams of the same loader

    def reading(self, change: Change, likelihood: AnyLikelihood | None = None) -> Stream:
        """The same examples after `change` of every batch, perhaps of another likelihood."""
        return self._twin([*self._changes, change], likelihood or self._likelihood, self._device)

    def to(self, device: Device) -> Stream:
        """The same examples, batch by batch on `device`."""
        found = self._twin(self._changes, self._likelihood, device)
        found._facts = self._facts
        return found

    def _twin(self, changes: list[Change], likelihood: AnyLikelihood | None, device: Device | None) -> Stream:
        found = Stream(self.loader, self.size, read=self._read, likelihood=likelihood, seed=self.seed, device=device)
        found._changes = changes
        return found

    # ------------------------------------------------------------------ what is known of all examples

    @property
    def likelihood(self) -> AnyLikelihood:
        """What was said, or the type of the targets says."""
        return self._likelihood or likelihood_of(self._head(1)[0][1])

    @property
    def is_typed(self) -> bool:
        """Whether it was said what the likelihood is."""
        return self._likelihood is not None

    @property
    def y(self) -> Tensor:
        """All targets, one after the other, from one pass: small beside the inputs, but not bounded by a batch."""
        return torch.cat([y for _, y in self.parts()])

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self._head(1)[0][1].device if self._device is None else torch.device(self._device)

    @property
    def facts(self) -> Facts:
        """What a whole pass shows: one is made, unless there was one."""
        if self._facts is None:
            for _ in self.parts():
                pass
        assert self._facts is not None
        return self._facts

    def __len__(self) -> int:
        return self.size if self._facts is None and self.size is not None else self.facts.examples

    @property
    def terms(self) -> int:
        """Factors of the likelihood: see `Split.terms`; of labels or rows as many as the `size` that was said."""
        if self._facts is None and self.size is not None:
            y = self._head(1)[0][1]
            if y.dim() == 1 or y.is_floating_point() or y.dtype == torch.bool:
                return self.size
        return self.facts.terms

    @property
    def numbers(self) -> int:
        """How many numbers or labels were observed."""
        return self.facts.numbers

    def batch_sizes(self, size: int) -> list[int]:
        """Sizes of the loader's batches; only one that can be asked for other sizes minds `size`."""
        return self.loader.sizes(size) if isinstance(self.loader, Resizable) else list(self.facts.sizes)

    # ------------------------------------------------------------------ passes

    def parts(self) -> Iterator[Batch]:
        """One pass, always the same, batch by batch."""
        return self._pass(self.seed)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """One pass in the loader's batches; what the loader draws in it, it draws with `generator`, or as always."""
        return self._pass(self.seed if generator is None else int(torch.randint(2**62, (), generator=generator)), size)

    def skip(self, generator: torch.Generator) -> None:
        """Draw what a pass with this generator draws of it, without making it."""
        torch.randint(2**62, (), generator=generator)

    def _pass(self, seed: int, size: int | None = None) -> Iterator[Batch]:
        sizes, count, numbers = [], 0, 0
        for batch in _drawn(self.loader, seed, size):
            x, y = self._checked(batch, len(sizes))
            sizes.append(len(y))
            if self._facts is None:
                count, numbers = count + terms(y), numbers + observed(y)
            if not self._first:
                self._first.append((x, y))
            yield x, y
        self._note(Facts(tuple(sizes), count, numbers))

    def _checked(self, batch: Any, number: int) -> Batch:
        x, y = self._read(batch)
        if not len(y) or examples(x) != len(y):
            raise UsageError(
                f"batch {number} of data has {examples(x)} inputs and {len(y)} targets; give one target per input, and "
                "at least one"
            )
        form = form_of(x), form_of(y)
        self._form = self._form or (form, described((x, y)))
        if form != self._form[0]:
            raise UsageError(
                f"batch {number} of data has another form than the first one: {described((x, y))}, not "
                f"{self._form[1]}; give all batches one form and type"
            )
        if self._device is not None:
            device = self._device
            x, y = mapped(x, lambda tensor: tensor.to(device)), y.to(device)
        for change in self._changes:
            x, y = change(x, y)
        return x, y

    def _note(self, facts: Facts) -> None:
        if not facts.sizes:
            again = "a later pass over data gave nothing" if self._facts or self._first else "data gives no batch"
            raise UsageError(f"{again}: give what can be gone through again and again, with at least one batch")
        if self._facts is None:
            if self.size not in (None, facts.examples):
                raise UsageError(
                    f"data gives {facts.examples:,} examples in a pass, not size={self.size:,}: say the number of "
                    "examples that the loader gives, without those it drops or repeats"
                )
            self._facts = facts
        elif facts.examples != self._facts.examples and not self._warned:
            self._warned = True
            warnings.warn(
                f"a pass over data gave {facts.examples:,} examples, the first one {self._facts.examples:,}, whose "
                "number the likelihood of all keeps",
                stacklevel=3,
            )

    # ------------------------------------------------------------------ some examples, in memory

    def __getitem__(self, index: Tensor | slice) -> Split:
        if isinstance(index, slice) and index.start is None and index.step is None and index.stop is not None:
            return Split(*joined_batches(self._head(index.stop)), self.likelihood)[index]
        wanted = torch.arange(len(self))[index] if isinstance(index, slice) else index.cpu()
        return self._at(wanted)

    def _head(self, count: int) -> list[Batch]:
        """The first batches of an unshuffled pass, at least `count` examples if there are, kept for the next time."""
        have, all_of_them = _count(self._first), None if self._facts is None else self._facts.examples
        if not have or (have < count and have != all_of_them):
            first: list[Batch] = []
            for batch in self.parts():
                first.append(batch)
                if _count(first) >= count:
                    break
            self._first = first
        return self._first

    def _at(self, positions: Tensor) -> Split:
        """The examples at these positions of an unshuffled pass; raises UsageError beyond its end.

        They are written into their places: small copies would break up the memory that batches come and go in.
        """
        order = positions.argsort(stable=True)
        wanted, start = positions[order], 0
        found: Batch | None = None
        for x, y in self.parts():
            here = (wanted >= start) & (wanted < start + len(y))
            if bool(here.any()):
                found = found or (blank(x, len(positions)), blank(y, len(positions)))
                picked, padded = (wanted[here] - start).to(y.device), is_padded(x)
                pairs = zip(found, (x, y), (0, IGNORED), strict=True)
                found = tuple(placed(old, order[here], rows(new, picked), fill, padded) for old, new, fill in pairs)
            start += len(y)
        if found is None or int(wanted[-1]) >= start:
            raise UsageError(f"data gave {start:,} examples, none at position {int(positions.max()):,}")
        return Split(*found, self.likelihood)


@runtime_checkable
class Resizable(Protocol):
    """A loader that gives batches of any size."""

    def of(self, size: int) -> Iterator[Any]:
        """One pass in batches of that size."""
        ...

    def sizes(self, size: int) -> list[int]:
        """Sizes of those batches."""
        ...


def _drawn(loader: Iterable[Any], seed: int, size: int | None = None) -> Iterator[Any]:
    """One pass over a loader, all of whose draws follow from `seed`, in batches of `size` where it can give them."""
    draws, end = Draws(seed, loader), object()
    with normal_kept():
        with draws.going_on():
            iterator = loader.of(size) if size is not None and isinstance(loader, Resizable) else iter(loader)
        while True:
            with draws.going_on():
                batch = next(iterator, end)
            if batch is end:
                return
            yield batch


def _count(batches: list[Batch]) -> int:
    return sum(len(y) for _, y in batches)


def joined_batches(batches: list[Batch]) -> Batch:
    """All examples of some batches; shorter sequences are filled up with what is no term of the likelihood."""
    padded = is_padded(batches[0][0])
    return joined([x for x, _ in batches], 0, padded), joined([y for _, y in batches], IGNORED, padded)
