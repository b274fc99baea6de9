"""Networks from elsewhere: timm's, torchvision's, and the user's own.

Single weights can be pruned in any of them. Groups are declared for some classes, and found by tracing in all others;
`left_out` says of a network what cannot leave.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets.errors import UsageError, first_line
from ..datasets.own import import_function
from . import register
from .checks import image, random_inputs
from .running.bounded import is_bounded

# The side outputs of these two make sense only for training them as in their papers.
_SIDE_OUTPUTS = ("googlenet", "inception_v3")


@register("timm/<model>")
def timm_network(input_shape: tuple[int, ...], outputs: int, /, model: str, pretrained: bool = False) -> nn.Module:
    """Any classification network of timm, by its name there; pretrained: load timm's weights.

    Paper: wightman2019timm
    """
    import timm

    from .vit import write_out_attention

    channels, *side = image(f"timm/{model}", input_shape)
    if not timm.is_model(model):
        raise _unknown("timm", model, timm.list_models(), "timm.list_models()")
    settings = timm.get_pretrained_cfg(model, allow_unregistered=True)
    sized: dict[str, Any] = {"img_size": tuple(side)} if settings and settings.fixed_input_size else {}
    try:
        network = timm.create_model(model, pretrained, num_classes=outputs, in_chans=channels, **sized)
    except Exception as error:
        if pretrained:
            raise _no_weights(f"timm/{model}", error) from error
        raise _cannot(f"timm/{model}", input_shape, error) from error
    return _tried(f"timm/{model}", write_out_attention(network), input_shape, outputs)


@register("torchvision/<model>")
def torchvision_network(
    input_shape: tuple[int, ...], outputs: int, /, model: str, pretrained: bool = False
) -> nn.Module:
    """Any classification network of torchvision, by its name there; pretrained: load its default weights.

    Paper: marcel2010torchvision
    """
    from torchvision import models

    name = f"torchvision/{model}"
    if image(name, input_shape)[0] != 3:
        raise UsageError(
            f"architecture {name!r} takes 3 channels, got inputs of shape {tuple(input_shape)}; "
            "use a 'timm/<model>', which adapts to any number"
        )
    known = models.list_models(module=models)
    if model not in known:
        raise _unknown("torchvision", model, known, "torchvision.models.list_models()")
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": True} if model in _SIDE_OUTPUTS else {}
    network = models.get_model(model, weights=None, num_classes=outputs, **extra)
    if pretrained:
        _load_matching(name, network, models.get_model_weights(model)["DEFAULT"])
    return _tried(name, network, input_shape, outputs)


def _load_matching(name: str, network: nn.Module, weights: Any) -> None:
    """Load every tensor whose shape agrees; the classifier of another number of classes stays new."""
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise _no_weights(name, error) from error
    own = network.state_dict()
    same = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(own | same)


@register("<module>:<function>")
def own_network(input_shape: tuple[int, ...], outputs: int, /, module: str, function: str) -> nn.Module:
    """The user's own: function(input_shape, outputs) of an importable module returns the network."""
    name = f"{module}:{function}"
    builder = import_function("architecture", module, function)
    try:
        network = builder(input_shape, outputs)
    except (Exception, SystemExit) as error:
        raise _cannot(name, input_shape, error) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"architecture {name!r} returned {type(network).__name__}, not a torch.nn.Module")
    return _tried(name, network, input_shape, outputs)


def _unknown(library: str, model: str, known: list[str], listing: str) -> UsageError:
    nearest = difflib.get_close_matches(model, known, n=1, cutoff=0)[0]
    return UsageError(f"unknown {library} network {model!r}; did you mean {nearest!r}? {listing} has all")


def _tried(name: str, network: nn.Module, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """`network`, in training mode, if it turns two inputs of this shape into two rows of outputs.

    For a language model, whose outputs are its vocabulary, there may also be a row for every token. Inputs that a
    file describes are not tried: they may be of any size, and the file's tensors are compared afterwards.
    """
    if is_bounded():
        return network.train()
    try:
        with torch.no_grad():
            result = network.eval()(random_inputs(input_shape, 2))
    except Exception as error:
        raise _cannot(name, input_shape, error) from error
    shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
    per_token = (2, input_shape[0], outputs) if input_shape[1:] == (outputs,) else ()
    if shape not in ((2, outputs), per_token):
        raise UsageError(f"architecture {name!r}: two inputs give {shape}, expected shape {(2, outputs)}")
    return network.train()


def _cannot(name: str, input_shape: tuple[int, ...], error: BaseException) -> UsageError:
    reason = first_line(error)
    return UsageError(f"architecture {name!r} cannot take inputs of shape {tuple(input_shape)}: {reason}")


def _no_weights(name: str, error: Exception) -> UsageError:
    reason = first_line(error)
    return UsageError(f"architecture {name!r}: pretrained=True, but its weights cannot be loaded: {reason}")
