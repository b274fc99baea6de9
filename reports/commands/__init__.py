"""Commands that set results beside the reference and the literature; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..reference.tiers import TIERS

if TYPE_CHECKING:
    import pandas as pd

    from ..writing.render import Table

_TIERS = f"{', '.join([*TIERS][:-1])} or {[*TIERS][-1]}"
_JOBS = click.option("--jobs", type=click.IntRange(min=1), help="Worker processes.  [default: number of cores]")


@click.command("ledger")
@click.argument("file", required=False)
@click.option(
    "--results", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Results of your own, a folder for each matrix in it; repeatable. The reference results always count.",
)  # fmt: skip
@click.option("--run", "entry", metavar="ENTRY", help="Compute the cells that decide an entry, then judge.")
@click.option(
    "--into", default="ledger-results", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where --run computes; a folder for each matrix in it.",
)  # fmt: skip
@click.option("--out", default="ledger", show_default=True, metavar="FOLDER", help="Where the page goes.")
@_JOBS
def ledger_(
    file: str | None, results: tuple[Path, ...], entry: str | None, into: Path, out: str, jobs: int | None
) -> None:
    """Set published claims beside the records: published, ours, verdict, and the command for each.

    Judges the entries that come with the package, or those of FILE, a YAML list of entries of the same form. A rule is
    written before its run; a number that is only remembered is shown as such and decides nothing.
    """
    from .ledger import evaluate, run_entry

    if entry is not None:
        run_entry(entry, file, into, jobs, _bar())
    folders = [*results, *([into] if into.is_dir() and into not in results else [])]
    said, page = evaluate(file, folders, Path(out))
    click.echo(said)
    click.echo(f"Ledger: {page}")


@click.command("question")
@click.argument("name", required=False)
@click.option(
    "--results", default="question-results", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where its cells are computed; a folder for each matrix in it, resumed if there.",
)  # fmt: skip
@click.option("--out", default="questions", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Where the page goes.")  # fmt: skip
@click.option("--anew", is_flag=True, help="Compute every cell, those too that the package holds.")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it may take; write nothing.")
@_JOBS
def question_(name: str | None, results: Path, out: Path, anew: bool, dry_run: bool, jobs: int | None) -> None:
    """Answer an open question by a rule that was written before the run; without a NAME, list them all.

    Computes the cells that the package does not hold, judges all of them, and writes a page with one picture. The same
    records give the same bytes.
    """
    import os

    from ..reference.results import Reference, shipped
    from . import question as asking

    if name is None:
        for line in asking.listing(shipped()):  # each as soon as it is judged
            click.echo(line)
        return
    reference = Reference((), ()) if anew else shipped()
    cells = asking.todo(asking.named(name), reference)
    if count := sum(map(len, cells.values())):
        click.echo(f"{count} cells to run.")
    if dry_run:
        seconds = asking.estimate(cells, jobs or os.cpu_count() or 1)
        click.echo(f"About {max(seconds, 60) / 60:.0f} minutes.")
        return
    asking.compute(cells, results, jobs, _bar())
    found, page = asking.answer(name, reference, results, out)
    click.echo(f"{found.answer}: {' '.join(found.says)}")
    click.echo(f"Page: {page}")


@click.command("reference")
@click.option("--tier", "tiers", multiple=True, help=f"{_TIERS}; repeatable.  [default: all]")
@click.option(
    "--out", default="reference-results", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where they are computed; a folder for each matrix in it, resumed if there.",
)  # fmt: skip
@click.option("--anew", is_flag=True, help="Compute every cell, those too that the package holds.")
@click.option("--dry-run", is_flag=True, help="Say what the package holds, and what is missing.")
@click.option("--pack-only", is_flag=True, help="Compute nothing: pack what is there.")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the packed files go.  [default: the package]",
)
@_JOBS
def reference_(
    tiers: tuple[str, ...], out: Path, anew: bool, dry_run: bool, pack_only: bool, into: Path | None, jobs: int | None
) -> None:  # fmt: skip
    """Compute the reference results that the package does not hold, and pack them into it.

    Seed by seed: the first seed of every matrix, then the second. Interrupt and call again at any time.
    """
    from ...bench.text_table import aligned
    from ...datasets.errors import unknown
    from ..reference.coverage import HEAD, coverage
    from ..reference.packing import compute, pack
    from ..reference.results import FOLDER, Reference, shipped

    for tier in tiers:
        if tier not in TIERS:
            raise unknown("tier", tier, TIERS)
    chosen = tiers or tuple(TIERS)
    if dry_run:
        rows = [HEAD, *(found.texts() for found in coverage(shipped(), chosen))]
        click.echo("\n".join(aligned(rows, HEAD[2:])))
        return
    try:
        if not pack_only:
            held = Reference((), ()) if anew else shipped()
            compute(out, chosen, held, jobs=jobs, said=click.echo, progress=_bar())
    finally:
        for tier in chosen:
            path, count = pack(out, tier, into or FOLDER)
            click.echo(f"{path}: {count} rows")


@click.command("cite")
@click.argument("names", nargs=-1, required=True, metavar="METHOD...|MATRIX")
@click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="A file of further methods; repeatable.")
def cite_(names: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Print BibTeX of the papers behind methods, or behind all methods, networks and data of a MATRIX.

    \b
    Examples:
        bayesprune cite opd bmrs-u
        bayesprune cite my_matrix.yaml > used.bib
    """
    from ...methods import registry
    from .cite import cite as bibtex_of

    for plugin in plugins:
        registry.load_plugin(plugin)
    click.echo(bibtex_of(names))


