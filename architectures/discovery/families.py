"""Groups from couplings: positions that leave together are a unit, units cut out of the same axes a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..units.slices import Group, Slice
from .dependency import OUTPUT
from .sites import Edge, Pieces, Site


@dataclass(frozen=True, eq=False)
class Family:
    """Parallel units, and why none of them can leave.

    Attributes:
        name: unique in a network.
        kind: what one unit is called.
        parts: every site that the units own positions of, with these positions, shape (n, k).
        reason: "" if nothing is known against it.
    """

    name: str
    kind: str
    parts: tuple[tuple[Site, np.ndarray], ...]
    reason: str

    @property
    def size(self) -> int:
        """Number of units n."""
        return len(self.parts[0][1])

    def group(self, tensors: Mapping[str, Tensor]) -> Group:
        """The family as slices of `tensors`."""
        slices = tuple(piece for site, index in self.parts for piece in _cut(site.slices, index, tensors))
        buffers = tuple(piece for site, index in self.parts for piece in _cut(site.buffers, index, tensors))
        return Group(self.name, self.kind, slices, buffers)


def _cut(pieces: Pieces, index: np.ndarray, tensors: Mapping[str, Tensor]) -> Iterator[Slice]:
    for name, axis in pieces:
        yield Slice(name, axis, torch.from_numpy(index), tensors[name].shape)


def families(sites: Sequence[Site], edges: Sequence[Edge], order: Sequence[str]) -> list[Family]:
    """The families of units that `edges` imply, in the `order` of the network's tensors.

    A unit is a connected component of positions. Units that own equally many positions of the same sites
    are parallel; positions that no layer computes, such as the inputs of the network, are no units.
    """
    rank = {name: i for i, name in enumerate(order)}
    sites = sorted(sites, key=lambda site: rank[site.slices[0][0]] if site.slices else len(rank))
    owner, place, unit = _positions(sites, edges)
    reasons = [OUTPUT, *dict.fromkeys(site.reason for site in sites if site.reason not in (OUTPUT, "")), ""]
    why = np.full(len(unit), len(reasons) - 1)
    np.minimum.at(why, unit, np.array([reasons.index(site.reason) for site in sites], int)[owner])
    is_unit = np.bincount(unit, np.array([bool(site.writes) for site in sites])[owner]) > 0
    keep = is_unit[unit] & np.array([bool(site.slices or site.buffers) for site in sites], bool)[owner]
    found = _parallel(owner[keep], place[keep], unit[keep], why)
    return _named([(tuple((sites[s], index) for s, index in parts), reasons[reason]) for parts, reason in found])


def _positions(sites: Sequence[Site], edges: Sequence[Edge]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all positions of all sites: number of the site, place in it, and number of the unit."""
    widths = np.array([site.width for site in sites], int)
    offsets = np.cumsum(widths) - widths
    offset = dict(zip(sites, offsets.tolist(), strict=True))
    owner = np.repeat(np.arange(len(sites)), widths)
    rows = np.concatenate([np.empty(0, int), *(offset[site] + at for site, at, _, _ in edges)])
    columns = np.concatenate([np.empty(0, int), *(offset[site] + at for _, _, site, at in edges)])
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(owner), len(owner)))
    return owner, np.arange(len(owner)) - offsets[owner], connected_components(graph, directed=False)[1]


def _parallel(
    owner: np.ndarray, place: np.ndarray, unit: np.ndarray, why: np.ndarray
) -> list[tuple[list[tuple[int, np.ndarray]], int]]:
    """Positions sorted into families: the positions, shape (n, k), for each site, and the reason.

    Two units are parallel if the random numbers of the positions' sites have the same sum (mod 2^64).
    """
    salt = np.random.default_rng(0).integers(2**63, size=owner.max(initial=0) + 1, dtype=np.uint64)
    signature = why.astype(np.uint64)
    np.add.at(signature, unit, salt[owner])
    start = np.full(len(why), len(unit))
    np.minimum.at(start, unit, np.arange(len(unit)))
    sort = np.lexsort((place, start[unit], owner, signature[unit]))
    owner, place, unit = owner[sort], place[sort], unit[sort]
    keys = np.stack([signature[unit], owner.astype(np.uint64)])
    borders = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(0)) + 1
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    leaders: dict[int, int] = {}
    for run in filter(len, np.split(np.arange(len(unit)), borders)):
        units = unit[run]
        index = place[run].reshape(1 + np.count_nonzero(np.diff(units)), -1)
        found.setdefault(int(signature[units[0]]), []).append((int(owner[run[0]]), index))
        leaders.setdefault(int(signature[units[0]]), int(units[0]))
    return [(found[key], int(why[leader])) for key, leader in sorted(leaders.items(), key=lambda item: start[item[1]])]


def _named(found: list[tuple[tuple[tuple[Site, np.ndarray], ...], str]]) -> list[Family]:
    """Families called after the first layer that writes them, and numbered where that is not enough."""
    taken: Counter[str] = Counter()
    named = []
    for parts, reason in found:
        writers = [(site, index) for site, index in parts if site.writes]
        site, index = writers[0]
        kind = site.writes if len(writers) == 1 and index.shape[1] == 1 else "channel"
        name = f"{site.layer} {kind}s".lstrip()
        taken[name] += 1
        named.append(Family(name if taken[name] == 1 else f"{name} {taken[name]}", kind, parts, reason))
    return named
