"""Sequences of tokens: numbered words or characters, padded on the left, and the vocabulary of a training split.

Token 0 is padding, 1 the start of a sentence, 2 whatever the vocabulary does not hold. A source numbers the
tokens of all its text; once the text is split, only what occurs in the training examples keeps a number, so that
the vocabulary tells nothing of the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .errors import UsageError

PADDING, START, UNKNOWN = range(3)
RESERVED = ("<padding>", "<start>", "<unknown>")

Tokens = Sequence[str]


def numbered(texts: Iterable[Tokens]) -> tuple[str, ...]:
    """The vocabulary of some texts: the reserved tokens, then every other once, sorted."""
    return (*RESERVED, *sorted({token for text in texts for token in text} - set(RESERVED)))


def encoded(text: Tokens, vocabulary: Sequence[str]) -> np.ndarray:
    """Numbers of tokens, int64 (len(text),); raises UsageError for a token that the vocabulary does not hold."""
    numbers = {token: number for number, token in enumerate(vocabulary)}
    try:
        return np.fromiter((numbers[token] for token in text), np.int64, len(text))
    except KeyError as error:
        raise UsageError(
            f"token {error.args[0]!r} is not among the {len(vocabulary):,} of the vocabulary; "
            f"replace it by {RESERVED[UNKNOWN]!r}, or give a vocabulary that holds it"
        ) from None


def sentences(name: str, texts: Sequence[Tokens], length: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Sentences as tokens (N, length), a start before each, and their vocabulary.

    Raises UsageError for a sentence without tokens, and for one that is longer.
    """
    vocabulary = numbered(texts)
    numbers = {token: number for number, token in enumerate(vocabulary)}
    x = []
    for position, text in enumerate(texts):
        if not len(text):
            raise UsageError(f"data set {name!r}: sentence {position} is empty; remove it or give it a word")
        x.append([START, *(numbers[token] for token in text)])
    return padded(x, length), vocabulary


def padded(sequences: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Sequences of token numbers with padding on their left, int64 (N, length).

    Raises UsageError for an empty sequence and for one that is longer.
    """
    x = np.full((len(sequences), length), PADDING, np.int64)
    for position, sequence in enumerate(sequences):
        if not 0 < len(sequence) <= length:
            raise UsageError(
                f"sequence {position} has {len(sequence)} tokens; give 1 to {length}, or cut it, or allow a larger "
                "length"
            )
        x[position, length - len(sequence) :] = sequence
    return x


def windows(stream: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint windows of a stream of tokens, (N, length), and what follows each of their tokens, (N, length).

    What is left over at the end is no example.
    """
    count = max(0, (len(stream) - 1) // length)
    x, y = (stream[start : start + count * length].reshape(count, length) for start in (0, 1))
    return x, y


def known(train: np.ndarray, vocabulary: tuple[str, ...], most: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The vocabulary of a training split: its tokens, the most frequent first, at most `most` of them.

    Returns the new number of every old one, int64 (len(vocabulary),), unknown for all that is left out, and the
    new vocabulary, the reserved tokens at its head.
    """
    counts = np.bincount(train.reshape(-1), minlength=len(vocabulary))
    counts[: len(RESERVED)] = 0
    order = np.lexsort((np.arange(len(counts)), -counts))[: np.count_nonzero(counts)][:most]
    numbers = np.full(len(vocabulary), UNKNOWN, np.int64)
    numbers[: len(RESERVED)] = range(len(RESERVED))
    numbers[order] = len(RESERVED) + np.arange(len(order))
    return numbers, (*RESERVED, *(vocabulary[token] for token in order))


def check(name: str, x: np.ndarray, y: np.ndarray, vocabulary: Sequence[str]) -> None:
    """Refuse tokens beyond the vocabulary, empty sequences, padding anywhere but on the left, and padded targets.

    Raises UsageError.
    """
    if tuple(vocabulary[: len(RESERVED)]) != RESERVED or len(vocabulary) == len(RESERVED):
        raise UsageError(f"data set {name!r}: a vocabulary begins with {', '.join(RESERVED)} and names further tokens")
    for array, values in (("x", x), ("y", y))[: y.ndim]:
        outside = np.argwhere((values < 0) | (values >= len(vocabulary)))
        if len(outside):
            example, step = outside[0]
            raise UsageError(
                f"data set {name!r}: token {values[example, step]} in {array} of example {example} is unknown; "
                f"the vocabulary has tokens 0 to {len(vocabulary) - 1}"
            )
    empty = np.flatnonzero((x == PADDING).all(axis=1))
    if len(empty):
        raise UsageError(f"data set {name!r}: example {empty[0]} is empty, all of it is padding; remove it")
    inside = np.argwhere((x[:, 1:] == PADDING) & (x[:, :-1] != PADDING))
    if len(inside):
        raise UsageError(f"data set {name!r}: example {inside[0, 0]} has padding (0) after a token; pad on the left")
    if y.ndim == 2 and (x == PADDING).any():
        raise UsageError(
            f"data set {name!r}: x holds padding (0), but every token of a language model has a target; "
            "give windows of one length"
        )
