"""Operations in which elements along some axes become one, or each depends on all of them."""

from __future__ import annotations

from collections.abc import Sequence

from .follow import Call, Tracks, depends, rule
from .pointwise import elementwise, meet
from .positions import Track, reshaped, support


def mix(call: Call, tracks: Sequence[Track], axes: Sequence[int], reason: str) -> list[Track]:
    """What may still leave once everything along `axes` is mixed: positions along other axes, as a whole."""
    left = []
    for track in tracks:
        mixed = set(support(track)) & set(axes)
        if mixed and mixed == set(support(track)):
            if call.mix(track, reason):
                left.append(track)
        else:
            for axis in mixed:
                track = call.positions.unify(track, axis)
            left.append(track)
    return left


def _axes(call: Call, name: str = "dim") -> list[int]:
    dim, given = call["self"].dim(), call[name]
    axes = range(dim) if given is None or given == [] else given if isinstance(given, (list, tuple)) else [given]
    return sorted({axis % dim for axis in axes}) if dim else []


@rule("sum", "linalg_vector_norm", "norm", "nansum")
def summed(call: Call) -> Tracks:
    """Zeros add nothing to a sum, so that its terms may leave."""
    return _reduced(call, _axes(call), None)


@rule("weight_norm_interface", "weight_norm")
def weight_normalised(call: Call) -> list[Tracks] | Tracks:
    """Directions and lengths of weights, row by row: a length is the root of a sum, to which zeros add nothing."""
    operands = [(tuple(call[name].shape), call.tracks(name)) for name in ("v", "g")]
    tracks = meet(call.flow, operands, call.operation)
    return [tracks, ()] if isinstance(call.result, tuple) else tracks


@rule("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "prod", "logsumexp", "argmax",
      "argmin", "any", "all", "median", "aminmax", "std_correction")  # fmt: skip
def averaged(call: Call) -> Tracks | list[Tracks]:
    """An average or extreme of fewer terms is another one; one that a module writes down can still count them."""
    if "other" in call:
        return elementwise(call)
    may_count_zeros = call.flow.is_averaging and call.name == "mean" and depends(call["self"])
    tracks = _reduced(call, _axes(call), None if may_count_zeros else f"{call.operation} mixes or counts them")
    return [tracks] * len(call.result) if isinstance(call.result, tuple) else tracks


def _reduced(call: Call, axes: Sequence[int], reason: str | None) -> Tracks:
    first = call.result[0] if isinstance(call.result, tuple) else call.result
    tracks = list(call.tracks("self"))
    if reason is not None:
        tracks = mix(call, tracks, axes, reason)
    left: list[Track] = []
    for track in tracks:
        if set(support(track)) <= set(axes):
            continue
        for axis in set(support(track)) & set(axes):
            track = call.positions.unify(track, axis)
        left.append(track if first.dim() == track.ndim else track.squeeze(tuple(axes)))
    return tuple(left)


@rule("softmax", "log_softmax", "safe_softmax")
def normalised(call: Call) -> Tracks:
    """Each depends on all along one axis."""
    return tuple(mix(call, call.tracks("self"), _axes(call), f"{call.operation} normalises over all of them"))


@rule("native_layer_norm", "fused_rms_norm", "rms_norm", "layer_norm")
def layer_normalised(call: Call) -> list[Tracks] | Tracks:
    """A layer norm mixes the last axes; per-head norms leave the heads alone."""
    dim = call["input"].dim()
    axes = range(dim - len(call["normalized_shape"]), dim)
    reason = f"{call.layer} normalises over all of them"
    for name in ("weight", "bias"):
        for track in call.tracks(name):
            call.positions.stay(track, reason)
    tracks = tuple(mix(call, call.tracks("input"), axes, reason))
    return [tracks] + [()] * (len(call.result) - 1) if isinstance(call.result, tuple) else tracks


@rule("native_batch_norm", "native_batch_norm_legit", "native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "miopen_batch_norm", "batch_norm_with_update", "batch_norm")  # fmt: skip
def batch_normalised(call: Call) -> list[Tracks] | Tracks:
    """Every channel for itself; its scale, shift and statistics leave with it."""
    x = call["input"]
    operands = [(tuple(x.shape), call.tracks("input"))]
    for name in ("weight", "bias", "running_mean", "running_var"):
        for track in call.tracks(name):
            operands.append(((1, track.shape[0], *[1] * (x.dim() - 2)), (_at(track, x.dim()),)))
    tracks = meet(call.flow, operands, call.layer)
    others = [axis for axis in range(x.dim()) if axis != 1]
    if call["training"]:
        tracks = tuple(mix(call, tracks, others, f"{call.layer} normalises over all of them"))
    return [tracks] + [()] * (len(call.result) - 1) if isinstance(call.result, tuple) else tracks


def _at(track: Track, dim: int) -> Track:
    """A track of channels on the second of `dim` axes."""
    return track.reshape(1, -1, *[1] * (dim - 2))


@rule("native_group_norm", "group_norm")
def group_normalised(call: Call) -> list[Tracks] | Tracks:
    """Channels of one group are normalised together, so that whole groups leave."""
    x, groups = call["input"], call["group"] or call["num_groups"]
    channels = x.shape[1]
    operands = [(tuple(x.shape), call.tracks("input"))]
    for name in ("weight", "bias"):
        for track in call.tracks(name):
            operands.append(((1, channels, *[1] * (x.dim() - 2)), (_at(track, x.dim()),)))
    tracks = meet(call.flow, operands, call.layer)
    seen = (x.shape[0], groups, channels // groups, *x.shape[2:])
    reason = f"{call.layer} normalises over all of them"
    in_groups = [call.positions.compressed(reshaped(track, tuple(x.shape), seen)) for track in tracks]
    left = mix(call, in_groups, range(2, len(seen)), reason)
    found = tuple(reshaped(track, seen, tuple(x.shape)) for track in left)
    return [found] + [()] * (len(call.result) - 1) if isinstance(call.result, tuple) else found


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_bilinear2d_aa", "upsample_bicubic2d_aa", "upsample_nearest_exact2d",
    "upsample_linear1d", "grid_sampler_2d", "mkldnn_adaptive_avg_pool2d", "adaptive_max_pool1d",
)  # fmt: skip
def pooled(call: Call) -> list[Tracks] | Tracks:
    """Over the last axes, each channel for itself."""
    name = "self" if "self" in call else "input"
    dim = call[name].dim()
    last = next(int(digit) for digit in "123" if f"{digit}d" in call.name)
    reason = f"{call.operation} mixes or counts them"
    tracks = tuple(mix(call, call.tracks(name), range(dim - last, dim), reason))
    return [tracks] * len(call.result) if isinstance(call.result, tuple) else tracks
