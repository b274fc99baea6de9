"""One forward pass in which every tensor knows the positions that its elements belong to.

Beneath PyTorch's layers and functions there are a few hundred operations; a rule for each kind (`moves`, `pointwise`,
`products`, `reductions`) says what becomes of the positions of its inputs. Layers of whatever class need no rules of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..layers.settled import computed_weight
from .agreements import Agreement, Bounded, Grid, Parts
from .numbers import Need, Number, Sizing
from .positions import Positions, Site, Track, support

Tracks = tuple[Track, ...]
Rule = Callable[["Call"], Any]
RULES: dict[str, Rule] = {}
_TRACKS, _STEP, _OWNER, _PARTS = "_tracks_", "_step_", "_owner_", "_parts_"


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what becomes of positions in the operations of these names, without underscores around them.

    A rule returns the tracks of the result, or a list of tracks, one for each result.
    """

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


@dataclass(eq=False)
class Step:
    """An operation of the pass: the layer whose weights it uses, or "the operation add"; and what it reads."""

    layer: str
    writes: bool = False
    reads: list[Step] = field(default_factory=list)


@dataclass(eq=False)
class Flow:
    """What one or more passes have shown.

    Attributes:
        positions: Positions of all tensors, and what leaves together.
        agreements: What waits for decisions.
        steps: The operations on what depends on the inputs, in their order.
        needs: Whole numbers in modules that count positions.
        sizings: Calls that took sizes.
        is_averaging: Whether the call that runs is an average, which can be one over what has left, too.
        by_width: Whether the call that runs scales by the width of its heads.
        grouped: Of grouped convolutions, by the name of the layer, the positions of which it has one per group.
        used: Parameters and buffers that took part.
        computed: Weights of layers that apply others, computed from them.
    """

    positions: Positions = field(default_factory=Positions)
    agreements: list[Agreement] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    sizings: list[Sizing] = field(default_factory=list)
    is_averaging: bool = False
    by_width: bool = False
    grouped: dict[str, Track] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)
    _seen: set[tuple[tuple[int, ...], bytes]] = field(default_factory=set)

    def annotate(self, tensor: Tensor, tracks: Sequence[Track]) -> None:
        """Give a tensor its tracks; each is to stay a grid, and one of those on each axis may leave."""
        tracks = _crossing(self.positions, tracks) if len(tracks) > 1 else tuple(tracks)
        setattr(tensor, _TRACKS, tracks)
        for track in tracks:
            key = track.shape, track.tobytes()
            if len(support(track)) > 1 and key not in self._seen:
                self._seen.add(key)
                self.agreements.append(Grid(track))

    def bound(self, track: Track, axes: Sequence[int], reason: str) -> None:
        """Positions that vary along any of these axes stay."""
        if set(support(track)) <= set(axes):
            self.positions.stay(track, reason)
        elif set(support(track)) & set(axes):
            self.agreements.append(Bounded(track, frozenset(axes), reason))


def _crossing(positions: Positions, tracks: Sequence[Track]) -> Tracks:
    """Of tracks that run over the same axis, such as heads and places in them seen as channels, one may leave.

    What stays anyway gives way to what does not, places of constants to others, and all give way to heads.
    """
    kept: list[Track] = []
    for track in sorted(tracks, key=positions.rank, reverse=True):
        axes = set(support(track))
        if not any(axes & set(support(other)) for other in kept):
            kept.append(track)
        elif not positions.is_soft(track):
            positions.stay(track, "others that run across them leave")
    return tuple(track for track in tracks if any(track is each for each in kept))


def tracks_of(tensor: Any) -> Tracks | None:
    """The tracks of a tensor; None for a constant, which follows from neither parameters nor inputs."""
    return getattr(tensor, _TRACKS, None)


def owner_of(tensor: Any) -> str | None:
    """The name of the parameter or buffer that a tensor follows from, if it does not depend on inputs."""
    return getattr(tensor, _OWNER, None)


def _is_weight(name: str) -> bool:
    return name.rpartition(".")[2] == "weight"


