"""Progress on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


def bar(total: int) -> Callable[[int], None]:
    """A progress bar over cells; plain lines, at most one per per cent, where there is no terminal."""
    if not total:
        click.echo("Nothing to run: every cell is in the results folder.")
        return lambda n: None
    if not sys.stderr.isatty():
        return _lines(total)
    from tqdm import tqdm

    shown = tqdm(total=total, unit="cell", smoothing=0.1, dynamic_ncols=True)

    def advance(n: int) -> None:
        shown.update(n)
        if shown.n >= total:
            shown.close()

    return advance


def _lines(total: int) -> Callable[[int], None]:
    import time

    start, done, said = time.monotonic(), 0, 0

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        if done * 20 // total > said or done == total:
            said = done * 20 // total
            elapsed = time.monotonic() - start
            left = elapsed / done * (total - done)
            click.echo(f"{done}/{total} cells, {elapsed:.0f} s elapsed, about {left:.0f} s left", err=True)

    return advance
