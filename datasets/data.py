"""The data a run sees: three disjoint splits as tensors, shifted copies, inputs from elsewhere."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import ood, shift
from .errors import UsageError, unknown
from .examples import Examples
from .seal import TestSplitError, guard, sealed
from .trees import Inputs, device_of, examples, mapped, pieces, rows

__all__ = ["Data", "Kind", "Likelihood", "Scaling", "Split", "TestSplitError", "sealed"]

Likelihood = Literal["categorical", "gaussian", "bernoulli", "heteroscedastic"]
# A loss of one's own: (outputs, targets) -> its mean over the terms of a batch.
Loss = Callable[[Tensor, Tensor], Tensor]
AnyLikelihood = Likelihood | Loss
Kind = Literal["image", "table", "tokens"]
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


@dataclass(frozen=True, eq=False)
class Scaling:
    """Training statistics, float64, one per channel (C, 1, 1) or per feature (F,)."""

    mean: Tensor
    std: Tensor

    def apply_(self, raw: Tensor) -> Tensor:
        """Standardised float32 values of raw ones (N, ...), which are overwritten."""
        return raw.sub_(self.mean.to(raw.dtype)).div_(self.std.to(raw.dtype)).float()

    def undo(self, x: Tensor) -> Tensor:
        """Raw float32 values of standardised ones (N, ...)."""
        return x.mul(self.std.to(x.dtype)).add_(self.mean.to(x.dtype))

    def to(self, device: Device) -> Scaling:
        """The same statistics on `device`."""
        return Scaling(self.mean.to(device), self.std.to(device))


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A data set: standardised splits, and what is needed to corrupt the test split as raw values.

    `outputs` is the number of classes, of regression targets or of labels that hold or not; `digest` the SHA-256 of
    the raw content and of the split; `limits` the range of raw image values; `target_mean` and `target_std` (K,) undo
    the standardisation of regression targets and are None for classes. `features` names the columns of a
    table, where names are known. `vocabulary` names the tokens of sequences, and is empty for other inputs; the
    outputs of a language model are its tokens.
    """

    name: str
    likelihood: Likelihood
    kind: Kind
    outputs: int
    classes: tuple[str, ...] | None
    digest: str
    seed: int
    ood_name: str
    train: Examples
    validation: Examples
    scaling: Scaling
    limits: tuple[float, float] = (0.0, 1.0)
    target_mean: Tensor | None = None
    target_std: Tensor | None = None
    features: tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] = ()
    _test: Examples
    _partner: Examples | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} + {len(self.validation)} + {len(self._test)}"
        return f"Data({self.name!r}, {sizes} examples of {self.input_shape}, {self.outputs} outputs)"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: (C, H, W) or (F,); (T, V) for T tokens out of a vocabulary of V."""
        tokens = (len(self.vocabulary),) if self.vocabulary else ()
        return (*self.train[:1].x.shape[1:], *tokens)

    @property
    def test(self) -> Examples:
        """The test split; raises TestSplitError inside `sealed`."""
        guard(self.name, "the test split")
        return self._test

    @property
    def ood(self) -> Examples:
        """Inputs from elsewhere, standardised like the training split; y is zero; guarded like `test`."""
        guard(self.name, "the out-of-distribution partner")
        return self._partner or self._twin

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the corruptions that apply to this kind of data."""
        return tuple(shift.SEVERITIES[self.kind])

    def shifted(self, kind: str, severity: int) -> Examples:
        """The test split with corrupted inputs, the same at every call; of a stream, batch by batch.

        `severity` runs from 1 to 5. Raises TestSplitError inside `sealed`, UsageError for a corruption
        that does not exist or does not apply.
        """
        guard(self.name, "a shifted test split")
        if kind not in self.shifts:
            raise unknown(f"corruption of data set {self.name!r}", kind, self.shifts)
        levels = shift.SEVERITIES[self.kind][kind]
        if severity not in range(1, len(levels) + 1):
            raise UsageError(f"severity {severity!r} of {kind!r} must be one of 1 to {len(levels)}")
        level = levels[severity - 1]
        if self.kind == "image":
            return self._test.reading(lambda x, y: (self._as_unit(x, shift.IMAGE[kind], level, self.seed), y))
        corrupt = {**shift.TABLE, **shift.TOKENS}[kind]
        return self._test.reading(lambda x, y: (corrupt(x, level, self.seed), y))

    @functools.cached_property
    def _twin(self) -> Examples:
        if self.kind == "image":
            return self._test.reading(lambda x, y: (self._as_unit(x, ood.strokes, self.seed), torch.zeros_like(y)))
        other = {"table": ood.permuted, "tokens": ood.shuffled}[self.kind]
        return self._test.reading(lambda x, y: (other(x, self.seed), torch.zeros_like(y)))

    @property
    def _unit(self) -> Scaling:
        """The scaling as if raw values ran from 0 to 1."""
        low, high = self.limits
        return Scaling((self.scaling.mean - low) / (high - low), self.scaling.std / (high - low))

    def _as_unit(self, x: Tensor, change: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Images after a change that takes them as raw values from 0 to 1."""
        return self._unit.apply_(change(self._unit.undo(x).clamp_(0, 1), *arguments))

    def to(self, device: Device) -> Data:
        """The same data on `device`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        movable = {name: value for name, value in fields.items() if hasattr(value, "to")}
        moved: dict[str, Any] = {name: value.to(device) for name, value in movable.items()}
        return dataclasses.replace(self, **moved)
