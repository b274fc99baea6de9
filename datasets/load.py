"""`load`: from a name to checked, split and standardised tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Optional

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from . import registry, splits
from .assemble import assemble
from .data import Data
from .errors import UsageError, unknown
from .files import data_root
from .folder import Folder
from .seeds import numpy_stream
from .source import Source, checked

__all__ = ["data_root", "load", "options"]

COMMON = ("subset", "resize", "scaling")
SPLITS = ("training", "validation", "test")
SIZE = TypeAdapter(Optional[Annotated[int, Field(gt=0)]])  # noqa: UP045  (| needs a class on its left)
FIXED = TypeAdapter(Optional[tuple[float, Annotated[float, Field(gt=0)]]])  # noqa: UP045
KINDS: dict[str, TypeAdapter[Any]] = {"subset": SIZE, "resize": SIZE, "scaling": FIXED}


def load(
    name: str,
    seed: int = 0,
    *,
    subset: int | None = None,
    resize: int | None = None,
    scaling: tuple[float, float] | None = None,
    **given: Any,
) -> Data:
    """Load the data set `name`; `seed` decides splits, subset and everything else that is random.

    Where no test split is published, 60 % of the examples are for training, 20 % for validation, 20 %
    for the test; else 10 % of the training examples are for validation. Classes are stratified.
    `subset` keeps that many training examples, `resize` makes images square with that side, `scaling` subtracts a
    mean and divides by a deviation that others have chosen, as networks of theirs expect, instead of those of the
    training split; further options are the data set's own. Raises UsageError for unknown names and options, for data
    that is not there, and for content that cannot be used (NaN, one class only, nothing).
    """
    if seed < 0:
        raise UsageError(f"seed {seed} of data set {name!r} must not be negative")
    chosen = options(name, {"subset": subset, "resize": resize, "scaling": scaling, **given})
    subset, resize, scaling = (chosen.pop(option, None) for option in COMMON)
    built = registry.build(name, **chosen)
    if isinstance(built, Folder):
        if resize is not None:
            raise UsageError(f"data set {name!r}: say size={resize}, not resize: images are cut square when read")
        if scaling is not None:
            raise UsageError(f"data set {name!r} is scaled by its own training images: leave scaling out")
        return built.load(seed, subset)
    source = checked(name, built)
    if resize is not None and source.kind != "image":
        what = {"table": "is a table", "tokens": "holds sequences of tokens"}[source.kind]
        raise UsageError(f"data set {name!r} {what}; resize={resize} is for images")
    if scaling is not None and source.kind == "tokens":
        raise UsageError(f"data set {name!r} holds sequences of tokens; scaling={scaling} is for real inputs")
    return assemble(name, source, _partition(name, source, seed, subset), seed, resize, scaling)


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of any data set, the common ones too; those equal to their default are left out.

    Raises UsageError for an unknown name, an unknown option or a value of the wrong type.
    """
    builder, placeholders = registry.resolve(name)
    own = [option for option in inspect.signature(builder).parameters if option not in placeholders]
    for option in given:
        if option not in (*COMMON, *own):
            raise unknown(f"option of data set {name!r}", option, [*COMMON, *own])
    common = {option: _common(name, option, given[option]) for option in COMMON if option in given}
    rest = registry.options(name, {option: value for option, value in given.items() if option not in COMMON})
    return {option: value for option, value in common.items() if value is not None} | rest


def _common(name: str, option: str, value: Any) -> Any:
    try:
        return KINDS[option].validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].lower()
        raise UsageError(f"data set {name!r}: {option}={value!r} is not valid: {message}") from error


def _check_classes(
    name: str, labels: np.ndarray, classes: Sequence[str], fixed: tuple[splits.Index, splits.Index] | None
) -> None:
    """Every class of the test split must be there to be learned, and a seeded split needs three of each."""
    if fixed:
        unseen = np.setdiff1d(labels[fixed[1]], labels[fixed[0]])
        if len(unseen):
            raise UsageError(
                f"data set {name!r}: class {classes[unseen[0]]!r} occurs in the test split but never in training; "
                "add training examples of it or drop it from the test split"
            )
        return
    present, counts = np.unique(labels, return_counts=True)
    if (fewest := int(counts.min())) < len(SPLITS):
        raise UsageError(
            f"data set {name!r}: class {classes[present[counts.argmin()]]!r} has {fewest} example{'s' * (fewest > 1)}, "
            f"too few for {', '.join(SPLITS)}; give at least {len(SPLITS)} of each class"
        )


def _partition(name: str, source: Source, seed: int, subset: int | None) -> dict[str, splits.Index]:
    strata, rng = source.strata, numpy_stream(seed, "splits")
    fixed = source.fixed_split(seed)
    if source.likelihood == "categorical" and source.y.ndim == 1:
        _check_classes(name, source.y, source.classes or (), fixed)
    if fixed and source.validation is not None:
        train, validation, test = fixed[0], source.validation, fixed[1]
    elif fixed:
        (train, validation), test = splits.hold_out(fixed[0], strata, rng), fixed[1]
    else:
        train, validation, test = splits.split(strata, rng)
    if subset is not None:
        classes = len(np.unique(strata[train]))
        if not classes <= subset <= len(train):
            raise UsageError(
                f"data set {name!r}: subset={subset} must lie between {classes}, its number of "
                f"classes, and {len(train)}, its number of training examples"
            )
        train, _ = splits.take(train, strata, subset, rng, leave=0)
    if not (len(train) and len(validation) and len(test)):
        raise UsageError(f"data set {name!r}: {len(strata)} examples are too few for three splits")
    return {"train": train, "validation": validation, "test": test}
