"""From raw arrays and positions to `Data`: tensors, training statistics or vocabulary, content digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Data, Kind, Scaling
from .errors import UsageError
from .source import Source
from .split import Split
from .splits import Index
from .tokens import known

CHUNK = 4096  # examples held in float64 at a time
TOO_LARGE = "holds values too large to standardise: their deviation overflows; rescale them"


def assemble(
    name: str, source: Source, parts: Mapping[str, Index], seed: int, resize: int | None = None,
    scaling: tuple[float, float] | None = None,
) -> Data:  # fmt: skip
    """The data set of a checked source, cut into `parts`: positions of training, validation and test."""
    x = {part: np.ascontiguousarray(source.x[index]) for part, index in parts.items()}
    y = {part: np.ascontiguousarray(source.y[index]) for part, index in parts.items()}
    ood_name, ood = _partner(source, len(parts["test"]))
    about: tuple = (source.kind, source.likelihood, resize, ood_name)
    if source.vocabulary:
        about = (*about, source.vocabulary, source.most)
    digest = content_digest(about, [*parts.values(), *x.values(), *y.values(), *ood])
    common = {"name": name, "likelihood": source.likelihood, "kind": source.kind, "digest": digest, "seed": seed}
    common["ood_name"] = ood_name
    return _sequences(common, source, x, y) if source.vocabulary else _real(common, source, x, y, ood, resize, scaling)


def _real(
    common: dict[str, Any], source: Source, x: dict[str, np.ndarray], y: Mapping[str, np.ndarray],
    ood: list[np.ndarray], resize: int | None, fixed: tuple[float, float] | None,
) -> Data:  # fmt: skip
    """Images and tables: standardised by the training split's statistics, unless others are fixed."""
    name, train = common["name"], floats(source.kind, x.pop("train"), resize)
    scaling, limits = statistics(train), _limits(train)
    if fixed is not None:
        scaling = Scaling(torch.full_like(scaling.mean, fixed[0]), torch.full_like(scaling.std, fixed[1]))
    _check_inputs(name, source, scaling)
    inputs = {"train": scaling.apply_(train)}
    inputs |= {part: scaling.apply_(floats(source.kind, values, resize)) for part, values in x.items()}
    targets, undo = _targets(name, source, y)
    return Data(
        **common,
        outputs=len(source.classes or ()) if source.likelihood == "categorical" else source.y.shape[1],
        classes=source.classes,
        train=Split(inputs["train"], targets["train"], source.likelihood),
        validation=Split(inputs["validation"], targets["validation"], source.likelihood),
        scaling=scaling,
        limits=limits,
        features=source.features,
        target_mean=undo.mean.float() if undo else None,
        target_std=undo.std.float() if undo else None,
        _test=(test := Split(inputs["test"], targets["test"], source.likelihood)),
        _partner=_foreign(scaling, floats(source.kind, ood[0], resize), test) if ood else None,
    )


def _sequences(
    common: dict[str, Any], source: Source, x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray]
) -> Data:
    """Sequences of tokens: numbered by the training split's vocabulary, nothing to standardise."""
    numbers, vocabulary = known(x["train"], source.vocabulary, source.most)
    classes = source.classes or vocabulary
    targets = y if source.classes else {part: numbers[values] for part, values in y.items()}
    splits = {part: Split(torch.from_numpy(numbers[x[part]]), torch.from_numpy(targets[part])) for part in x}
    return Data(
        **common,
        outputs=len(classes),
        classes=classes,
        vocabulary=vocabulary,
        train=splits["train"],
        validation=splits["validation"],
        scaling=Scaling(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)),
        _test=splits["test"],
    )


def floats(kind: Kind, values: np.ndarray, resize: int | None = None) -> Tensor:
    """Raw inputs as real tensors: images in float32, resized to a square; tables in float64.

    uint8 is divided by 255; other values may share memory with the tensor. Large offsets of a feature
    survive in float64 until they are subtracted.

    Shape (N, ...).
    """
    dtype = torch.float32 if kind == "image" else torch.float64
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows has statistics that are refused
            values = values.astype(np.float32 if kind == "image" else np.float64, copy=False)
    elif values.dtype != np.uint8:
        values = values.astype(np.float64)
    tensor = torch.from_numpy(values).to(dtype)
    if values.dtype == np.uint8:
        tensor /= 255
    if resize is not None and tensor.shape[-2:] != (resize, resize):
        tensor = F.interpolate(tensor, size=(resize, resize), mode="bilinear", antialias=True)
    return tensor


def statistics(raw: Tensor) -> Scaling:
    """Mean and deviation in float64: per channel of images (N, C, H, W), else per column of (N, F).

    What is constant, to rounding, has deviation 1: it becomes zero, not noise.
    """
    axes = (0, 2, 3) if raw.ndim == 4 else (0,)
    count = raw.numel() // raw.shape[1]
    chunks = raw.split(CHUNK)
    sums = [chunk.sum(axes, keepdim=True, dtype=torch.float64) for chunk in chunks]
    mean = torch.stack(sums).sum(0) / count
    squares = [(chunk.double() - mean).square_().sum(axes, keepdim=True) for chunk in chunks]
    std = (torch.stack(squares).sum(0) / count).sqrt()
    std = torch.where(std <= 1e-12 * mean.abs(), 1.0, std)  # also 0 <= 0
    return Scaling(mean[0], std[0])


def content_digest(about: tuple, arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of `about` and of every array's dtype, shape and bytes, the same on every platform."""
    digest = hashlib.sha256(repr(about).encode())
    for array in arrays:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(repr((little.dtype.str, little.shape)).encode())
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_inputs(name: str, source: Source, scaling: Scaling) -> None:
    column = _overflowing(scaling)
    if column is not None:
        place = f"column {column}" if source.kind == "table" else f"channel {column}"
        label = f" ({source.features[column]})" if source.features else ""
        raise UsageError(f"data set {name!r}: {place}{label} of x {TOO_LARGE}")


def _overflowing(scaling: Scaling) -> int | None:
    """The first feature or channel whose training statistics are not finite."""
    finite = (torch.isfinite(scaling.mean) & torch.isfinite(scaling.std)).flatten()
    return None if finite.all() else int((~finite).nonzero()[0])


def _targets(name: str, source: Source, y: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], Scaling | None]:
    if source.likelihood != "gaussian":
        return {part: torch.from_numpy(values) for part, values in y.items()}, None
    raw = {part: torch.from_numpy(values.astype(np.float64)) for part, values in y.items()}
    scaling = statistics(raw["train"])
    if (column := _overflowing(scaling)) is not None:
        raise UsageError(f"data set {name!r}: target {column} {TOO_LARGE}")
    return {part: scaling.apply_(values) for part, values in raw.items()}, scaling


def _limits(train: Tensor) -> tuple[float, float]:
    low, high = (float(bound) for bound in torch.aminmax(train))
    return min(low, 0.0), max(high, 1.0)


def _partner(source: Source, size: int) -> tuple[str, list[np.ndarray]]:
    """The out-of-distribution set's name, and as many of its images as there are test examples."""
    if source.partner is not None and source.partner[1].shape[1:] == source.x.shape[1:]:
        return source.partner[0], [source.partner[1][:size].copy()]
    return {"image": "strokes", "table": "permuted", "tokens": "shuffled"}[source.kind], []


def _foreign(scaling: Scaling, raw: Tensor, test: Split) -> Split:
    return Split(scaling.apply_(raw), test.y.new_zeros((len(raw), *test.y.shape[1:])), test.likelihood)
