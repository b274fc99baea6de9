"""The passes that are followed: one in evaluation mode, and one in training mode where layers compute in that only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from ...datasets.errors import UsageError, first_line
from ...datasets.trees import Inputs, tensors_in
from ..running.call import called
from ..running.loan import lent
from ..running.modes import unfused
from . import moves, pointwise, products, reductions
from .double import in_double
from .follow import Flow, Follow, tracks_of
from .numbers import Need, Number, Passing, follow_numbers
from .positions import Positions, Track, support
from .watch import Watch

OUTPUT = "the outputs of the network stay"
RULES_OF = (moves, pointwise, products, reductions)  # imported for the rules that they register


def followed(network: nn.Module, x: Inputs) -> tuple[Flow, bool]:
    """What a forward pass shows; and one in training mode, if there are layers that compute in that mode only."""
    flow = Flow()
    _pass(network, x, flow)
    idle = [name for name, p in network.named_parameters() if name not in flow.used]
    if idle:
        with lent(network):
            _pass(network.train(), x, flow)
    for recurrent in (module for module in network.modules() if isinstance(module, nn.RNNBase)):
        _same_width(flow.positions, network, recurrent)
    return flow, any(name in flow.used for name in idle)


@contextmanager
def without_looking() -> Iterator[None]:
    """Networks that look at values where they may, but not while they are compiled, do not look inside.

    Transformers of Hugging Face leave a mask out that masks nothing; what they compute is the same with it.
    """
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def _same_width(positions: Positions, network: nn.Module, recurrent: nn.RNNBase) -> None:
    """All layers and directions of a recurrent layer have one width: their units leave together, place by place."""
    path = next(name for name, module in network.named_modules() if module is recurrent)
    names = [f"{path}.{name}".lstrip(".") for name, _ in recurrent.named_parameters() if name.startswith("weight_hh")]
    axes = [site.nodes for name in names for site in positions.sites_of(name) if site.axis == 1]
    for other in axes[1:]:
        positions.tie(axes[0], other)


def _pass(network: nn.Module, x: Inputs, flow: Flow) -> None:
    with lent(network), ExitStack() as stack:
        follow = Follow(network, flow)
        watch = Watch(network)
        _count_channels(network, flow)
        follow_numbers(network)
        fast = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        passing = Passing(watch, follow.numbers, flow)
        for context in (
            without_looking(),
            unfused(),
            sdpa_kernel(SDPBackend.MATH),
            in_double(),
            follow,
            passing,
            watch,
        ):
            stack.enter_context(context)
        try:
            result = called(network, pytree.tree_map_only(Tensor, lambda t: follow.follow(watch.follow(t.clone())), x))
        except UsageError:
            raise
        except Exception as error:
            given = " and ".join(f"inputs of shape {tuple(t.shape)} and type {t.dtype}" for t in tensors_in(x))
            raise UsageError(f"{type(network).__name__} cannot take {given}: {first_line(error)}") from error
    outputs = [tracks for leaf in pytree.tree_leaves(result) if (tracks := tracks_of(leaf)) is not None]
    if not flow.used:
        raise UsageError(f"no output of {type(network).__name__} can be differentiated by its parameters")
    for track in (track for tracks in outputs for track in tracks):
        flow.positions.stay(track, OUTPUT, above_all=True)


def _count_channels(network: nn.Module, flow: Flow) -> None:
    """Let norms without tensors, which keep the number of their channels all the same, note what that counts."""

    def note(path: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for track in tracks_of(inputs[0]) or ():
            for name, rows in _counted_by(module, track):
                number = Number.read((path, name, -1), getattr(module, name))
                flow.needs.append(Need(number, rows, 0))

    for path, module in network.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.modules.batchnorm._NormBase)) and module.weight is None:
            module.register_forward_pre_hook(partial(note, path))


def _counted_by(module: nn.Module, track: Track) -> Iterator[tuple[str, Track]]:
    """The numbers that a norm keeps, each with the positions, shape (n,), that it counts."""
    if support(track) != (1,):
        return
    if isinstance(module, nn.GroupNorm):
        yield "num_channels", track.ravel()
        yield "num_groups", track.ravel()[:: module.num_channels // module.num_groups]
    elif module._buffers.get("running_mean") is None:
        yield "num_features", track.ravel()
