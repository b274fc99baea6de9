"""The page that lists what `bayesprune` exports, in the order of its source, with a summary of each."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import bayesprune

HEAD = """API reference
=============

Everything that scripts and plug-ins need is an attribute of ``bayesprune``; where it lives may change.
"""


def page() -> str:
    """The groups of `_HOMES`, whose comments name them, each with a table that links to a page for every name."""
    source = Path(inspect.getfile(bayesprune)).read_text().partition("_HOMES = {")[2].partition("\n}")[0]
    groups = re.findall(r"# (.+)\n((?:    \".*\n?)+)", source)
    return "\n".join([HEAD, *(_group(heading.capitalize(), names) for heading, names in groups)])


def _group(title: str, names: str) -> str:
    listed = "\n".join(f"   {name}" for name in re.findall(r'^    "(\w+)":', names, re.MULTILINE))
    table = f".. currentmodule:: bayesprune\n\n.. autosummary::\n   :toctree: api\n\n{listed}\n"
    return f"{title}\n{'-' * len(title)}\n\n{table}"
