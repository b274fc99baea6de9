"""Positions along the axes of tensors, and which of them can only leave together.

Every axis of every parameter and floating-point buffer has numbered positions. A `Track` says, for the elements of any
tensor computed from them, to which position each element belongs: an array with as many axes as the tensor, of full
length along the axes on which positions vary and of length one along all others; 0 stands for what always stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Track = np.ndarray
STAYS = 0


@dataclass(eq=False)
class Site:
    """An axis of a parameter or buffer.

    Attributes:
        name: The tensor.
        axis: The axis.
        nodes: Numbers of its positions.
        is_buffer: Whether the tensor is a buffer.
        writes: Whether a layer computes these positions, as rows of its weight.
        is_computed: Whether the weight that a layer applies depends on all of them at once.
    """

    name: str
    axis: int
    nodes: np.ndarray
    is_buffer: bool = False
    writes: bool = False
    is_computed: bool = False


@dataclass(eq=False)
class Positions:
    """A union-find forest over all positions, with what is known of each.

    Attributes:
        sites: The axes that have positions.
        written: Positions that a layer computes: rows of weights.
        heads: Positions that products of matrices run over in parallel, as the heads of attention.
    """

    sites: list[Site] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    heads: set[int] = field(default_factory=set)
    _parent: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    _kept: np.ndarray = field(default_factory=lambda: np.ones(1, bool))
    _soft: np.ndarray = field(default_factory=lambda: np.zeros(1, bool))
    _by_name: dict[str, list[Site]] = field(default_factory=dict)
    _stays: list[tuple[np.ndarray, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._parent)

    def sites_of(self, name: str) -> list[Site]:
        """The axes of one tensor."""
        return self._by_name.get(name, [])

    def add(self, site: Site) -> None:
        """Take up one more axis."""
        self.sites.append(site)
        self._by_name.setdefault(site.name, []).append(site)

    def fresh(self, n: int, *, soft: bool = False) -> np.ndarray:
        """Numbers of n new positions, shape (n,); soft ones belong to constants, and leave with whatever they meet."""
        new = np.arange(len(self._parent), len(self._parent) + n)
        self._parent = np.concatenate([self._parent, new])
        self._kept = np.concatenate([self._kept, np.zeros(n, bool)])
        self._soft = np.concatenate([self._soft, np.full(n, soft)])
        return new

    def find(self, track: Track) -> Track:
        """The representative of every position, of the same shape."""
        root = self._parent[track]
        while not np.array_equal(root, above := self._parent[root]):
            root = above
        return root

    def tie(self, one: Track, other: Track) -> None:
        """Let positions leave together, pair by pair; `one` and `other` are broadcast."""
        a, b = (each.ravel() for each in np.broadcast_arrays(one, other))
        meets_nothing = (a == STAYS) != (b == STAYS)
        if meets_nothing.any():
            self.stay(np.maximum(a, b)[meets_nothing], "they meet what cannot leave")
        pairs = (a != STAYS) & (b != STAYS)
        a, b = self.find(a[pairs]), self.find(b[pairs])
        kept = np.concatenate([a, b])
        hard, kept = kept[~self._soft[kept]], kept[self._kept[kept]]
        while (apart := a != b).any():
            a, b = a[apart], b[apart]
            high, low = np.maximum(a, b), np.minimum(a, b)
            np.minimum.at(self._parent, high, low)
            a, b = self.find(high), self.find(low)
        self._kept[self.find(kept)] = True
        self._soft[self.find(hard)] = False

    def unify(self, track: Track, axis: int) -> Track:
        """Let all positions along `axis` leave together: what is left of the track, of length one there."""
        first = track.max(axis, keepdims=True)
        self.tie(track, first)
        return first

    def stay(self, track: Track, reason: str, *, above_all: bool = False) -> None:
        """Keep positions from leaving; a reason that is above all is told in the place of those before."""
        nodes = np.unique(track)
        self._stays.insert(0 if above_all else len(self._stays), (nodes, reason))
        self._kept[self.find(nodes)] = True

    def stays(self, track: Track) -> bool:
        """Whether all of them are known to stay."""
        return bool(self._kept[self.find(track)].all())

    def is_soft(self, track: Track) -> bool:
        """Whether they belong to constants, and have met nothing else."""
        return bool(self._soft[self.find(track)].all())

    def rank(self, track: Track) -> tuple[bool, bool, bool, int]:
        """What is preferred where only one of several tracks can leave: the largest."""
        roots = np.unique(self.find(track))
        heads = self.find(np.array(sorted(self.heads), int))
        return not self.stays(track), not self.is_soft(track), bool(np.isin(roots, heads).any()), len(roots)

    def compressed(self, track: Track) -> Track:
        """The track in terms of representatives, of length one wherever they do not vary."""
        track = self.find(track)
        for axis in range(track.ndim):
            first = track.take([0], axis) if track.shape[axis] > 1 else track
            if first is not track and (track == first).all():
                track = first
        return track

    def reasons(self) -> dict[int, str]:
        """Why positions stay, by representative; the first reason that was given."""
        said: dict[int, str] = {}
        for nodes, reason in self._stays:
            for root in self.find(nodes[nodes != STAYS]).tolist():
                said.setdefault(root, reason)
        return said


def support(track: Track) -> tuple[int, ...]:
    """The axes on which positions vary."""
    return tuple(axis for axis, length in enumerate(track.shape) if length > 1)


def placed(track: Track, axes: dict[int, int], dim: int) -> Track:
    """The track on a tensor of `dim` axes, its axis i moved to `axes[i]`; it has length one along all others."""
    kept = [axis for axis in range(track.ndim) if axis in axes and track.shape[axis] > 1]
    values = track.squeeze(tuple(axis for axis in range(track.ndim) if axis not in kept))
    order = np.argsort([axes[axis] for axis in kept])
    values = values.transpose(order) if kept else values
    shape = [1] * dim
    for axis in kept:
        shape[axes[axis]] = track.shape[axis]
    return values.reshape(shape)


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes of two shapes that hold equally many elements each."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        left = right = 1
        while not (old and left == right and (new or j == len(after))):
            if i < len(before) and (left < right or not old):
                left, i = left * before[i], i + 1
                old.append(i - 1)
            elif j < len(after) and (left >= right or i == len(before)):
                right, j = right * after[j], j + 1
                new.append(j - 1)
            elif left == right:
                break
            else:
                raise ValueError(f"{before} cannot be viewed as {after}")
        found.append((old, new))
    return found


def reshaped(track: Track, before: tuple[int, ...], after: tuple[int, ...]) -> Track:
    """The track of a tensor of shape `before` viewed as `after`, spelled out only where positions vary."""
    source, target = [1] * len(before), [1] * len(after)
    for old, new in blocks(before, after):
        if any(track.shape[axis] > 1 for axis in old):
            for axis in old:
                source[axis] = before[axis]
            for axis in new:
                target[axis] = after[axis]
    return np.broadcast_to(track, source).reshape(target)