@click.command("track")
@click.argument("name", metavar="TRACKER")
@click.argument("results", type=click.Path(path_type=Path))
def track_(name: str, results: Path) -> None:
    """Log every cell of a RESULTS folder to TRACKER (wandb, mlflow or tensorboard): a run for each.

    Its configuration is the cell's settings, its metrics what was measured, its figure the share that each layer
    keeps. A cell that it knows is replaced. `bayesprune run --track TRACKER` logs cells as they are computed.

    \b
    Where to:
        wandb        WANDB_PROJECT and the rest of its variables; WANDB_MODE=offline writes into RESULTS
        mlflow       MLFLOW_TRACKING_URI, or RESULTS/mlflow.db
        tensorboard  RESULTS/tensorboard
    """
    from ...bench.results.store import Store

    keys = sorted(Store(results, create=False).keys())
    told = _bar()(len(keys))
    with tracking([name], results) as watch:
        assert watch is not None
        for key in keys:
            watch(key)
            told(1)


_UNITS = click.option("--structured", is_flag=True, help="Whole neurons, filters and heads instead of single weights.")
_OPTIONS = click.option(
    "--option", "options", multiple=True, metavar="K=V", help="An option of the method; repeatable."
)


@click.command("compare")
@click.argument("method_or_file")
@_OPTIONS
@_UNITS
@click.option(
    "--results", default="compared", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where the cells are computed; resumed, and dense networks in it are shared by all that compare there.",
)  # fmt: skip
@click.option("--out", default="comparison", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Where the report goes.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it may take; write nothing.")
@_JOBS
def compare_(
    method_or_file: str, options: tuple[str, ...], structured: bool, results: Path, out: Path, dry_run: bool,
    jobs: int | None,
) -> None:  # fmt: skip
    """Set a method among the reference results: METHOD_OR_FILE is a name, or a plug-in file of your own.

    Runs it on the blocks, sparsities and seeds of CORE that the reference has, under the same protocol, and writes a
    report with its standing among all, with intervals. Nothing that the reference has is computed again.
    """
    import os

    from ..reference.results import shipped
    from . import compare as comparing
    from .entrants import entrants

    found = entrants(method_or_file, _parsed(options))
    planned = comparing.plan(found, "groups" if structured else "weights", shipped())
    plugins = [found.plugin] if found.plugin else []
    if planned.todo:
        workers = jobs or os.cpu_count() or 1
        seconds = comparing.estimate(planned, workers)
        click.echo(f"{len(planned.todo)} cells, about {max(seconds, 60) / 60:.0f} minutes with {workers} jobs.")
    if dry_run:
        return
    comparing.compute(planned, results, jobs, plugins, _bar())
    says, page = comparing.standings(planned, results, out)
    for text in says:
        click.echo(text)
    click.echo(f"Report: {page}")


@click.command("submit")
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("method_or_file")
@_OPTIONS
@_UNITS
@click.option("--out", default="submission.json.gz", show_default=True, type=click.Path(path_type=Path),
              metavar="FILE", help="The file to write.")  # fmt: skip
def submit_(results: Path, method_or_file: str, options: tuple[str, ...], structured: bool, out: Path) -> None:
    """Pack what `compare` left in RESULTS for METHOD_OR_FILE into one file: records, source, environment.

    Whoever receives it recomputes some of its cells, which nobody can choose: `bayesprune verify FILE`.
    """
    from ..reference.results import shipped
    from .entrants import entrants
    from .submission import submit as pack

    found = entrants(method_or_file, _parsed(options))
    count = pack(results, found, "groups" if structured else "weights", shipped(), out)
    click.echo(f"{out}: {count} cells")


@click.command("verify")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--sample", type=click.IntRange(min=1), help="How many cells.  [default: 50; of a submission 44]")
@click.option("--cell", metavar="KEY", help="One reference cell, by the beginning of its key.")
@click.option("--tier", default="core", show_default=True, help=f"The tier whose cells are recomputed: {_TIERS}.")
@click.option("--seed", type=int, help="Seed of the choice of cells.  [default: another one every time]")
@click.option("--execute-source", is_flag=True, help="Execute the plug-in source that a submission holds.")
@click.option(
    "--results", default="verified", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where the cells are computed again; resumed.",
)  # fmt: skip
@_JOBS
def verify_(
    file: Path | None, sample: int | None, cell: str | None, tier: str, seed: int | None, execute_source: bool,
    results: Path, jobs: int | None,
) -> None:  # fmt: skip
    """Recompute random cells of the reference results, or cells of a submission FILE, and compare.

    Equal to the bit on the same class of machine; on another, within a rounding that is stated. Exit code 1 if a cell
    differs.
    """
    from .recompute import recompute, summary

    rows, plugins = _rows_to_verify(file, sample, cell, tier, seed, execute_source, results)
    found = recompute(rows, results, jobs, plugins, _bar())
    for one in found:
        if one.why:
            where = f"{one.row['method']} on {one.row['dataset']}, {one.row['architecture']}, seed {one.row['seed']}"
            click.echo(f"  {one.outcome}: {one.row['key'][:12]}, {where}: {one.why}")
    click.echo(summary(found))
    if any(one.outcome in ("differs", "another revision") for one in found):
        sys.exit(1)


def _rows_to_verify(
    file: Path | None, count: int | None, cell: str | None, tier: str, seed: int | None, execute: bool, results: Path
) -> tuple[list[dict], list[Path]]:
    from ...datasets.errors import UsageError, unknown
    from ..reference.results import shipped
    from .entrants import refuse_strangers
    from .recompute import chosen_by_hash, sample
    from .submission import CHECKED, load_submission, unpacked_plugin

    if file is None:
        if tier not in TIERS:
            raise unknown("tier", tier, TIERS)
        if cell is not None:
            return [shipped().row(cell)], []
        return sample(shipped().of(*TIERS[tier]).rows, count or 50, seed), []
    found = load_submission(file)
    if found.plugin and not execute:
        raise UsageError(
            f"{file} holds the source of a plug-in, {found.plugin[0]}, which its cells need: read it, and give "
            "--execute-source if you want to run it"
        )
    refuse_strangers(found.rows)
    return chosen_by_hash(found.rows, found.digest, count or CHECKED), unpacked_plugin(found, _beside(results))


def _beside(results: Path) -> Path:
    folder = results.with_name(f"{results.name}-plugin")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _parsed(options: tuple[str, ...]) -> dict:
    from ...bench.spec.option_text import parsed

    return parsed(options)


def among_the_reference(frame: pd.DataFrame) -> list[Table]:
    """Where the methods of some records stand in the reference results; nothing where fewer than two of them do."""
    from ..records.frame import labels, prepare, pruned
    from ..reference.results import shipped
    from .among import reference_standings

    return reference_standings(labels(pruned(prepare(frame))), shipped())


def ledger_page(out: Path) -> dict[str, str]:
    """Write the ledger as a page of a report in `out`; returns its file with its title."""
    from .ledger import TITLE, evaluate

    _, page = evaluate(None, (), out, "ledger.html")
    return {page.name: TITLE}


def tracking(names: Sequence[str], folder: Path) -> AbstractContextManager[Callable[[str], None] | None]:
    """A function that tells trackers of every record, if there are trackers to tell."""
    if not names:
        return nullcontext()
    from ..tracking.tracking import tracking as begun

    return begun(names, folder)


def _bar() -> Callable[[int], Callable[[int], None]]:
    from ...bench.progress_bar import bar

    return bar


COMMANDS = (cite_, compare_, verify_, submit_, ledger_, question_, reference_, track_)