def depends(tensor: Any) -> bool:
    """Whether a tensor depends on the inputs."""
    return hasattr(tensor, _STEP)


class Call:
    """One operation: its arguments by name, its results, and what is known of them."""

    def __init__(
        self, flow: Flow, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], numbers: Sequence[Number]
    ):
        self.flow, self.func, self.args, self.kwargs, self.numbers = flow, func, args, kwargs, numbers
        self.result: Any = None
        self.positions = flow.positions
        self.name = plain(func)
        arguments = func._schema.arguments
        self._bound = {each.name: each.default_value for each in arguments if each.has_default_value()}
        self._bound |= dict(zip((each.name for each in arguments), args, strict=False)) | dict(kwargs)

    def __getitem__(self, name: str) -> Any:
        return self._bound.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    @property
    def operation(self) -> str:
        """For example "the operation add"."""
        return f"the operation {self.name}"

    @property
    def layer(self) -> str:
        """The name of the layer whose weights are used, or of the operation."""
        owners = [owner for tensor in self.tensors if (owner := owner_of(tensor)) is not None]
        if self.name not in _LAYERS or not owners:
            return self.operation
        path, _, leaf = next(filter(_is_weight, owners), owners[0]).rpartition(".")
        path = path.partition(".parametrizations.")[0]
        return path if path or leaf in ("weight", "running_mean") else self.operation

    def writes(self, tensor: Any, tracks: Sequence[Track]) -> None:
        """Note that a layer with this tensor as its weights computes the positions of the tracks."""
        sites = self.positions.sites_of(owner_of(tensor) or "")
        if depends(tensor) or not tracks or any(site.is_buffer for site in sites):
            return
        rows = np.unique(np.concatenate([track.ravel() for track in tracks]))
        for site in sites:
            site.writes |= bool(np.isin(self.positions.find(site.nodes), rows).any())
        self.positions.written.update(rows.tolist())

    def mix(self, track: Track, reason: str) -> bool:
        """Note that all positions of a track are mixed; whether they may leave all the same.

        So may columns of a weight that is computed before it is applied, if it can be as it was computed.
        """
        name = next((owner for tensor in self.tensors if (owner := owner_of(tensor)) in self.flow.computed), None)
        sites = [site for site in self.positions.sites_of(name or "") if site.axis == 1]
        if any(depends(tensor) for tensor in self.tensors) or not sites:
            self.positions.stay(track, reason)
            return False
        mixed = np.unique(self.positions.find(track))
        if not all(np.isin(self.positions.find(site.nodes), mixed).all() for site in sites):
            self.positions.stay(track, reason)
            return False
        for site in sites:
            site.is_computed = True
        return True

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def tracks(self, name: str) -> Tracks:
        """Tracks of an argument, in terms of representatives; none for constants."""
        found = tracks_of(self[name]) or ()
        return tuple(track for track in map(self.positions.compressed, found) if support(track))


def plain(func: Any) -> str:
    """The name of an operation without the underscores around it."""
    return func.overloadpacket.__name__.strip("_")


