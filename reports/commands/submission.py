"""A submission: one file with records, the source of the plug-in and the environment, that anybody can check."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...bench.results.columns import misfit
from ...bench.results.integrity import canonical, sha256
from ...bench.results.scores import scores_of
from ...bench.results.store import Store
from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError
from ..reference.results import Reference
from ..reference.rows import Row, row_of, scores_in
from .compare import plan
from .entrants import MATRICES, Entrants

SCHEMA = 1
CHECKED = 44  # of 300 cells of which a tenth is forged these hold a forged one with probability .99
LARGEST = 1 << 28
PACKAGES = ("torch", "numpy", "scipy", "laplace-torch", "timm", "torchvision")


@dataclass(frozen=True)
class Submission:
    """What a file holds.

    Attributes:
        digest: of the file, which chooses the cells that are recomputed.
        rows: as those of the reference.
        plugin: name and source of the plug-in file, None for methods of the package.
        environment: versions and machine.
    """

    digest: str
    rows: tuple[Row, ...]
    plugin: tuple[str, str] | None
    environment: Mapping[str, str]


def submit(results: Path, entrants: Entrants, units: str, reference: Reference, file: Path) -> int:
    """Write the file of an entrant's cells of CORE from a results folder; returns how many cells.

    Raises UsageError where cells are missing, or were computed under another protocol, and for folders that are none.
    """
    store = Store(results, create=False)
    records = {r["key"]: r for r in store.records()}
    wanted = plan(entrants, units, reference).runs
    _refuse_gaps([(r.key, r.method.label, r.dataset.label, r.architecture.label, r.seed) for r in wanted], records)
    rows = [row_of(records[r.key], MATRICES[units], scores_of(store, records[r.key])) for r in wanted]
    source = entrants.plugin.read_text(encoding="utf-8") if entrants.plugin else None
    said = {
        "plugin": {"name": entrants.plugin.name, "source": source} if entrants.plugin else None,
        "environment": _environment(),
        "rows": rows,
    }
    body = canonical(said).encode()
    head = {"submission": SCHEMA, "bayesprune": __version__, "sha256": sha256(body)}
    write_atomically(file, gzip.compress(canonical(head).encode() + b"\n" + body, mtime=0))
    return len(rows)


def _refuse_gaps(wanted: Sequence[tuple[str, str, str, str, int]], records: Mapping[str, Mapping[str, Any]]) -> None:
    lacking = [cell for cell in wanted if cell[0] not in records]
    if not lacking:
        return
    faces = {(r["method"], r["dataset"], r["architecture"], r["seed"]): r for r in records.values()}
    for _, method, dataset, architecture, seed in lacking:
        if (other := faces.get((method, dataset, architecture, seed))) is not None:
            raise UsageError(
                f"{method} on {dataset}, {architecture}, was computed under another protocol ({_budget(other)}): "
                "compute it with `bayesprune compare`"
            )
    seeds = sorted({cell[4] for cell in lacking})
    raise UsageError(
        f"{len(lacking)} of {len(wanted)} cells are missing, of seeds {', '.join(map(str, seeds))}: `bayesprune "
        "compare` computes them"
    )


def _budget(record: Mapping[str, Any]) -> str:
    run = record.get("run") or {}
    training, finetune = (run.get(phase, {}) for phase in ("training", "finetune"))
    return f"{training.get('epochs')} epochs, {training.get('schedule')}, then {finetune.get('epochs')}"


def _environment() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "platform": platform.platform(), "bayesprune": __version__, **versions}


def load_submission(path: Path) -> Submission:
    """Read a submission, executing nothing; raises UsageError for a file that is none, damaged or of a newer schema."""
    try:
        content = path.read_bytes()
        with gzip.open(path) as file:
            first, _, body = file.read(LARGEST).partition(b"\n")
        head = json.loads(first)
        if head["submission"] > SCHEMA:
            raise UsageError(
                f"{path} is a submission of schema {head['submission']}, this program reads {SCHEMA}: update bayesprune"
            )
        if sha256(body) != head["sha256"]:
            raise ValueError("its checksum is of something else")
        return _checked(json.loads(body), sha256(content))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no submission, or damaged: {error}; `bayesprune submit` writes one") from error


def _checked(said: Mapping[str, Any], digest: str) -> Submission:
    for row in said["rows"]:
        if wrong := misfit(row):
            raise ValueError(f"the {wrong} of a row is none")
        scores_in(row)
    plugin = said["plugin"]
    source = (str(plugin["name"]), str(plugin["source"])) if plugin else None
    return Submission(digest, tuple(said["rows"]), source, dict(said["environment"]))


def unpacked_plugin(submission: Submission, folder: Path) -> list[Path]:
    """The plug-in as a file in `folder`, for whoever has decided to execute it; none of methods of the package."""
    if submission.plugin is None:
        return []
    name, source = submission.plugin
    path = folder / f"{Path(name).stem}.py"
    write_atomically(path, source.encode())
    return [path]
