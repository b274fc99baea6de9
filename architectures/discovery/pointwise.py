"""Operations that join elements at the same places: what meets there leaves together."""

from __future__ import annotations

from collections.abc import Sequence

from .agreements import Aligned
from .follow import Call, Flow, Tracks, rule, tracks_of
from .positions import Track, support

Operand = tuple[tuple[int, ...], Tracks]  # shape and tracks


def meet(flow: Flow, operands: Sequence[Operand], what: str, ignored: Sequence[int] = ()) -> Tracks:
    """The tracks of what joins the operands, which are broadcast; along `ignored` axes nothing has to agree."""
    dim = max(len(shape) for shape, _ in operands)
    reason = f"{what} joins them with what cannot leave"
    aligned = [
        ((1,) * (dim - len(shape)) + shape, [t.reshape((1,) * (dim - t.ndim) + t.shape) for t in tracks])
        for shape, tracks in operands
    ]
    joined: list[Track] = []
    for _, tracks in aligned:
        for track in tracks:
            _join(flow, joined, flow.positions.compressed(track), reason)
    for shape, tracks in aligned:
        covered = {axis for track in tracks for axis in support(track)}
        bare = [a for a in range(dim) if shape[a] > 1 and a not in covered and a not in ignored]
        for track in joined:
            flow.bound(track, bare, reason)
    return tuple(joined)


def _join(flow: Flow, joined: list[Track], track: Track, reason: str) -> None:
    """Add one more track to those that run over other axes; tie it to those that run over the same."""
    axes = set(support(track))
    for i, other in enumerate(joined):
        theirs = set(support(other))
        if axes == theirs:
            if track is not other:
                flow.positions.tie(track, other)
            return
        if axes & theirs:
            large, small = (track, other) if len(axes) > len(theirs) else (other, track)
            flow.agreements.append(Aligned(large, small, reason))
            joined[i] = large
            return
    if axes:
        joined.append(track)


def operands_of(call: Call) -> list[Operand]:
    """Shapes and tracks of all tensors that follow from parameters or inputs."""
    known = [(tensor, tracks_of(tensor)) for tensor in call.tensors]
    return [(tuple(tensor.shape), tracks) for tensor, tracks in known if tracks is not None]


@rule("elementwise")
def elementwise(call: Call) -> Tracks | list[Tracks]:
    """Any operation that no rule is known for: elementwise if the shapes say so, else everything stays."""
    results = call.result if isinstance(call.result, (tuple, list)) else [call.result]
    shapes = {tuple(each.shape) for each in results if hasattr(each, "shape")}
    operands = operands_of(call)
    dim = max(len(shape) for shape, _ in operands)
    joint = tuple(max((s[len(s) - dim + a] if len(s) - dim + a >= 0 else 1) for s, _ in operands) for a in range(dim))
    if call.name in _MIXING or not all(shape == joint or _broadcast(shape, joint) for shape in shapes):
        for _, tracks in operands:
            for track in tracks:
                call.positions.stay(track, f"{call.operation} mixes or counts them")
        return [()] * len(results) if isinstance(call.result, (tuple, list)) else ()
    tracks = meet(call.flow, operands, call.operation)
    tracks = tuple(t.reshape((1,) * (len(next(iter(shapes))) - t.ndim) + t.shape) for t in tracks) if shapes else ()
    return [tracks] * len(results) if isinstance(call.result, (tuple, list)) else tracks


def _broadcast(shape: tuple[int, ...], joint: tuple[int, ...]) -> bool:
    """Whether the result is larger only because a constant was."""
    tail = shape[len(shape) - len(joint) :]
    return len(shape) >= len(joint) and all(a in (b, a if b == 1 else b) for a, b in zip(tail, joint, strict=True))


# Operations whose results have the shape of what they read, but where one place depends on others.
_MIXING = frozenset((
    "sort", "topk", "argsort", "cumprod", "cummax", "cummin", "logcumsumexp", "roll", "fft_r2c", "fft_c2c", "fft_c2r",
    "linalg_inv_ex", "linalg_qr", "linalg_svd", "cholesky", "tril", "triu", "rfft",
))  # fmt: skip


@rule("copy", "copy_")
def copied(call: Call) -> Tracks:
    """What a tensor has become by copying another one into it."""
    source = call["src"]
    tracks = tracks_of(source)
    if tracks is None:
        return tracks_of(call["self"]) or ()
    dim = call["self"].dim()
    return tuple(t.reshape((1,) * (dim - t.ndim) + t.shape) for t in tracks)


@rule("dropout", "native_dropout", "alpha_dropout")
def dropped(call: Call) -> list[Tracks] | Tracks:
    """As it came."""
    tracks = call.tracks("self") or call.tracks("input")
    return [tracks, tracks] if isinstance(call.result, tuple) else tracks
