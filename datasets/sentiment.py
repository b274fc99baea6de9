"""Sentiment of sentences: two classes of texts, words as they are separated in the published files.

A sentence is a start and its first words, at most `length` tokens in all; the vocabulary has the `vocabulary` most
frequent words of the training split, and all others are one unknown word.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from . import register
from .errors import UsageError, one_line
from .files import data_root
from .source import Source
from .tokens import sentences

CLASSES = ("negative", "positive")
Length = Annotated[int, Field(ge=2)]  # of a sentence, its start counted
Labelled = list[tuple[str, int]]
ORIGINS = {
    "sst2": "https://github.com/clairett/pytorch-sentiment-classification (data/SST2)",
    "mr-polarity": "https://www.cs.cornell.edu/people/pabo/movie-review-data (rt-polaritydata)",
    "imdb": "https://ai.stanford.edu/~amaas/data/sentiment, as lines of JSON with text and label",
}


@register("sst2")
def sst2(*, vocabulary: PositiveInt = 10_000, length: Length = 50) -> Source:
    """Stanford sentiment treebank, 9 613 sentences, 2 classes, published splits (Socher et al., 2013).

    Paper: socher2013recursive
    """
    parts = [_tabbed("sst2", _path("sst2", f"sst2/{part}.tsv")) for part in ("train", "dev", "test")]
    return _source("sst2", parts, vocabulary, length)


@register("mr-polarity")
def mr_polarity(*, vocabulary: PositiveInt = 10_000, length: Length = 50) -> Source:
    """Movie review sentences, 10 662, 2 classes (Pang and Lee, 2005).

    Paper: pang2005seeing
    """
    files = [_path("mr-polarity", f"mr_polarity/rt-polarity.{kind}") for kind in ("neg", "pos")]
    every = [(line, label) for label, path in enumerate(files) for line in _lines("mr-polarity", path, "latin-1")]
    return _source("mr-polarity", [every], vocabulary, length)


@register("imdb")
def imdb(*, vocabulary: PositiveInt = 20_000, length: Length = 200) -> Source:
    """IMDB movie reviews, 25 000 + 25 000, 2 classes, published test split (Maas et al., 2011).

    Paper: maas2011learning
    """
    files = [_path("imdb", f"imdb/{part}.jsonl.xz") for part in ("train", "test")]
    return _source("imdb", [_json_lines("imdb", path) for path in files], vocabulary, length)


@register("sentences:<path>")
def own_sentences(*, path: str, vocabulary: PositiveInt = 10_000, length: Length = 50) -> Source:
    """Your text file (UTF-8) of sentences, a tab and 0 or 1 at the end of each line, 2 classes."""
    name = f"sentences:{path}"
    return _source(name, [_tabbed(name, Path(path).expanduser())], vocabulary, length)


def _source(name: str, parts: Sequence[Labelled], vocabulary: int, length: int) -> Source:
    """From one part (the seed splits), training and test, or training, validation and test."""
    texts = [text.split(maxsplit=length)[: length - 1] for part in parts for text, _ in part]
    x, words = sentences(name, texts, length)
    y = np.array([label for part in parts for _, label in part])
    places = np.split(np.arange(len(y)), np.cumsum([len(part) for part in parts])[:-1])
    return Source(
        x=x,
        y=y,
        classes=CLASSES,
        vocabulary=words,
        most=vocabulary,
        folds=((places[0], places[-1]),) if len(parts) > 1 else (),
        validation=places[1] if len(parts) > 2 else None,
    )


def _tabbed(name: str, path: Path) -> Labelled:
    """Lines of text, tab, 0 or 1."""
    found = [line.rpartition("\t")[::2] for line in _lines(name, path, "utf-8-sig")]
    for number, (_, label) in enumerate(found):
        if label not in ("0", "1"):
            raise UsageError(f"data set {name!r}: line {number + 1} of {path} must end in a tab and 0 or 1")
    return [(text, int(label)) for text, label in found]


def _json_lines(name: str, path: Path) -> Labelled:
    try:
        with lzma.open(path, "rt", encoding="utf-8-sig") as file:
            rows = [json.loads(line) for line in file]
        return [(_separated(row["text"]), int(row["label"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, lzma.LZMAError, EOFError) as error:
        raise UsageError(f"data set {name!r}: {path} cannot be read: {one_line(error)}") from error


def _separated(review: str) -> str:
    """Lower case, without line breaks in HTML, punctuation as words of its own."""
    return re.sub(r"([^\w' ])", r" \1 ", review.lower().replace("<br />", " "))


def _lines(name: str, path: Path, encoding: str) -> list[str]:
    try:
        return path.read_text(encoding=encoding).removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data set {name!r}: {path} cannot be read: {one_line(error)}") from error


def _path(name: str, file: str) -> Path:
    """A file of the set, in the data root; raises UsageError with what to do if it is not there."""
    if not (path := data_root() / file).exists():
        raise UsageError(
            f"data set {name!r} is not in {data_root()}: {file} is missing; it comes from {ORIGINS[name]}; "
            "let BAYESPRUNE_DATA name the folder that holds it"
        )
    return path
