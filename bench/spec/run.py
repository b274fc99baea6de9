"""A cell of the matrix: everything that decides a result, frozen, and the key that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from ...architectures import registry as architectures
from ...architectures.build import SHA256, WEIGHTS
from ...architectures.running.given_weights import digest_of
from ...architectures.units.vector import Granularity
from ...datasets import registry as datasets
from ...datasets.registry import Registry
from ...methods import registry as methods
from ...methods.tuning import AT, candidates, is_tuned
from .conditions import Conditions
from .revisions import Revisions, revisions_of

TRANSPORT = ("download",)
Found = TypeVar("Found")


class Choice(BaseModel):
    """A registered name with options, those at their default left out."""

    model_config = ConfigDict(frozen=True)

    name: str
    options: dict[str, Any] = {}

    @cached_property
    def deciding(self) -> dict[str, Any]:
        """The options that can change a result: all but how data reaches the machine, and what a file has to be."""
        return {name: value for name, value in sorted(self.options.items()) if name not in (*TRANSPORT, SHA256)}

    @property
    def candidates(self) -> list[Choice]:
        """Choices with each value of the options that are tuned; itself, where none is."""
        found = candidates(self.options)
        return [Choice(name=self.name, options=options) for options in found] if len(found) > 1 else [self]

    @cached_property
    def label(self) -> str:
        """`name` or `name(option=value, ...)`, as tables and figures show it."""
        inside = ", ".join(f"{name}={_short(value)}" for name, value in self.deciding.items())
        return f"{self.name}({inside})" if inside else self.name


class Run(Conditions):
    """One cell. Its key is the SHA-256 of its canonical form, in which fields at their default are left out.

    So a new field, or a new option of a method, must have a default that changes nothing: results that
    were computed before it existed stay valid.
    """

    model_config = ConfigDict(extra="ignore")  # of a later version: its key will differ

    dataset: Choice
    architecture: Choice
    method: Choice
    sparsity: float | Literal["auto"]
    seed: int
    units: Granularity = "weights"

    @cached_property
    def sources(self) -> dict[str, str]:
        """Digests of what the package does not ship and the cell is made of: plug-ins, modules and files of the user.

        They are read once, and go with the cell to the worker that computes it: a file that changes in the meantime
        does not change what the cell is.
        """
        return sources_of(self)

    @cached_property
    def revisions(self) -> Revisions:
        """Revisions beyond the first of what the cell is made of, by kind and name; they travel like the sources."""
        method = self.method
        place = ("revisions", f"{self.dataset.name} {self.architecture.name} {method.model_dump_json()}")
        return _once(
            place,
            lambda: revisions_of(self.dataset.name, self.architecture.name, method.name, method.candidates[0].options),
        )

    def canonical(self) -> dict[str, Any]:
        """What identifies the cell, as JSON; revisions, sources of plug-ins and the content of weights belong to it."""
        form = self.model_dump(mode="json", exclude_defaults=True)
        for part, transports in {"dataset": TRANSPORT, "architecture": (WEIGHTS, SHA256)}.items():
            for transport in transports:
                form[part].get("options", {}).pop(transport, None)
            if not form[part].get("options", True):
                del form[part]["options"]
        beside = {"sources": self.sources, "revisions": self.revisions}
        return form | {name: value for name, value in beside.items() if value}

    @cached_property
    def key(self) -> str:
        """The cell's identity: 64 hexadecimal digits."""
        return content_key(self.canonical())

    @property
    def candidates(self) -> list[Run]:
        """The cells among which validation data choose, with each combination of tuned options; itself if none is."""
        choices = self.method.candidates
        return [self.model_copy(update={"method": m}) for m in choices] if len(choices) > 1 else [self]

    @property
    def data_key(self) -> str:
        """What the data of the cell are called: the data set, its options and content, the seed of its splits."""
        form, revised = self.canonical(), self.revisions.get("dataset")
        content = {"dataset": form["dataset"], "seed": self.seed, "source": self.sources.get("dataset")}
        return content_key(content | ({"revisions": revised} if revised else {}))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; what was derived from other fields is derived anew."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("key", None)
        if update and not update.keys().isdisjoint(("dataset", "architecture", "method")):
            vars(copied).pop("sources", None)
            vars(copied).pop("revisions", None)
        return copied


def sources_of(run: Run) -> dict[str, str]:
    """Digests of what a cell is made of beside the package, as they are here and now."""
    chosen = {"dataset": datasets, "architecture": architectures, "method": methods}
    digests = {kind: _source(registry, getattr(run, kind).name) for kind, registry in chosen.items()}
    if isinstance(like := run.method.options.get("like"), str):
        digests["like"] = _source(methods, like)
    given = run.architecture.options
    if isinstance(weights := given.get(WEIGHTS), str):
        digests[WEIGHTS] = given.get(SHA256) or _once((WEIGHTS, weights), lambda: digest_of(weights))
    return {kind: digest for kind, digest in digests.items() if digest is not None}


_read: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("read", default=None)


@contextmanager
def sources_read_once() -> Iterator[None]:
    """Inside the block every file that belongs to the identity of cells is read once, whatever the number of cells."""
    token = _read.set({} if (read := _read.get()) is None else read)
    try:
        yield
    finally:
        _read.reset(token)


def _source(registry: Registry, name: str) -> str | None:
    return _once((registry.kind, name), lambda: registry.source_digest(name))


def _once(place: tuple[str, str], found: Callable[[], Found]) -> Found:
    if (read := _read.get()) is None:
        return found()
    if place not in read:
        read[place] = found()
    return read[place]


def content_key(content: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    if is_tuned(value):
        return f"tuned at {AT}"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value).replace(" ", "")
