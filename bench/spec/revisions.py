"""Revisions: how often the arithmetic of what a cell is made of has changed since its first results.

The first is left out everywhere, so that what was computed before anything was revised keeps its identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...architectures import registry as architectures
from ...datasets import registry as datasets
from ...datasets.errors import UsageError
from ...methods import registry as methods
from ...methods.build import build
from .metrics import registry as metrics

Revisions = dict[str, dict[str, int]]


def revisions_of(dataset: str, architecture: str, method: str, options: Mapping[str, Any]) -> Revisions:
    """Revisions beyond the first, by kind and name, of a cell whose method has these `options`."""
    like = options.get("like")
    found = {
        "dataset": datasets.revisions(dataset),
        "architecture": architectures.revisions(architecture),
        "method": methods.revisions(method) | (methods.revisions(like) if isinstance(like, str) else {}),
        "inference": _of_inference(method, options),
        "metric": {entry.name: entry.revision for entry in metrics.catalogue().values() if entry.revision != 1},
    }
    return {kind: dict(sorted(revisions.items())) for kind, revisions in found.items() if revisions}


def _of_inference(method: str, options: Mapping[str, Any]) -> dict[str, int]:
    """None of a method that cannot be built: its cell will say why."""
    try:
        return type(build(method, **options).inference()).revisions()
    except UsageError:
        return {}
