"""Language models of characters: the next character of a text, in three stretches that follow each other.

The first 80 % of a text are for training, the next 10 % for validation, the last 10 % for the test, whatever the
seed; each stretch is cut into windows of `length` characters, and no window reaches into another stretch. Windows
are examples of their own: a network sees nothing of what stands before them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from . import register
from .errors import UsageError, one_line
from .files import data_root
from .source import Source
from .tokens import encoded, numbered, windows

SHARES = (0.8, 0.9)  # of the text: where training and validation end
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
MODULES = (
    "argparse", "calendar", "difflib", "fractions", "optparse", "random", "statistics", "textwrap", "threading",
)  # fmt: skip


@register("tinyshakespeare")
def tinyshakespeare(*, length: PositiveInt = 100) -> Source:
    """Tiny Shakespeare, 1 115 394 characters of 65 kinds, next character (Karpathy, 2015).

    Paper: karpathy2015unreasonable
    """
    path = data_root() / "tinyshakespeare" / "input.txt"
    if not path.exists():
        raise UsageError(
            f"data set 'tinyshakespeare' is not in {data_root()}: {path.relative_to(data_root())} is missing; fetch it "
            f"with `curl --create-dirs -o {path} {SHAKESPEARE}`, or let BAYESPRUNE_DATA name the folder that holds it"
        )
    return characters("tinyshakespeare", _read("tinyshakespeare", path), length)


@register("docstrings")
def docstrings(*, length: PositiveInt = 50) -> Source:
    """Docstrings of Python's own standard library, about 100 000 characters, next character (no file needed).

    Of fixed modules, read from their source without importing them. The text is that of the Python that runs:
    another version has another one, which the data set's digest records.
    """
    return characters("docstrings", _docstrings(), length)


@register("text:<path>")
def text(*, path: str, length: PositiveInt = 100) -> Source:
    """Your text file (UTF-8), next character."""
    name = f"text:{path}"
    return characters(name, _read(name, Path(path).expanduser()), length)


def characters(name: str, content: str, length: int) -> Source:
    """Windows of a text for a language model of characters; raises UsageError if it is too short."""
    if not content:
        raise UsageError(f"data set {name!r} is empty; give a text of at least {20 * (length + 1):,} characters")
    vocabulary = numbered([content])
    stream = encoded(content, vocabulary)
    stretches = np.split(stream, [round(share * len(stream)) for share in SHARES])
    parts = [windows(stretch, length) for stretch in stretches]
    if not all(len(x) for x, _ in parts):
        raise UsageError(
            f"data set {name!r}: {len(content):,} characters are too few for windows of {length} in three stretches; "
            "give a shorter length or a longer text"
        )
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    train, validation, test = np.split(np.arange(len(x)), np.cumsum([len(part) for part, _ in parts])[:2])
    return Source(x=x, y=y, vocabulary=vocabulary, folds=((train, test),), validation=validation)


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data set {name!r}: {path} cannot be read as UTF-8 text: {one_line(error)}") from error


@functools.cache
def _docstrings() -> str:
    library = Path(sysconfig.get_path("stdlib"))
    paths = [library / f"{module}.py" for module in MODULES]
    found = [doc for path in paths if path.exists() for doc in _documented(path)]
    if not found:
        raise UsageError(
            f"data set 'docstrings': {library} does not hold the sources of Python's standard library; "
            "use a Python that has them, or text:<path>"
        )
    return "\n\n".join(found) + "\n"


def _documented(path: Path) -> Iterator[str]:
    """The docstrings of a source file, in its order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    owners = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    for node in sorted(owners, key=lambda owner: getattr(owner, "lineno", 0)):
        if doc := ast.get_docstring(node, clean=False):
            yield inspect.cleandoc(doc)
