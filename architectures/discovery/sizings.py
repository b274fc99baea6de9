"""Sizes that forward passes write down, and that would be wrong once units have left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..layers.sized import averaged_axes, axes_of_bounds
from ..units.slices import Group, SizedCall
from .families import Family
from .follow import Flow, tracks_of
from .numbers import Need, Number, Sizing
from .positions import Positions, Track, blocks


def sized_calls(flow: Flow, network: nn.Module, families: Sequence[Family]) -> dict[str, list[SizedCall]]:
    """For each family, by name, all sizes of calls that its units are part of, whether they adapt or not."""
    owner = {int(root): family for family in families for root in family.roots}
    found: dict[str, list[SizedCall]] = {}
    for sizing in flow.sizings:
        module = _module(network, sizing)
        if module is not None:
            for family, place, size, lost in _sizes(flow.positions, sizing, owner):
                call = SizedCall(module, sizing.calls[module], place, size, torch.from_numpy(lost))
                found.setdefault(family.name, []).append(call)
    return found


def needs_of(flow: Flow) -> Iterator[Need]:
    """Numbers that were given as sizes, and what they count."""
    for sizing in (each for each in flow.sizings if each.name != "mean"):
        for places, axes, tracks, after in _parts(flow.positions, sizing):
            for place, axis in zip(places, axes, strict=True):
                if isinstance(number := sizing.sizes[place], Number) and number == after[axis]:
                    yield from (Need(number, track, axis) for track in tracks if track.shape[axis] > 1)


def _module(network: nn.Module, sizing: Sizing) -> str | None:
    """The innermost module that runs and is no layer of torch."""
    for name in reversed(list(sizing.calls)):
        if not type(network.get_submodule(name)).__module__.startswith("torch.nn"):
            return name
    return None


def _sizes(
    positions: Positions, sizing: Sizing, owner: Mapping[int, Family]
) -> Iterator[tuple[Family, int, int, np.ndarray]]:
    """Family, place among the sizes, size, and how much it falls for each unit."""
    for places, axes, tracks, after in _parts(positions, sizing):
        families = {family.name: family for axis in axes for family in _families(tracks, axis, owner)}
        for family in families.values():
            for place, axis in zip(places, axes, strict=True):
                lost = np.array(_lost(tracks, axis, family))
                yield family, place, after[axis], np.zeros_like(lost) if sizing.name == "mean" else lost


def _parts(positions: Positions, sizing: Sizing) -> Iterator[tuple[list[int], list[int], list[Track], tuple[int, ...]]]:
    """Places among the sizes and the axes that they are sizes of, as far as they depend on each other."""
    if sizing.name in ("split", "split_with_sizes"):
        axis = sizing.args[2] if len(sizing.args) > 2 else sizing.kwargs.get("dim", 0)
        for place, part in enumerate(sizing.result[: len(sizing.sizes)]):
            tracks = [positions.compressed(track) for track in tracks_of(part) or ()]
            yield [place], [axis % part.dim()], tracks, tuple(part.shape)
        return
    if sizing.name == "mean":  # what leaves still counts, as zeros do
        source = sizing.args[0]
        tracks = [positions.compressed(track) for track in tracks_of(source) or ()]
        for place, axis in enumerate(averaged_axes(sizing.args, sizing.kwargs)):
            yield [place], [axis], tracks, tuple(source.shape)
        return
    if sizing.name == "__getitem__":
        source = sizing.args[0]
        tracks = [positions.compressed(track) for track in tracks_of(source) or ()]
        for place, axis in enumerate(axes_of_bounds(sizing.args[1], source.dim())):
            before = [t.take(range(min(sizing.sizes[place], t.shape[axis])), axis) for t in tracks if t.shape[axis] > 1]
            shape = [sizing.sizes[place] if i == axis else n for i, n in enumerate(source.shape)]
            yield [place], [axis], before, tuple(shape)
        return
    result, after = sizing.result, tuple(sizing.result.shape)
    tracks = [positions.compressed(track) for track in tracks_of(result) or ()]
    first = sizing.args[1] % sizing.args[0].dim() if sizing.name == "unflatten" else 0
    if sizing.name == "expand":
        runs = [[axis] for axis in range(len(after))]
    else:
        runs = [new for _, new in blocks(tuple(sizing.args[0].shape), after)]
    for axes in runs:
        inside = [axis for axis in axes if 0 <= axis - first < len(sizing.sizes)]
        yield [axis - first for axis in inside], inside, tracks, after


def _families(tracks: Sequence[Track], axis: int, owner: Mapping[int, Family]) -> Iterator[Family]:
    """The families whose units have positions along an axis."""
    for track in tracks:
        if track.shape[axis] > 1:
            yield from (owner[root] for root in np.unique(track).tolist() if root in owner)


def _lost(tracks: Sequence[Track], axis: int, family: Family) -> list[int]:
    """How many of the positions along an axis each unit of the family owns."""
    lost = dict.fromkeys(family.roots.tolist(), 0)
    for track in tracks:
        if track.shape[axis] > 1:
            for root in np.moveaxis(track, axis, 0).reshape(track.shape[axis], -1)[:, 0].tolist():
                if root in lost:
                    lost[root] += 1
    return list(lost.values())


def needed(group: Group, calls: Sequence[SizedCall], replaced: Collection[tuple[str, int]]) -> Group:
    """The group with all sizes of those calls, by module and number, in which sizes had to be replaced."""
    return replace(group, calls=tuple(each for each in calls if (each.module, each.call) in replaced))
