"""Performance profiles (Dolan and Moré 2002): in which share of the blocks is an entrant how close to the best?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .paired import Array, Block


def gaps(blocks: Sequence[Block]) -> Array:
    """How far each entrant's mean score lies below the best in each block, (blocks, entrants), never negative."""
    means = np.array([block.means.mean(axis=0) for block in blocks])
    return means.max(axis=1, keepdims=True) - means


def profile(blocks: Sequence[Block], within: Array) -> Array:
    """Share of blocks in which an entrant is at most so far below the best, (entrants, len(within))."""
    return (gaps(blocks)[:, :, None] <= np.asarray(within)[None, None, :] + 1e-12).mean(axis=0)
