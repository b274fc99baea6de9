"""What a data set's builder hands over: raw arrays, before any split, and the checks they must pass."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from . import tokens
from .data import Kind
from .errors import UsageError
from .split import DataLikelihood
from .targets import check_probabilities


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """A data set in one pool of examples.

    `x` is (N, C, H, W) for images and (N, F) for tables, of any real dtype; uint8 stands for [0, 1].
    `y` is (N,) labels for classes, whole numbers from 0 if `classes` are named, else anything numpy can
    sort, or the probabilities of the classes, (N, K); (N, K) real numbers for regression; (N, K) zeros and ones, or
    numbers between, with a Bernoulli likelihood, whose K labels `classes` may name. `folds` are fixed pairs of
    training and test positions (none: the seed splits); `fold` is the one to use (none: the seed chooses);
    `validation` are fixed positions beside them. `partner` is the name and the images of a real
    out-of-distribution set.

    With a `vocabulary`, `x` holds sequences of tokens as whole numbers (N, T), padded on the left with 0, and
    `y` labels, or the next tokens (N, T) of a language model; `most` bounds the tokens that networks are told.
    """

    x: np.ndarray
    y: np.ndarray
    likelihood: DataLikelihood = "categorical"
    classes: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    folds: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    fold: int | None = None
    validation: np.ndarray | None = None
    partner: tuple[str, np.ndarray] | None = None
    vocabulary: tuple[str, ...] = ()
    most: int | None = None

    @property
    def kind(self) -> Kind:
        """Whether the inputs are sequences of tokens, images or rows of a table."""
        if self.vocabulary:
            return "tokens"
        return "image" if self.x.ndim == 4 else "table"

    @property
    def strata(self) -> np.ndarray:
        """What splits are stratified by, int64 (N,): the class, from 0, where every example has one."""
        if self.likelihood == "categorical" and self.y.ndim == 1:
            return self.y
        if self.likelihood == "bernoulli" and self.y.shape[1] == 1:
            return (self.y[:, 0] > 0.5).astype(np.int64)
        return np.zeros(len(self.y), np.int64)

    def fixed_split(self, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The published training and test positions that `seed` uses, if there are any."""
        return self.folds[seed % len(self.folds) if self.fold is None else self.fold] if self.folds else None


def pooled(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], **fields) -> Source:
    """A source with a fixed test split, from (x, y) of the training and of the test examples."""
    x, y = (np.concatenate(pair) for pair in zip(train, test, strict=True))
    positions = np.arange(len(y))
    return Source(x=x, y=y, folds=((positions[: len(train[1])], positions[len(train[1]) :]),), **fields)


def checked(name: str, source: Source) -> Source:
    """The source with labels as int64 from 0 and its classes named; raises UsageError for bad content."""
    _check_shapes(name, source)
    _check_finite(name, "x", source.x, source)
    _check_finite(name, "y", source.y, source)
    _check_folds(name, source)
    if source.vocabulary:
        tokens.check(name, source.x, source.y, source.vocabulary)
    if source.y.shape == source.x.shape and source.vocabulary:
        return source
    if source.likelihood == "bernoulli" or (source.likelihood == "categorical" and source.y.ndim == 2):
        return _probable(name, source)
    if source.likelihood == "categorical":
        return _labelled(name, source)
    constant = source.y.min(axis=0) == source.y.max(axis=0)
    if constant.any():
        raise UsageError(f"data set {name!r}: target {int(constant.argmax())} has one value only")
    return source


def _probable(name: str, source: Source) -> Source:
    """Targets that are probabilities, of the classes or of every label by itself, as float32, with names."""
    y, classes = source.y, source.classes or tuple(map(str, range(source.y.shape[1])))
    try:
        check_probabilities(y, source.likelihood)
    except UsageError as error:
        raise UsageError(f"data set {name!r}: {error}") from None
    if len(classes) != y.shape[1]:
        raise UsageError(f"data set {name!r}: {len(classes)} classes are named for y of shape {y.shape}")
    constant = y.min(axis=0) == y.max(axis=0)
    if source.likelihood == "bernoulli" and constant.any():
        raise UsageError(f"data set {name!r}: label {classes[int(constant.argmax())]!r} has one value only")
    return dataclasses.replace(source, y=y.astype(np.float32), classes=classes)


