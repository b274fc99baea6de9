"""The data a run sees: three disjoint splits as tensors, shifted copies, inputs from elsewhere."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import ood, shift
from .errors import UsageError, unknown
from .examples import Examples
from .seal import TestSplitError, guard, sealed
from .split import AnyLikelihood, Device, Likelihood, Split

__all__ = ["AnyLikelihood", "Data", "Kind", "Likelihood", "Scaling", "Split", "TestSplitError", "sealed"]

Kind = Literal["image", "table", "tokens"]


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
