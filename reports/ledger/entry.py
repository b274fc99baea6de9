"""What an entry of the ledger says: a published claim, its source, and the rule that decides whether it holds here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ...bench.spec.settings import Number, Settings, Whole
from ...bench.spec.yaml_places import line_of, written
from ...bench.spec.yaml_text import parsed, text_of
from ...datasets.errors import UsageError, unknown

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[Number, Field(ge=0, lt=1)] | Literal["auto"]


class Quantity(Settings):
    """One number under each seed: a column of the records that match, averaged over what else they differ in.

    Names match with or without options, as in a matrix. Columns are those of records; `accuracy`, `dense_accuracy`,
    `error` and `dense_error` are in per cent, `zeros` is the share of units removed in per cent (of one `layer`,
    counted from 0, if given), `masked` that of parameters, `compression` a factor.
    """

    method: Text
    sparsity: Share | list[Share] | None = None
    column: Text = "accuracy"
    layer: Annotated[Whole, Field(ge=0)] | None = None
    dataset: Text | None = None
    architecture: Text | None = None
    units: Text | None = None
    retraining: Annotated[Whole, Field(ge=0)] | None = None


class Check(Settings):
    """A rule: a quantity, or the difference or ratio of two that are paired by seed, and the bounds it must keep.

    Attributes:
        of, minus, over: the quantity, and what is taken off it or divides it.
        near, within: it is at most max(2 standard errors, `within`) away.
        at_least, at_most: bounds.
        judged: the `mean` over seeds, `every` seed, or the 95 % t `interval` of the mean must keep the bounds;
            differences by their interval, unless said otherwise.
    """

    of: Quantity
    minus: Quantity | None = None
    over: Quantity | None = None
    near: Number | None = None
    within: Annotated[Number, Field(ge=0)] = 0.3
    at_least: Number | None = None
    at_most: Number | None = None
    judged: Literal["mean", "every", "interval"] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.minus and self.over:
            raise ValueError("give minus or over, not both")
        if self.near is not None and (self.at_least is not None or self.at_most is not None):
            raise ValueError("give near, or at_least and at_most")
        if self.near is self.at_least is self.at_most is None:
            raise ValueError("give near, at_least or at_most, else nothing is claimed")
        return self

    @property
    def by(self) -> str:
        """How it is judged."""
        return self.judged or ("interval" if self.minus else "mean")


class Entry(Settings):
    """A claim.

    Attributes:
        id: unique, of lower-case letters, digits and hyphens.
        paper, arxiv: who said it, and where to find the paper.
        says: the claim, in our words.
        published: number or numbers as published, or the word relation.
        source: where it was read: a repository and file, a table, an abstract.
        remembered: whether nobody has looked it up; then it is shown, and decides nothing.
        matrix: the matrix whose cells decide it.
        differs: how the protocol of these cells differs from the published one.
        written: the day on which the rule was written, before the run.
        checks: the rules; the claim holds if all do.
        note: what else to know, such as why it did not hold.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    paper: Text
    arxiv: Text | None = None
    says: Text
    published: Text
    source: Text
    remembered: bool = False
    matrix: Text
    differs: str = ""
    written: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    checks: Annotated[list[Check], Field(min_length=1)]
    note: str = ""


def load_entries(path: str | Path) -> list[Entry]:
    """The entries of a ledger file, a YAML list.

    Raises UsageError, naming file and line, for a file that is absent or not YAML, an unknown or missing key, a value
    of the wrong kind, and an id that stands there twice.
    """
    node, content = parsed(text_of(Path(path)), str(path))
    if not isinstance(content, list) or not content:
        raise UsageError(f"{path}:1: a ledger is a list of entries with the keys {', '.join(Entry.model_fields)}")
    entries, seen = [], set[str]()
    for i, given in enumerate(content):
        try:
            entry = Entry.model_validate(given)
        except ValidationError as error:
            raise _located(path, node, i, error) from error
        if entry.id in seen:
            raise UsageError(f"{path}:{line_of(node, (i,))}: the id {entry.id!r} is taken; choose another")
        seen.add(entry.id)
        entries.append(entry)
    return entries


def _located(path: str | Path, node: Any, index: int, error: ValidationError) -> UsageError:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    place = list(written(node, (index, *first["loc"])))
    where, name = f"{path}:{line_of(node, place)}", ".".join(map(str, place[1:]))
    if first["type"] == "extra_forbidden":
        return UsageError(f"{where}: {unknown('key', place[-1], _fields_at(place[1:-1]))}")
    if first["type"] == "missing":
        return UsageError(f"{where}: the key {first['loc'][-1]!r} is missing")
    given = "" if isinstance(first["input"], Mapping) else f" (got {first['input']!r})"
    return UsageError(f"{where}: {name}: {first['msg'].removeprefix('Value error, ').lower()}{given}")


def _fields_at(place: list[Any]) -> list[str]:
    names = [part for part in place if isinstance(part, str)]
    model = Quantity if len(names) > 1 else Check if names else Entry
    return list(model.model_fields)
