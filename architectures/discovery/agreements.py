"""What must agree once it is known along which axis positions leave.

Channels viewed as (heads, width) leave by heads or by places inside all heads, channels in groups by whole groups or
by places inside all groups. What follows in the network mostly decides it; what meets such a view on one axis only
waits until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .positions import Positions, Track, support


class Agreement(Protocol):
    """Something that waits for a decision."""

    def settle(self, positions: Positions) -> bool:
        """Do what can be done by now; whether that was all."""
        ...

    def decide(self, positions: Positions) -> None:
        """Choose, where nothing else has chosen."""
        ...


def settle(positions: Positions, agreements: Sequence[Agreement]) -> None:
    """Settle all of them, choosing where nothing else chooses, in their order."""
    pending = list(agreements)
    while pending:
        waiting = [each for each in pending if not each.settle(positions)]
        if len(waiting) == len(pending):
            waiting[0].decide(positions)
        pending = waiting


@dataclass(frozen=True, eq=False)
class Grid:
    """Elements of a tensor stay a grid: positions leave along one axis only, the longest if it is not decided."""

    track: Track

    def settle(self, positions: Positions) -> bool:
        """Whether they vary along one axis, or stay all the same."""
        return len(support(positions.compressed(self.track))) < 2 or positions.stays(self.track)

    def decide(self, positions: Positions) -> None:
        """Keep the longest axis."""
        track = positions.compressed(self.track)
        keep = int(np.argmax(track.shape))
        for axis in support(track):
            if axis != keep:
                track = positions.unify(track, axis)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Elements that meet, of which `small` varies along some of the axes of `large` only."""

    large: Track
    small: Track
    reason: str

    def settle(self, positions: Positions) -> bool:
        """Tie them where both vary along one axis; what the large one does not follow stays."""
        large, small = positions.compressed(self.large), positions.compressed(self.small)
        axes = support(large)
        if len(axes) > 1 and not positions.stays(large):
            return not support(small)
        if len(axes) == 1 and axes[0] in support(small):
            for axis in set(support(small)) - set(axes):
                small = positions.unify(small, axis)
            positions.tie(large, small)
        else:
            positions.stay(small, self.reason)
        return True

    def decide(self, positions: Positions) -> None:
        """The large one decides as a grid does."""
        Grid(self.large).decide(positions)


@dataclass(frozen=True, eq=False)
class Bounded:
    """Elements that meet others which have all their positions along `axes`."""

    track: Track
    axes: frozenset[int]
    reason: str

    def settle(self, positions: Positions) -> bool:
        """They stay if they vary along these axes."""
        axes = set(support(positions.compressed(self.track)))
        if positions.stays(self.track):
            return True
        if axes <= self.axes:
            positions.stay(self.track, self.reason)
        return axes <= self.axes or not axes & self.axes

    def decide(self, positions: Positions) -> None:
        """As a grid does."""
        Grid(self.track).decide(positions)


@dataclass(frozen=True, eq=False)
class Grouped:
    """What a grouped convolution reads and writes, both seen as (group, place): whole groups leave, or places.

    Attributes:
        reads: Shape (groups, read), or None if what it reads stays.
        writes: Shape (groups, written).
        inner: The axis of the weight that has one group only, shape (read,) or (written,).
        inner_reads: Which of both.
        reason: Why places stay where whole groups leave.
    """

    reads: Track | None
    writes: Track
    inner: Track
    inner_reads: bool
    reason: str

    def settle(self, positions: Positions) -> bool:
        """Follow whichever side is decided."""
        if self.reads is None:
            self._places(positions)
            return True
        for side in (self.reads, self.writes):
            axes = support(positions.compressed(side))
            if len(axes) > 1 and positions.stays(side):
                positions.stay(np.concatenate([self.reads.ravel(), self.writes.ravel(), self.inner]), self.reason)
                return True
            if axes == (0,):
                self._whole(positions)
                return True
            if len(axes) < 2:
                self._places(positions)
                return True
        return False

    def decide(self, positions: Positions) -> None:
        """Whole groups, unless there are more places than groups."""
        assert self.reads is not None
        groups = len(self.reads)
        if groups >= min(self.reads.shape[1], self.writes.shape[1]):
            self._whole(positions)
        else:
            self._places(positions)

    def _whole(self, positions: Positions) -> None:
        assert self.reads is not None
        positions.tie(positions.unify(self.reads, 1), positions.unify(self.writes, 1))
        positions.stay(self.inner, self.reason)

    def _places(self, positions: Positions) -> None:
        writes = positions.unify(self.writes, 0)
        reads = None if self.reads is None else positions.unify(self.reads, 0)
        side = reads if self.inner_reads else writes
        if side is None:
            positions.stay(self.inner, self.reason)
        else:
            positions.tie(side[0], self.inner)


@dataclass(frozen=True, eq=False)
class Parts:
    """An axis cut into parts of equal length, in which the same places leave; unequal parts leave freely.

    Attributes:
        track: The positions along the axis, shape (n,).
        cuts: Where it is cut; more may be added before this is settled.
    """

    track: Track
    cuts: set[int]

    def settle(self, positions: Positions) -> bool:
        """Tie the parts place by place."""
        points = sorted(self.cuts | {0, len(self.track)})
        lengths = set(np.diff(points).tolist())
        if len(lengths) == 1:
            positions.unify(self.track.reshape(-1, lengths.pop()), 0)
        return True

    def decide(self, positions: Positions) -> None:
        """Nothing is left to choose."""
