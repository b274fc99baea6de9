"""Tokens as inputs: embedded or one-hot, with a vocabulary from which words may leave.

`present` holds the numbers, sorted, of the words that still have a row of the embedding, or a place among the one-hot
inputs. All others are read as zeros. A word is thus cut out like a neuron: its row and its place in `present` go.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Words(nn.Embedding):
    """An embedding of words: a linear layer without bias on one-hot inputs, whose entries may be pruned.

    Args:
        vocabulary: Number of words V.
        dimensions: Length of a word's vector.
    """

    present: Tensor

    def __init__(self, vocabulary: int, dimensions: int):
        super().__init__(vocabulary, dimensions)
        self.vocabulary = vocabulary
        self.register_buffer("present", torch.arange(vocabulary))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vectors, shape (N, T, dimensions), of words x, int64 (N, T); zeros for those that have left."""
        places, found = located(x, self.present, self.vocabulary)
        vectors = super().forward(places)
        return vectors if found is None else vectors * found.to(vectors.dtype)


class OneHot(nn.Module):
    """Words as they are: a one in the place of the word among zeros.

    Args:
        vocabulary: Number of words V.
    """

    present: Tensor
    one: Tensor

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("present", torch.arange(vocabulary))
        self.register_buffer("one", torch.ones(()), persistent=False)  # of the type that the network computes in

    def forward(self, x: Tensor) -> Tensor:
        """Ones and zeros, shape (N, T, words present), of words x, int64 (N, T); zeros for those that have left."""
        places, found = located(x, self.present, self.vocabulary)
        vectors = F.one_hot(places, len(self.present)).to(self.one.dtype)
        return vectors if found is None else vectors * found.to(vectors.dtype)


def located(x: Tensor, present: Tensor, vocabulary: int) -> tuple[Tensor, Tensor | None]:
    """Places in `present` of words x (N, T), and whether they are there, (N, T, 1); None where all words are."""
    if len(present) == vocabulary:
        return x, None
    places = torch.searchsorted(present, x).clamp_max(len(present) - 1)
    return places, (present[places] == x).unsqueeze(-1)
