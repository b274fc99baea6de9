"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bar(title: str, steps: int, unit: str, show: bool) -> Iterator[Callable[[], None]]:
    """A bar over `steps` of a `unit`; what it yields is called after each of them."""
    with tqdm(total=steps, desc=title, unit=unit, disable=None if show else True, dynamic_ncols=True) as progress:

        def advance() -> None:
            progress.update()

        yield advance
