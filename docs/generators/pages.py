"""A page for every method, architecture and data set of the registries, and the tables that list them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from bayesprune.architectures import registry as architectures
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.described import Described, described
from bayesprune.datasets.registry import BUILT_IN, Entry, Registry
from bayesprune.methods import registry as methods
from bayesprune.methods.build import build
from bayesprune.reports.records.frame import Records
from bayesprune.reports.writing.bibliography import SHIPPED, bibtex, references

from . import reference
from .markdown import code, figure, formula, pipes, prose, slug, table, values

DOCS = Path(__file__).parents[1]
KINDS: Mapping[str, tuple[Registry, str]] = {
    "methods": (methods, "Methods"),
    "architectures": (architectures, "Architectures"),
    "datasets": (datasets, "Data sets"),
}
# Names that stand for files and code of the user.
USERS_OWN = re.compile("<(path|function)>")
COLUMNS = {"methods": "label", "architectures": "architecture", "datasets": "dataset"}


def write(out: Path) -> None:
    """Write all pages below `out`, a folder of the documentation."""
    for kind, (registry, title) in KINDS.items():
        folder = out / kind
        folder.mkdir(parents=True, exist_ok=True)
        entries = list(registry.catalogue().values())
        for entry in entries:
            (folder / f"{slug(entry.name)}.md").write_text(page(kind, entry, out))
        (folder / "index.md").write_text(index(kind, title, entries))


def page(kind: str, entry: Entry, out: Path) -> str:
    """The page of one entry; charts are written below `out`."""
    says = described(entry)
    origin = [] if entry.origin == BUILT_IN else [f"From the installed plug-in {code(entry.origin)}."]
    parts = [f"# {code(entry.name)}", prose(entry.summary), *origin]
    parts += [f":::{{admonition}} Formula\n:class: formula\n{formula(says.formula)}\n:::"] if says.formula else []
    parts += [*map(prose, says.prose), *_options(kind, entry)]
    parts += _checked(says) if kind == "methods" else []
    return "\n\n".join([*parts, *_results(kind, entry, out), *_cite(entry, says)]) + "\n"


def index(kind: str, title: str, entries: Iterable[Entry]) -> str:
    """The list of a kind, with the words that belong to all of it."""
    entries = list(entries)
    traits = _traits if kind == "methods" else lambda name: ()
    head = ("name", "what it is", *(("when", "auto") if kind == "methods" else ()))
    rows = [(f"[{code(e.name)}]({slug(e.name)}.md)", prose(e.summary), *traits(e.name)) for e in entries]
    tree = "\n".join(f"{e.name.translate({60: None, 62: None})} <{slug(e.name)}>" for e in entries)
    words = (DOCS / "templates" / f"{kind}.md").read_text().strip()
    return f"# {title}\n\n{words}\n\n{pipes(head, rows)}\n\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"


def _traits(name: str) -> tuple[str, str]:
    """When units leave, and whether the method has a threshold of its own."""
    pruner = build(name.replace("<criterion>", "opd"))
    return pruner.when, "yes" if pruner.decides else "no"


@cache
def _meanings() -> dict[str, Any]:
    return yaml.safe_load((DOCS / "options.yaml").read_text())


def _options(kind: str, entry: Entry) -> list[str]:
    shared = ["Beside its own it takes the [options of the schedule](/matrix.md)."] if kind == "methods" else []
    if not entry.options:
        return ["## Options", "It has no options of its own.", *shared]
    known = _meanings()[kind]["shared"] | _meanings()[kind].get(entry.name, {}) if entry.origin == BUILT_IN else {}
    parted = [(name, *text.partition(" = ")[::2]) for name, text in entry.options.items()]
    rows = [
        (code(name), code(values(kinds)), code(default), prose(known.get(name, ""))) for name, kinds, default in parted
    ]
    return ["## Options", pipes(("option", "values", "default", "meaning"), rows), *shared]


def _checked(says: Described) -> list[str]:
    deviations = says.deviations or "nothing is said of them."
    tests = [f"- {code(oracle)}" for oracle in says.oracles] or ["No test is named."]
    return [
        "## Deviations from the published code", prose(deviations[0].upper() + deviations[1:]),
        "## Tests that guard it", "\n".join(tests),
    ]  # fmt: skip


def _results(kind: str, entry: Entry, out: Path) -> list[str]:
    registry, column, name = KINDS[kind][0], COLUMNS[kind], entry.name
    if USERS_OWN.search(name):
        return []
    path = out / "charts" / f"{kind}-{slug(name)}.svg"

    def shows(records: Records) -> pd.Series:
        return records[column].map(lambda label: reference.base(label, registry)) == name

    caption = reference.chart(shows, path)
    if caption is None:
        return [
            "## Reference results",
            "There are no reference results for it yet; see [all standings](/generated/standings.md).",
        ]
    picture = figure(f"/{path.relative_to(DOCS)}", f"{name}: quality against sparsity", caption)
    lines = map(table, reference.standing_of(name)) if kind == "methods" else ()
    return ["## Reference results", picture, *lines, "Beside all others: [standings](/generated/standings.md)."]


def _cite(entry: Entry, says: Described) -> list[str]:
    if not says.papers:
        return []
    shipped = references(SHIPPED)
    keys = ", ".join(f"{{cite:t}}`{key}`" if key in shipped else key for key in says.papers)
    name = entry.name.replace("<criterion>", "opd")
    how = f"`bayesprune cite {name}` prints:" if entry.name in methods.catalogue() else "BibTeX:"
    return ["## How to cite", f"{keys}. {how}", f"```bibtex\n{bibtex([entry])}\n```"]


def standings() -> str:
    """The page of all standings."""
    found = [*map(table, reference.standings())] or ["There are no reference results yet."]
    return "\n\n".join(["# Standings", *found]) + "\n"
