"""Groups from positions: what leaves together is a unit, units cut out of the same axes a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..units.slices import Count, Group, Slice
from .positions import Positions, Site


@dataclass(frozen=True, eq=False)
class Family:
    """Parallel units, and why none of them can leave.

    Attributes:
        name: unique in a network.
        kind: what one unit is called.
        parts: every axis that the units own positions of, with these positions, shape (n, k).
        roots: the representative of every unit's positions, shape (n,).
        reason: "" if nothing is known against it.
    """

    name: str
    kind: str
    parts: tuple[tuple[Site, np.ndarray], ...]
    roots: np.ndarray
    reason: str

    @property
    def size(self) -> int:
        """Number of units n."""
        return len(self.roots)

    def group(self, tensors: Mapping[str, Tensor], counts: tuple[Count, ...] = ()) -> Group:
        """The family as slices of `tensors`, and the numbers in modules that count its units."""

        def pieces(are_masked: bool) -> Iterator[Slice]:
            for site, index in self.parts:
                if (site.is_buffer or site.is_computed) is not are_masked:
                    yield Slice(site.name, site.axis, torch.from_numpy(index), tensors[site.name].shape)

        settles = tuple(site.name.rpartition(".")[0] for site, _ in self.parts if site.is_computed)
        return Group(self.name, self.kind, tuple(pieces(True)), tuple(pieces(False)), counts=counts, settles=settles)


def families(positions: Positions, order: Sequence[str], kind_of: Callable[[Site], tuple[str, str]]) -> list[Family]:
    """The families of units, in the `order` of the network's tensors.

    Units that own equally many positions of the same axes are parallel; positions that no layer computes, such as
    the inputs of the network, are no units.

    Args:
        positions: All that is known of them.
        order: Names of the network's tensors.
        kind_of: The layer of a site that writes, and what one of its outputs is called.
    """
    rank = {name: i for i, name in enumerate(order)}
    sites = sorted((site for site in positions.sites if site.name in rank), key=lambda site: rank[site.name])
    widths = [len(site.nodes) for site in sites]
    owner = np.repeat(np.arange(len(sites)), widths)
    place = np.concatenate([np.empty(0, int), *(np.arange(width) for width in widths)])
    unit = positions.find(np.concatenate([np.empty(0, int), *(site.nodes for site in sites)]))
    reasons, why = _reasons(positions)
    keep = np.isin(unit, positions.find(np.array(sorted(positions.written), int)))
    heads = set(positions.find(np.array(sorted(positions.heads), int)).tolist())
    parallel = _parallel(owner[keep], place[keep], unit[keep], why)
    found = []
    for parts, roots in parallel:
        named = tuple((sites[s], index) for s, index in parts)
        found.append((named, roots, reasons[why[roots[0]]], int(roots[0]) in heads))
    return list(_named(found, kind_of))


def _reasons(positions: Positions) -> tuple[list[str], np.ndarray]:
    """All reasons, "" last, and the number of that of every position's representative."""
    said = positions.reasons()
    reasons = [*dict.fromkeys(said.values()), ""]
    why = np.full(len(positions), len(reasons) - 1)
    for root, reason in said.items():
        why[root] = reasons.index(reason)
    return reasons, why


def _parallel(
    owner: np.ndarray, place: np.ndarray, unit: np.ndarray, why: np.ndarray
) -> list[tuple[list[tuple[int, np.ndarray]], np.ndarray]]:
    """Positions sorted into families: the positions, shape (n, k), for each site, and the units, shape (n,).

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
    members: dict[int, np.ndarray] = {}
    for run in filter(len, np.split(np.arange(len(unit)), borders)):
        units = unit[run]
        first = np.concatenate([[True], np.diff(units) != 0])
        key = int(signature[units[0]])
        found.setdefault(key, []).append((int(owner[run[0]]), place[run].reshape(np.count_nonzero(first), -1)))
        members.setdefault(key, units[first])
    ordered = sorted(members.items(), key=lambda item: start[item[1][0]])
    return [(found[key], roots) for key, roots in ordered]


_Found = tuple[tuple[tuple[Site, np.ndarray], ...], np.ndarray, str, bool]


def _named(found: list[_Found], kind_of: Callable[[Site], tuple[str, str]]) -> Iterator[Family]:
    """Families called after the first layer that writes them, and numbered where that is not enough."""
    taken: Counter[str] = Counter()
    for parts, roots, reason, is_head in found:
        writers = [(site, index) for site, index in parts if site.writes] or list(parts)
        layer, kind = kind_of(writers[0][0])
        if is_head:
            layer, kind = _whole(layer, parts, kind_of), "head"
        elif len(writers) > 1 or writers[0][1].shape[1] > 1:
            kind = "channel"
        name = f"{layer} {kind}s".lstrip()
        taken[name] += 1
        yield Family(name if taken[name] == 1 else f"{name} {taken[name]}", kind, parts, roots, reason)


def _whole(layer: str, parts: tuple[tuple[Site, np.ndarray], ...], kind_of: Callable[[Site], tuple[str, str]]) -> str:
    """The module that holds all layers of an attention; the layer itself where it is all there is."""
    layers = {kind_of(site)[0] for site, _ in parts}
    if len(layers) == 1:
        return layer
    paths = [each.split(".") for each in layers]
    shared = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared) or layer
