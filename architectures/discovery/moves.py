"""Operations that move elements: views, cuts, concatenations, gathers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .agreements import Grid
from .follow import Call, Tracks, full, parts_of, rule, tracks_of
from .numbers import Need
from .pointwise import Operand, meet
from .positions import STAYS, Track, placed, reshaped, support


@rule("view", "unsafe_view", "reshape", "reshape_alias", "view_as", "flatten", "unflatten", "squeeze", "unsqueeze")
def viewed(call: Call) -> Tracks:
    """In the same order, in another shape."""
    before, after = tuple(call["self"].shape), tuple(call.result.shape)
    return tuple(reshaped(track, before, after) for track in call.tracks("self"))


@rule("alias", "detach", "clone", "to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "positive", "view_dtype")
def same(call: Call) -> Tracks:
    """As they came."""
    return call.tracks("self")


@rule("permute", "transpose", "t", "movedim", "swapaxes", "numpy_T")
def permuted(call: Call) -> Tracks:
    """Other axes."""
    tensor = call["self"]
    marker = torch.empty(tuple(range(2, 2 + tensor.dim())), device="meta")
    arguments = [marker if each is tensor else each for each in call.args]
    order = [length - 2 for length in call.func(*arguments, **call.kwargs).shape]
    return tuple(track.transpose(order) for track in call.tracks("self"))


@rule("expand", "expand_as", "broadcast_to")
def expanded(call: Call) -> Tracks:
    """One place becomes many, which then leave with whatever they meet."""
    tensor, result = call["self"], call.result
    new = result.dim() - tensor.dim()
    tracks = [track.reshape((1,) * new + track.shape) for track in call.tracks("self")]
    for axis, length in enumerate(result.shape):
        if length > 1 and (axis < new or tensor.shape[axis - new] == 1):
            shape = [length if i == axis else 1 for i in range(result.dim())]
            tracks.append(call.positions.fresh(length, soft=True).reshape(shape))
    return tuple(tracks)


@rule("slice")
def sliced(call: Call) -> Tracks:
    """Some of the places along one axis."""
    tensor, axis = call["self"], call["dim"] % call["self"].dim()
    start, stop, step = slice(call["start"], call["end"], call["step"] or 1).indices(tensor.shape[axis])
    if stop - start == tensor.shape[axis] and step == 1:
        return call.tracks("self")
    for track in call.tracks("self"):
        if track.shape[axis] > 1:
            _cut(call, tensor, axis, track, (start, stop), step)
    return tuple(_taken(track, axis, range(start, stop, step)) for track in call.tracks("self"))


def _cut(call: Call, tensor: Tensor, axis: int, track: Track, cuts: Sequence[int], step: int) -> None:
    """What leaves must leave the parts that slices and splits make of it."""
    if support(track) != (axis,):
        return
    row = track.ravel()
    if step != 1:
        if len(row) % step:
            call.positions.stay(row, f"{call.operation} takes every {step}th of them")
        else:
            call.positions.unify(row.reshape(-1, step), 1)
        return
    parts_of(call, tensor, axis, row).cuts.update(cuts)
    for number in call.numbers:
        for cut in cuts:
            if number == cut:
                call.flow.needs.append(Need(number, track, axis, 0, cut))


def _taken(track: Track, axis: int, places: Sequence[int]) -> Track:
    return track.take(list(places), axis) if track.shape[axis] > 1 else track


@rule("select")
def selected(call: Call) -> Tracks:
    """One place along one axis, which is gone."""
    axis = call["dim"] % call["self"].dim()
    found = []
    for track in call.tracks("self"):
        if support(track) == (axis,):
            call.positions.stay(track, f"{call.operation} takes them one by one")
        place = call["index"] % call["self"].shape[axis]
        found.append(_taken(track, axis, [place]).squeeze(axis))
    return tuple(found)


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "tensor_split")
def split(call: Call) -> list[Tracks]:
    """Parts behind each other along one axis."""
    tensor, axis = call["self"], (call["dim"] or 0) % call["self"].dim()
    cuts = np.cumsum([0, *(part.shape[axis] for part in call.result)]).tolist()
    for track in call.tracks("self"):
        if track.shape[axis] > 1:
            _cut(call, tensor, axis, track, cuts, 1)
    ranges = [range(a, b) for a, b in itertools.pairwise(cuts)]
    return [tuple(_taken(track, axis, places) for track in call.tracks("self")) for places in ranges]


@rule("unbind")
def unbound(call: Call) -> list[Tracks]:
    """Every place along one axis by itself; they leave in none of them alone."""
    axis = (call["dim"] or 0) % call["self"].dim()
    for track in call.tracks("self"):
        if support(track) == (axis,):
            call.positions.stay(track, f"{call.operation} takes them one by one")
    return [
        tuple(_taken(track, axis, [i]).squeeze(axis) for track in call.tracks("self")) for i in range(len(call.result))
    ]


@rule("cat", "concat", "concatenate")
def concatenated(call: Call) -> Tracks:
    """Behind each other along one axis; on the other axes what is put together leaves together."""
    tensors = [tensor for tensor in call["tensors"] if tensor.numel()]
    return _behind(call, tensors, [tuple(t.shape) for t in tensors], [tracks_of(t) for t in tensors])


@rule("stack")
def stacked(call: Call) -> Tracks:
    """The same along a new axis."""
    tensors = call["tensors"]
    axis = (call["dim"] or 0) % call.result.dim()
    shapes = [(*t.shape[:axis], 1, *t.shape[axis:]) for t in tensors]
    tracks = [None if (own := tracks_of(t)) is None else tuple(np.expand_dims(o, axis) for o in own) for t in tensors]
    return _behind(call, tensors, shapes, tracks)


def _behind(
    call: Call, tensors: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], all_tracks: Sequence[Tracks | None]
) -> Tracks:
    axis = (call["dim"] or 0) % call.result.dim()
    along: list[tuple[int, Track | None]] = []
    others: list[Operand] = []
    for shape, tracks in zip(shapes, all_tracks, strict=True):
        tracks_now = [call.positions.compressed(track) for track in tracks or ()]
        running = [track for track in tracks_now if track.shape[axis] > 1]
        for more in running[1:]:
            call.positions.stay(more, f"{call.operation} puts them behind others in several ways")
        along.append((shape[axis], running[0] if running else None))
        if tracks is not None:
            others.append(((*shape[:axis], 1, *shape[axis + 1 :]), tuple(t for t in tracks_now if t.shape[axis] == 1)))
    joined = list(meet(call.flow, others, call.operation))
    if any(track is not None for _, track in along):
        joined.append(_side_by_side(along, axis, call.result.dim()))
    return tuple(joined)


def _side_by_side(parts: Sequence[tuple[int, Track | None]], axis: int, dim: int) -> Track:
    """One track from those of the parts; what has none stays."""
    tracks = [np.full([1] * dim, STAYS) if track is None else track for _, track in parts]
    shape = [max(track.shape[a] for track in tracks) for a in range(dim)]
    spread = [
        full(track, [length if a == axis else n for a, n in enumerate(shape)])
        for (length, _), track in zip(parts, tracks, strict=True)
    ]
    return np.concatenate(spread, axis)


@rule(
    "index", "index_select", "gather", "flip", "repeat", "repeat_interleave", "tile", "pixel_shuffle", "unfold",
    "pixel_unshuffle", "im2col", "as_strided",
    "diagonal", "take_along_dim", "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "replication_pad1d",
    "rot90", "unsafe_index",
)  # fmt: skip
def gathered(call: Call) -> Tracks:
    """Whatever an operation does to numbered elements, it does to their positions."""
    tensor: Tensor = call["self"] if "self" in call else call["input"]
    numbers = torch.arange(1, tensor.numel() + 1, dtype=torch.float64, device=tensor.device).view(tensor.shape)
    arguments: list[Any] = [numbers if each is tensor else each for each in call.args]
    named = {name: numbers if each is tensor else each for name, each in call.kwargs.items()}
    came = call.func(*arguments, **named).cpu().numpy().astype(np.int64)
    tracks = []
    for track in call.tracks("self" if "self" in call else "input"):
        row = np.concatenate([[STAYS], full(track, tensor.shape).ravel()])
        tracks.append(call.positions.compressed(row[came]))
    return tuple(tracks)


@rule("constant_pad_nd", "pad")
def padded(call: Call) -> Tracks:
    """Constants around what is there: new places, which stay, along axes on which positions vary."""
    widths = [(0, 0)] * call["self"].dim()
    for i, (before, after) in enumerate(zip(call["pad"][::2], call["pad"][1::2], strict=True)):
        widths[-1 - i] = before, after
    found = []
    for track in call.tracks("self"):
        for axis in support(track):
            before, after = widths[axis]
            track = track[(slice(None),) * axis + (slice(max(-before, 0), track.shape[axis] - max(-after, 0)),)]
            around = [(max(before, 0), max(after, 0)) if i == axis else (0, 0) for i in range(track.ndim)]
            track = np.pad(track, around, constant_values=STAYS)
        found.append(track)
    return tuple(found)


@rule("channel_shuffle", "native_channel_shuffle")
def shuffled(call: Call) -> Tracks:
    """Channels (group, place) as (place, group): the same places leave in all groups, or whole groups."""
    shape, groups = tuple(call["self"].shape), call["groups"]
    seen = (shape[0], groups, shape[1] // groups, *shape[2:])
    turned = (shape[0], shape[1] // groups, groups, *shape[2:])
    found = []
    for track in (reshaped(track, shape, seen) for track in call.tracks("self")):
        call.flow.agreements.append(Grid(track))
        found.append(reshaped(track.swapaxes(1, 2), turned, shape))
    return tuple(found)


@rule("glu")
def gated(call: Call) -> Tracks:
    """One half times a sigmoid of the other, place by place."""
    axis = call["dim"] % call["self"].dim()
    half = call.result.shape[axis]
    for track in call.tracks("self"):
        if support(track) == (axis,):
            call.positions.tie(_taken(track, axis, range(half)), _taken(track, axis, range(half, 2 * half)))
    return tuple(_taken(track, axis, range(half)) for track in call.tracks("self"))


@rule("roll")
def rolled(call: Call) -> Tracks:
    """Places move on; where all of them stay, nothing changes."""
    dim = call["self"].dim()
    axes = [axis % dim for axis in call["dims"]] or list(range(dim))
    for track in call.tracks("self"):
        call.flow.bound(track, axes, f"{call.operation} moves them by a number of places")
    return tuple(track for track in call.tracks("self") if not set(support(track)) <= set(axes))


@rule("index_put", "scatter", "scatter_add", "index_add", "slice_scatter", "select_scatter", "masked_scatter")
def scattered(call: Call) -> Tracks:
    """Elements put among others: all of them stay."""
    for tensor in call.tensors:
        for track in tracks_of(tensor) or ():
            call.positions.stay(track, f"{call.operation} puts them among others")
    return ()


@rule("embedding")
def embedded(call: Call) -> Tracks:
    """Rows of a table; the words themselves stay."""
    found = []
    for track in call.tracks("weight"):
        if 0 in support(track):
            call.flow.bound(track, [0], "words are no units of an embedding")
        else:
            call.writes(call["weight"], [track])
            found.append(placed(track, {1: call.result.dim() - 1}, call.result.dim()))
    return tuple(found)
