"""Who enters: a registered method, or those of a plug-in file; and the cells of CORE that they are run on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.errors import UsageError
from ...datasets.registry import plugin_source
from ..reference.results import Reference
from ..reference.rows import Row

if TYPE_CHECKING:
    from ...bench.spec.run import Run

MATRICES = {"weights": "reference-core-weights", "groups": "reference-core-groups"}


@dataclass(frozen=True)
class Entrants:
    """Methods as a matrix names them, the file that they come from, and the labels they have in tables."""

    methods: tuple[dict[str, Any], ...]
    plugin: Path | None
    labels: tuple[str, ...] = ()


def entrants(name_or_file: str, options: Mapping[str, Any]) -> Entrants:
    """The methods to compare, each with these options.

    Raises UsageError for an unknown name, and a file that does not load or registers none.
    """
    from ...methods import registry

    path = Path(name_or_file)
    if path.suffix != ".py" and not path.is_file():
        registry.resolve(name_or_file)
        return Entrants(({"name": name_or_file, **options},), None)
    module = registry.load_plugin(path, plugin_source(path.resolve())).__name__
    found = [name for name, entry in registry.catalogue().items() if entry.module == module]
    if not found:
        raise UsageError(f"plug-in {path} registers no method; decorate a function with @register('name')")
    return Entrants(tuple({"name": name, **options} for name in found), path)


def cells(found: Entrants, units: str, seeds: Iterable[int]) -> list[Run]:
    """The cells of CORE's headline, R = T, for these methods; raises UsageError for options that they do not have."""
    from ...bench.spec.matrix import load_matrix
    from ...bench.spec.run import Choice

    shipped = load_matrix(MATRICES[units])
    chosen = [Choice(name=m["name"], options={n: v for n, v in m.items() if n != "name"}) for m in found.methods]
    headline = shipped.protocol.model_copy(update={"curve": []}) if shipped.protocol else None
    changes = {"methods": chosen, "seeds": sorted(set(seeds)), "protocol": headline}
    return shipped.model_copy(update=changes).cells()


def refuse_collisions(runs: Sequence[Run], reference: Reference) -> None:
    """Raises UsageError where a method has the label of a reference row and is not what made it."""
    known = {(row["method"], row["dataset"], row["architecture"], row["seed"], row.get("sparsity_target")): row
             for row in reference.rows}  # fmt: skip
    for r in runs:
        target = None if r.sparsity == "auto" else r.sparsity
        row = known.get((r.method.label, r.dataset.label, r.architecture.label, r.seed, target))
        if row is None or row["key"] == r.key:
            continue
        if "method" in r.sources or "method" in (row["run"].get("sources") or {}):
            raise UsageError(
                f"the method name {r.method.label!r} is taken by a reference row; register it under another"
            )
        raise UsageError(
            f"the reference rows of {r.method.label!r} are of revisions {_revisions(row.get('revisions'))}, this "
            f"program has {_revisions(r.revisions)}: update bayesprune, or make them anew with `make reference`"
        )


def refuse_strangers(rows: Iterable[Row]) -> None:
    """Raises UsageError for a row that is no cell of CORE: nothing else that a file names is built or imported."""
    from ...bench.spec.matrix import load_matrix

    known = {_place(r.model_dump(mode="json")) for name in MATRICES.values() for r in load_matrix(name).cells()}
    for row in rows:
        if not isinstance(run := row.get("run"), dict) or _place(run) not in known:
            raise UsageError(
                f"the row of {row['method']} on {row['dataset']}, {row['architecture']}, seed {row['seed']}, is no "
                "cell of CORE: it is of another protocol, or of another version of the reference matrices"
            )


def _place(run: Mapping[str, Any]) -> str:
    """A cell without its method, as text."""
    return json.dumps({name: value for name, value in run.items() if name != "method"}, sort_keys=True)


def _revisions(found: Mapping[str, Mapping[str, int]] | None) -> str:
    named = [f"{name} {n}" for names in (found or {}).values() for name, n in names.items()]
    return ", ".join(named) or "1 of everything"
