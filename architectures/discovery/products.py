"""Products: matrices, convolutions, and batches of both, as in attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from .agreements import Grouped
from .follow import Call, Tracks, depends, owner_of, rule, tracks_of
from .pointwise import meet
from .positions import Track, placed, support


def contract(call: Call, left: Sequence[Track], a: int, right: Sequence[Track], b: int) -> tuple[list[Track], ...]:
    """The sum over axis `a` of one factor and axis `b` of the other: what is left of the tracks of both.

    Positions along a summed axis leave with those that they are multiplied with. Where they run over another axis too,
    as in (heads, width), they leave along that one.
    """
    singles, rest = zip(*(_summed(call, tracks, axis) for tracks, axis in ((left, a), (right, b))), strict=True)
    one, other = (None if not each else reduce(_tied(call), each) for each in singles)
    if one is not None and other is not None:
        call.positions.tie(one, other)
    elif one is not None or other is not None:
        alone = one if one is not None else other
        assert alone is not None
        call.positions.stay(alone, _why(call, one is not None))
    return rest


def _why(call: Call, is_read: bool) -> str:
    """Why positions stay along a summed axis on which the other factor has none that could leave."""
    weight = call["weight"] if "weight" in call else call["mat2"]
    if is_read and weight is not None and owner_of(weight) is not None:
        return f"the weight of {call.layer} is computed from other parameters, or has none that could leave"
    return f"{call.layer} reads them together with what cannot leave"


def _tied(call: Call):
    def tie(one: Track, other: Track) -> Track:
        call.positions.tie(one, other)
        return one

    return tie


def _summed(call: Call, tracks: Sequence[Track], axis: int) -> tuple[list[Track], list[Track]]:
    """The positions along the axis alone, each of shape (n,); and the tracks that run over other axes."""
    singles, rest = [], []
    for track in tracks:
        if support(track) == (axis,):
            singles.append(track.ravel())
        else:
            rest.append(call.positions.unify(track, axis) if axis in support(track) else track)
    return singles, rest


def _shared(call: Call, tracks: Sequence[Track]) -> tuple[list[Track], list[Track]]:
    """Of tracks of a batch of matrices: what runs over the batch, of shape (n,), and what does not."""
    batch, rest = [], []
    for track in tracks:
        if 0 not in support(track):
            rest.append(track)
            continue
        for axis in support(track)[1:]:
            track = call.positions.unify(track, axis)
        batch.append(track.ravel())
    return batch, rest


@rule("mm")
def product(call: Call) -> Tracks:
    """(n, k) times (k, m)."""
    return _matrix(call, "self", "mat2")


@rule("addmm")
def product_and_bias(call: Call) -> Tracks:
    """The same, and a bias."""
    return _with_bias(call, _matrix(call, "mat1", "mat2"), "self")


def _matrix(call: Call, one: str, other: str) -> Tracks:
    left, right = contract(call, call.tracks(one), 1, call.tracks(other), 0)
    call.writes(call[other], right)
    if depends(call[other]):
        call.writes(call[one], left)
    return (*(placed(t, {0: 0}, 2) for t in left), *(placed(t, {1: 1}, 2) for t in right))


@rule("linear")
def linear(call: Call) -> Tracks:
    """(..., k) times the rows of a weight (m, k), and a bias."""
    dim = call["input"].dim()
    left, right = contract(call, call.tracks("input"), dim - 1, call.tracks("weight"), 1)
    call.writes(call["weight"], right)
    found = (*left, *(placed(t, {0: dim - 1}, dim) for t in right))
    return _with_bias(call, found, "bias")


def _with_bias(call: Call, tracks: Tracks, name: str) -> Tracks:
    bias = call[name]
    if bias is None or tracks_of(bias) is None:
        return tracks
    operands = [(tuple(call.result.shape), tracks), (tuple(bias.shape), call.tracks(name))]
    return meet(call.flow, operands, call.layer)


@rule("mv", "dot", "addmv")
def vector_product(call: Call) -> Tracks:
    """A matrix (n, k) times a vector (k,)."""
    one, other = ("self", "vec") if call.name == "mv" else ("mat", "vec")
    if call.name == "dot":
        contract(call, call.tracks("self"), 0, call.tracks("tensor"), 0)
        return ()
    left, _ = contract(call, call.tracks(one), 1, call.tracks(other), 0)
    return tuple(placed(t, {0: 0}, 1) for t in left)


@rule("bmm", "baddbmm")
def batch_product(call: Call) -> Tracks:
    """(b, n, k) times (b, k, m): if positions run over b, they are heads, and the only ones that do."""
    one, other = ("self", "mat2") if call.name == "bmm" else ("batch1", "batch2")
    batches, rests = zip(*(_shared(call, call.tracks(name)) for name in (one, other)), strict=True)
    if call.flow.by_width:
        for track in (t for t in rests[0] if 2 in support(t)):
            call.flow.bound(track, [2], "attention scales by their number")
    left, right = contract(call, rests[0], 2, rests[1], 1)
    call.writes(call[other], right)
    found = [*(placed(t, {1: 1}, 3) for t in left), *(placed(t, {2: 2}, 3) for t in right)]
    heads = [each for batch in batches for each in batch]
    if heads:
        head = reduce(_tied(call), heads)
        call.positions.heads.update(call.positions.find(head).tolist())
        bare = [name for batch, name in zip(batches, (one, other), strict=True) if not batch]
        if any(tracks_of(call[name]) is not None for name in bare):
            call.positions.stay(head, f"{call.operation} joins them with what cannot leave")
        found.append(head.reshape(-1, 1, 1))
    if call.name == "baddbmm" and tracks_of(call["self"]) is not None:
        operands = [(tuple(call.result.shape), tuple(found)), (tuple(call["self"].shape), call.tracks("self"))]
        return meet(call.flow, operands, call.operation)
    return tuple(found)


@rule("convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution")
def convolution(call: Call) -> Tracks:
    """Channels read and written; places in the image are mixed."""
    x, weight = call["input"], call["weight"]
    dim = x.dim()
    tracks = []
    for track in call.tracks("input"):
        places = [axis for axis in support(track) if axis > 1]
        if places and len(places) == len(support(track)):
            call.positions.stay(track, f"{call.layer} mixes or counts them")
            continue
        for axis in places:
            track = call.positions.unify(track, axis)
        tracks.append(track)
    kernel = [t for t in call.tracks("weight") if set(support(t)) & {0, 1}]
    groups, reading = call["groups"], 0 if call["transposed"] else 1
    if groups == 1:
        left, right = contract(call, tracks, 1, kernel, reading)
        call.writes(weight, right)
        written = [placed(_flat(call, t, 1 - reading), {1 - reading: 1}, dim) for t in right]
        found = (*left, *written)
    else:
        found = (*[t for t in tracks if support(t) == (0,)], *_in_groups(call, tracks, kernel, groups))
    bias = call.tracks("bias")
    if not bias:
        return found
    shape = (1, call.result.shape[1], *[1] * (dim - 2))
    operands = [(tuple(call.result.shape), found), (shape, tuple(t.reshape(1, -1, *[1] * (dim - 2)) for t in bias))]
    return meet(call.flow, operands, call.layer, ignored=[0, *range(2, dim)])


def _flat(call: Call, track: Track, axis: int) -> Track:
    for other in support(track):
        if other != axis:
            track = call.positions.unify(track, other)
    return track


def _in_groups(call: Call, tracks: Sequence[Track], kernel: Sequence[Track], groups: int) -> Tracks:
    """A grouped convolution: of one axis of its weight there is one for each group, of the other one for all."""
    dim = call["input"].dim()
    outputs = call.result.shape[1]
    rows, inner = (_row(call, kernel, axis, call["weight"].shape[axis]) for axis in (0, 1))
    reads = next((_flat(call, t, 1).ravel() for t in tracks if 1 in support(t)), None)
    writes = rows
    if call["transposed"]:
        if reads is None:
            call.positions.stay(rows, f"{call.layer} reads them from what cannot leave")
        else:
            call.positions.tie(reads, rows)
        writes = call.positions.fresh(outputs)
    call.writes(call["weight"], [inner if call["transposed"] else rows])
    reason = f"{call.layer} reads or writes so many in every group"
    read, written = None if reads is None else reads.reshape(groups, -1), writes.reshape(groups, -1)
    call.flow.agreements.append(Grouped(read, written, inner, not call["transposed"], reason))
    call.flow.grouped[call.layer] = written
    return (writes.reshape(1, -1, *[1] * (dim - 2)),)


def _row(call: Call, kernel: Sequence[Track], axis: int, length: int) -> Track:
    """Positions along one axis of a weight, shape (n,); 0 where there are none."""
    found = next((_flat(call, t, axis).ravel() for t in kernel if axis in support(t)), None)
    return np.zeros(length, np.int64) if found is None else found
