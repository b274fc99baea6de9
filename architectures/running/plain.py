"""A plain copy of a network that others have wrapped or reparametrised, to work on.

What torch offers for training is understood, and folded into the copy: a compiled or replicated network is the one
inside; weights that `torch.nn.utils.prune`, weight, spectral or orthogonal norm compute from other tensors before
every use become parameters of the value that evaluation mode gives them. Whatever else computes a layer's weight is
refused, since scores and masks are of parameters.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ...datasets.errors import UsageError

# Attributes and class names under which wrappers keep the network that they wrap.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
}
# Layers that are pruned, and what they may call their weights.
_READING = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNCellBase, nn.MultiheadAttention)
_WEIGHTS = ("weight", "weight_ih", "weight_hh", "in_proj_weight")


@dataclass(frozen=True)
class Plain:
    """A copy without wrappers and reparametrisations.

    Attributes:
        network: the copy, every module in its own mode.
        folded: what was folded, by the name of the tensor that it gave.
        removed: which entries of a tensor had left before, by `torch.nn.utils.prune`, boolean, by its name.
        changed: whether the copy is another network than that which was given.
    """

    network: nn.Module
    folded: dict[str, str] = field(default_factory=dict)
    removed: dict[str, Tensor] = field(default_factory=dict)
    changed: bool = False


def plain(network: nn.Module) -> Plain:
    """A plain copy of `network`, which stays as it is.

    Raises UsageError, naming the tensor and what to do, for a weight that is computed in a way not known here.
    """
    found = Plain(_unwrapped_parts(copied(unwrapped(network))), changed=is_dressed(network))
    training = {module: module.training for module in found.network.modules()}
    found.network.eval()  # spectral norm takes a step of its power iteration at every use in training
    for path, module in list(found.network.named_modules()):
        for leaf, (by, removed) in _fold(module):
            name = f"{path}.{leaf}" if path else leaf
            found.folded[name] = by
            if removed is not None:
                found.removed[name] = removed
    for module, mode in training.items():
        module.training = mode
    _refuse_computed(found.network)
    return found


def copied(network: nn.Module) -> nn.Module:
    """A deep copy; activations that a network remembers, which torch does not copy, lose their history."""
    with _Remembering():
        return copy.deepcopy(network)


class _Remembering(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = found = tensor.detach().clone()
            return found
        return func(*args, **(kwargs or {}))


def keep_removed_(network: nn.Module, removed: dict[str, Tensor]) -> list[RemovableHandle]:
    """Let no gradient reach entries that had left before, so that training does not revive them; handles to undo it."""

    def held_at_zero(gone: Tensor) -> Callable[[Tensor], None]:
        def hold(parameter: Tensor) -> None:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0)

        return hold

    pairs = [(network.get_parameter(name), gone) for name, gone in removed.items()]
    return [p.register_post_accumulate_grad_hook(held_at_zero(gone)) for p, gone in pairs if p.requires_grad]


# ---------------------------------------------------------------------- wrappers


def is_dressed(network: nn.Module) -> bool:
    """Whether anything here is wrapped or reparametrised."""
    return any(
        type(module).__name__ in _WRAPPERS
        or parametrize.is_parametrized(module)
        or any(isinstance(h, prune.BasePruningMethod | WeightNorm | SpectralNorm) for h in _hooks(module))
        for module in network.modules()
    )


def _hooks(module: nn.Module) -> list[Callable]:
    return list(module._forward_pre_hooks.values())


def unwrapped(network: nn.Module) -> nn.Module:
    """The network that wrappers for training hold."""
    while (attribute := _WRAPPERS.get(type(network).__name__)) and attribute in network._modules:
        network = network.get_submodule(attribute)
    return network


def own_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict by the names of the network whose `own` is given, also if it was saved of a wrapped one."""
    if state.keys() == own.keys():
        return dict(state)
    found = {".".join(part for part in name.split(".") if part != "_orig_mod"): t for name, t in state.items()}
    found.pop("n_averaged", None)  # how many weights an averaged network is the mean of
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _unwrapped_parts(network: nn.Module) -> nn.Module:
    """The network with whatever its parts are wrapped in taken off, in place."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if (inner := unwrapped(child)) is not child:
                setattr(module, name, inner)
    return network


# ---------------------------------------------------------------------- reparametrisations


def _fold(module: nn.Module) -> Iterator[tuple[str, tuple[str, Tensor | None]]]:
    """Make parameters of the tensors that torch computes for a module; yields names, what by, and what had left."""
    trained = {name: p.requires_grad for name, p in module.named_parameters(recurse=False)}
    if parametrize.is_parametrized(module):
        computed = {name: (p, getattr(module, name)) for name, p in module.parametrizations.items()}  # pyright: ignore
        # torch's own removal takes the tensor off the class, which the original has too.
        module.__class__ = type(module).__bases__[0]
        del module._modules["parametrizations"]
        for name, (steps, value) in computed.items():
            yield name, (", ".join(type(step).__name__.removeprefix("_") for step in steps), None)
            _settle(module, name, any(p.requires_grad for p in steps.parameters()), value)
    for hook in _hooks(module):
        if isinstance(hook, prune.BasePruningMethod):
            name: str = hook._tensor_name  # pyright: ignore[reportAssignmentType]
            mask = getattr(module, f"{name}_mask") == 0
            prune.remove(module, name)
            yield name, ("torch.nn.utils.prune", mask)
            _settle(module, name, trained[f"{name}_orig"], getattr(module, name))
        elif isinstance(hook, WeightNorm | SpectralNorm):
            name = hook.name
            (remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm)(module, name)
            yield name, (type(hook).__name__, None)
            is_trained = any(trained.get(f"{name}_{part}", False) for part in ("g", "v", "orig"))
            _settle(module, name, is_trained, getattr(module, name))


def _settle(module: nn.Module, name: str, is_trained: bool, value: Tensor) -> None:
    """A folded tensor is trained if what it was computed from was; recurrent layers also keep weights in a list."""
    module._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=is_trained)
    if isinstance(module, nn.RNNBase):
        module._flat_weights = [getattr(module, n, None) for n in module._flat_weights_names]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where fused kernels have nothing to flatten
            module.flatten_parameters()


def _refuse_computed(network: nn.Module) -> None:
    for path, module in network.named_modules():
        for name in _WEIGHTS if isinstance(module, _READING) else getattr(module, "_flat_weights_names", ()):
            if module._parameters.get(name) is None and isinstance(getattr(module, name, None), Tensor):
                raise UsageError(
                    f"{f'{path}.{name}' if path else name!r} is no parameter but computed from other tensors before "
                    "every use: make it one (fold the reparametrisation into it) before the network is pruned"
                )
