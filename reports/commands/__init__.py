"""Commands that set results beside the reference results and the literature; each imports what it needs, when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

_JOBS = click.option("--jobs", type=click.IntRange(min=1), help="Worker processes.  [default: number of cores]")


@click.command()
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
def ledger(
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


@click.command()
@click.option("--tier", "tiers", multiple=True, help="core, real or given; repeatable.  [default: all]")
@click.option(
    "--out", default="reference-results", show_default=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where they are computed; a folder for each matrix in it, resumed if there.",
)  # fmt: skip
@click.option("--pack-only", is_flag=True, help="Compute nothing: pack what is there.")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the packed files go.  [default: the package]",
)
@_JOBS
def reference(tiers: tuple[str, ...], out: Path, pack_only: bool, into: Path | None, jobs: int | None) -> None:
    """Compute the reference results, or go on with them, and pack them into the package.

    Seed by seed: the first seed of every matrix, then the second. Interrupt and call again at any time.
    """
    from ...datasets.errors import unknown
    from ..reference.packing import compute, pack
    from ..reference.results import FOLDER
    from ..reference.tiers import TIERS

    for tier in tiers:
        if tier not in TIERS:
            raise unknown("tier", tier, TIERS)
    chosen = tiers or tuple(TIERS)
    try:
        if not pack_only:
            compute(out, chosen, jobs=jobs, said=click.echo, progress=_bar())
    finally:
        for tier in chosen:
            path, count = pack(out, tier, into or FOLDER)
            click.echo(f"{path}: {count} rows")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="METHOD...|MATRIX")
@click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="A file of further methods; repeatable.")
def cite(names: tuple[str, ...], plugins: tuple[str, ...]) -> None:
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


def _bar() -> Callable[[int], Callable[[int], None]]:
    from ...bench.progress_bar import bar

    return bar


COMMANDS = (cite, ledger, reference)