def _labelled(name: str, source: Source) -> Source:
    labels, codes = np.unique(source.y, return_inverse=True)
    if len(labels) < 2:
        raise UsageError(f"data set {name!r} has one class only, {labels[0]}; at least two are needed")
    if 2 * len(labels) > len(codes):
        raise UsageError(
            f"data set {name!r}: {len(labels)} classes among {len(codes)} examples; "
            "for regression give y as real numbers of shape (N, 1)"
        )
    if source.classes is None:
        names = tuple(str(label) for label in labels.tolist())
        return dataclasses.replace(source, y=codes.reshape(-1).astype(np.int64), classes=names)
    known = range(len(source.classes))
    if source.y.dtype.kind not in "iu" or labels[0] not in known or labels[-1] not in known:
        raise UsageError(
            f"data set {name!r}: labels must be whole numbers from 0 to {known[-1]}; "
            f"{labels[0]} to {labels[-1]} of type {source.y.dtype} given"
        )
    return dataclasses.replace(source, y=source.y.astype(np.int64))


def _check_shapes(name: str, source: Source) -> None:
    x, y = source.x, source.y
    if x.size == 0 or y.size == 0:
        raise UsageError(f"data set {name!r} is empty: x has shape {x.shape}, y has shape {y.shape}")
    if len(x) != len(y):
        raise UsageError(f"data set {name!r}: {len(x)} inputs but {len(y)} targets; their numbers must agree")
    if x.ndim not in (2, 4) or x.dtype.kind not in "buif":
        hint = f"; use (N, 1), here {(len(x), 1)}, for a single feature" if x.ndim == 1 else ""
        raise UsageError(
            f"data set {name!r}: x must hold real numbers, a table (N, F) or images (N, C, H, W); "
            f"{x.dtype} {x.shape} given{hint}"
        )
    if source.vocabulary:
        _check_sequences(name, x, y)
    elif y.ndim not in _axes(source):
        raise UsageError(
            f"data set {name!r}: y must be (N,) for classes, or (N, K) for regression, probabilities of classes or K "
            f"labels; {y.shape} given"
        )
    words = ", or strings for classes" if source.likelihood == "categorical" else ""
    if y.dtype.kind not in ("buifUS" if source.likelihood == "categorical" and y.ndim == 1 else "buif"):
        raise UsageError(f"data set {name!r}: y must hold numbers{words}; {y.dtype} given")


def _axes(source: Source) -> tuple[int, ...]:
    """How many axes targets may have."""
    if source.likelihood != "categorical":
        return (2,)
    return (1, 2) if source.y.dtype.kind == "f" and source.y.shape[-1] > 1 else (1,)


def _check_sequences(name: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 2 or x.dtype.kind not in "iu":
        raise UsageError(f"data set {name!r}: tokens must be whole numbers (N, T); {x.dtype} {x.shape} given")
    if y.dtype.kind not in "iu" or (y.ndim != 1 and y.shape != x.shape):
        raise UsageError(
            f"data set {name!r}: y must be labels (N,), or the next tokens {x.shape} of a language model; "
            f"{y.dtype} {y.shape} given"
        )


def _check_finite(name: str, array: str, values: np.ndarray, source: Source) -> None:
    if values.dtype.kind != "f" or (finite := np.isfinite(values)).all():
        return
    position = tuple(int(i) for i in np.argwhere(~finite)[0])
    what = "NaN" if np.isnan(values[position]) else "an infinite value"
    axes = {"x": ("column",) if values.ndim == 2 else ("channel", "row", "column"), "y": ("target",)}[array]
    places = [f"{axis} {i}" for axis, i in zip(axes, position[1:], strict=False)]
    if array == "x" and source.features is not None:
        places[-1] += f" ({source.features[position[1]]})"
    where = ", ".join([_example(source, position[0]), *places])
    raise UsageError(f"data set {name!r}: {what} in {array} at {where}; remove or fill in what is missing")


def _example(source: Source, position: int) -> str:
    if len(source.folds) == 1:
        for part, index in zip(("training", "test"), source.folds[0], strict=True):
            if len(found := np.flatnonzero(index == position)):
                return f"{part} example {found[0]}"
    return f"example {position}"


def _check_folds(name: str, source: Source) -> None:
    if source.folds and source.fold is not None and source.fold not in range(len(source.folds)):
        raise UsageError(
            f"data set {name!r}: split {source.fold} does not exist; there are {len(source.folds)}, from 0"
        )
    for number, (train, test) in enumerate(source.folds):
        for part, index in (("training", train), ("test", test)):
            if len(index) == 0:
                raise UsageError(f"data set {name!r}: no {part} examples in split {number}")
            if index.dtype.kind not in "iu":
                raise UsageError(f"data set {name!r}: {part} indices must be whole numbers; {index.dtype} given")
            if index.min() < 0 or index.max() >= len(source.x):
                raise UsageError(
                    f"data set {name!r}: split {number} has a {part} index beyond its {len(source.x)} rows"
                )
        if len(np.intersect1d(train, test)):
            raise UsageError(f"data set {name!r}: training and test examples of split {number} overlap")
