"""A cell of the matrix: everything that decides a result, frozen, and the key that identifies it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ...architectures import registry as architectures
from ...architectures.units.vector import Granularity
from ...datasets import registry as datasets
from ...methods import registry as methods
from .budget import Budget
from .settings import Finetune, Training

TRANSPORT = ("download",)


class Choice(BaseModel):
    """A registered name with options, those at their default left out."""

    model_config = ConfigDict(frozen=True)

    name: str
    options: dict[str, Any] = {}

    @property
    def deciding(self) -> dict[str, Any]:
        """The options that can change a result: all but how data reaches the machine."""
        return {name: value for name, value in sorted(self.options.items()) if name not in TRANSPORT}

    @property
    def label(self) -> str:
        """`name` or `name(option=value, ...)`, as tables and figures show it."""
        inside = ", ".join(f"{name}={_short(value)}" for name, value in self.deciding.items())
        return f"{self.name}({inside})" if inside else self.name


class Run(BaseModel):
    """One cell. Its key is the SHA-256 of its canonical form, in which fields at their default are left out.

    So a new field, or a new option of a method, must have a default that changes nothing: results that
    were computed before it existed stay valid.
    """

    model_config = ConfigDict(frozen=True)

    dataset: Choice
    architecture: Choice
    method: Choice
    sparsity: float | Literal["auto"]
    seed: int
    units: Granularity = "weights"
    budget: Budget = Budget()
    training: Training = Training()
    finetune: Finetune = Finetune()
    shift: bool = True
    threads: int = 1

    def canonical(self) -> dict[str, Any]:
        """What identifies the cell, as JSON; the source of plug-ins belongs to it."""
        chosen = {"dataset": datasets, "architecture": architectures, "method": methods}
        digests = {kind: registry.source_digest(getattr(self, kind).name) for kind, registry in chosen.items()}
        if isinstance(like := self.method.options.get("like"), str):
            digests["like"] = methods.source_digest(like)
        sources = {kind: digest for kind, digest in digests.items() if digest is not None}
        dataset = Choice(name=self.dataset.name, options=self.dataset.deciding)
        form = self.model_copy(update={"dataset": dataset}).model_dump(mode="json", exclude_defaults=True)
        return form | ({"sources": sources} if sources else {})

    @property
    def key(self) -> str:
        """The cell's identity: 64 hexadecimal digits."""
        return content_key(self.canonical())


def content_key(content: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value).replace(" ", "")