class Follow(TorchDispatchMode):
    """Annotate every tensor computed inside a `with` block.

    Args:
        network: Lent; its own tensors are annotated now.
        flow: Takes up what is seen.
    """

    def __init__(self, network: nn.Module, flow: Flow):
        super().__init__()
        self.flow = flow
        self.numbers: list[Number] = []
        for path, module in network.named_modules():
            if computed_weight(module) is not None:
                flow.computed.add(f"{path}.weight".lstrip("."))
        for name, tensor in _tensors(network):
            if owner_of(tensor) is None:
                self._number(network, name, tensor)

    def _number(self, network: nn.Module, name: str, tensor: Tensor) -> None:
        setattr(tensor, _OWNER, name)
        tracks = []
        for axis, length in enumerate(tensor.shape):
            if length > 1:
                nodes = self.flow.positions.fresh(length)
                is_buffer = not isinstance(tensor, nn.Parameter)
                self.flow.positions.add(Site(name, axis, nodes, is_buffer))
                tracks.append(nodes.reshape([-1 if i == axis else 1 for i in range(tensor.dim())]))
        setattr(tensor, _TRACKS, tuple(tracks))

    def follow(self, x: Tensor) -> Tensor:
        """`x` as an input: all its positions stay."""
        setattr(x, _TRACKS, ())
        setattr(x, _STEP, Step("the inputs"))
        return x

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and follow it."""
        kwargs = kwargs or {}
        before = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [tensor for tensor in before if tracks_of(tensor) is not None]
        call = Call(self.flow, func, args, kwargs, self.numbers) if known else None
        result = func(*args, **kwargs)
        if call is not None and result is not None:
            call.result = result
            self._annotate(call, known)
        elif plain(func) in _FILLED and isinstance(result, Tensor):
            self.flow.annotate(result, self._unbound(result))
        return result

    def _unbound(self, tensor: Tensor) -> list[Track]:
        """Tracks of one value everywhere: places that leave with whatever they meet."""
        long = [axis for axis, length in enumerate(tensor.shape) if length > 1]
        rows = {axis: self.flow.positions.fresh(tensor.shape[axis], soft=True) for axis in long}
        return [row.reshape([-1 if i == axis else 1 for i in range(tensor.dim())]) for axis, row in rows.items()]

    def _annotate(self, call: Call, known: list[Tensor]) -> None:
        owners = [owner for tensor in known if (owner := owner_of(tensor)) is not None]
        self.flow.used.update(owners)
        results = [leaf for leaf in pytree.tree_leaves(call.result) if isinstance(leaf, Tensor)]
        found = RULES.get(call.name, _elementwise_or_unknown)(call)
        each = found if isinstance(found, list) else [found] + [()] * (len(results) - 1)
        inputs = [getattr(tensor, _STEP) for tensor in known if depends(tensor)]
        step = self._step(call, owners, inputs)
        for tensor, tracks in zip(results, each, strict=True):
            self.flow.annotate(tensor, tracks)
            if step is not None:
                setattr(tensor, _STEP, step)
            elif owners:
                setattr(tensor, _OWNER, next(filter(_is_weight, owners), owners[0]))
        _needed(call, self.numbers, results)

    def _step(self, call: Call, owners: list[str], inputs: list[Step]) -> Step | None:
        if not inputs:
            return None
        writes = call.name in _WRITING and any(map(_is_weight, owners))
        step = Step(call.layer, writes, list(dict.fromkeys(inputs)))
        self.flow.steps.append(step)
        return step


_FILLED = frozenset(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"))
_WRITING = frozenset(("convolution", "addmm", "mm", "linear", "bmm", "embedding"))
_LAYERS = _WRITING | frozenset((
    "native_batch_norm", "native_batch_norm_legit", "native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "batch_norm_with_update", "native_group_norm", "native_layer_norm", "fused_rms_norm",
))  # fmt: skip


def _elementwise_or_unknown(call: Call) -> Any:
    return RULES["elementwise"](call)


def _needed(call: Call, numbers: list[Number], results: list[Tensor]) -> None:
    """Note which of the numbers that this call was given count positions of its results."""
    for number in numbers:
        for tensor in results:
            for axis, length in enumerate(tensor.shape):
                if length == number:
                    tracks = [t for t in tracks_of(tensor) or () if t.shape[axis] > 1]
                    call.flow.needs.extend(Need(number, track, axis) for track in tracks)


def parts_of(call: Call, tensor: Tensor, axis: int, track: Track) -> Parts:
    """The parts that a tensor's axis is cut into; one object for each axis."""
    known: dict[int, Parts] = getattr(tensor, _PARTS, {})
    if axis not in known:
        known[axis] = Parts(track, set())
        setattr(tensor, _PARTS, known)
        call.flow.agreements.append(known[axis])
    return known[axis]


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    named = [*network.named_parameters(), *network.named_buffers()]
    return [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.dim()]


def full(track: Track, shape: Sequence[int]) -> np.ndarray:
    """The track in the shape of its tensor."""
    return np.broadcast_to(track, tuple(shape))
