"""Gaussian noise on the weights of a network in training: by local reparameterisation, or one draw of the weights.

Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NIPS 2015, arXiv 1506.02557.
With independent weights w ~ N(m, v) what a linear layer or convolution computes of x is Gaussian, with mean that of
the layer at m and variance that of the layer at v on x²: noise is drawn there, for each example, unit and position
(positions of one example share their weights, which is neglected, as is usual). Weights that are read in any other
way, such as those of a recurrent layer or of several layers, are drawn once in each forward pass, tied over time; so
are, after the first pass, those of layers that this has not called, and which something else may read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Draws = Literal["local", "minibatch"]
Weights = Mapping[str, Tensor]

# Exactly these: a layer derived from them may read its weight without a call of its own.
LOCAL = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Keeps the square root differentiable where everything that a unit reads is 0.
TINY = 1e-16


class WeightNoise:
    """Hooks that put noise on the parameters `names` of a network, from torch's global generators, until `remove`.

    In training mode they are Gaussian, in evaluation mode their means. A network that is copied takes the noise
    along.

    Args:
        network: gets the hooks; its parameters are never changed.
        names: of the parameters with noise.
        means: of the network, told whether it is training, gives the means of those whose parameter is not their mean.
        variances: gives the variances of all.
        draws: "local" reparameterisation where it is possible, or one draw of every weight for each "minibatch".
    """

    def __init__(
        self, network: nn.Module, names: Iterable[str], means: Callable[[nn.Module, bool], Weights],
        variances: Callable[[], Weights], draws: Draws = "local",
    ) -> None:  # fmt: skip
        self._means, self._variances = means, variances
        self._places = _places(network, names)
        layers = list(_local_layers(network, self._places)) if draws == "local" else []
        self._uncalled = {name for _, *own in layers for name in own}
        self._drawn = [name for name in self._places if name not in self._uncalled]
        self._local: Weights | None = None
        self._lent: list[tuple[nn.Module, str, Tensor | None]] = []
        self._handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(lambda network, _: self._enter(network)),
            # Before the network's own: it may be the layer.
            *(network.get_submodule(path).register_forward_hook(self._adder(*own)) for path, *own in layers),
            network.register_forward_hook(lambda *_: self._leave(), always_call=True),
        ]

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, network: nn.Module) -> None:
        means = dict(self._means(network, network.training))
        if network.training:
            self._local = self._variances()
            for name in self._drawn:
                mean = means[name] if name in means else network.get_parameter(name)
                means[name] = torch.addcmul(mean, _deviation(self._local[name]), torch.randn_like(mean))
        for name, tensor in means.items():
            for path, leaf in self._places[name]:
                self._lend(network.get_submodule(path), leaf, tensor)

    def _lend(self, module: nn.Module, leaf: str, tensor: Tensor) -> None:
        self._lent.append((module, leaf, module._parameters[leaf]))
        _put(module, leaf, tensor)

    def _leave(self) -> None:
        if self._local is not None:
            self._drawn += sorted(self._uncalled)
            self._uncalled = set()
        self._local = None  # and with it the graph of the pass
        while self._lent:
            _put(*self._lent.pop())

    def _adder(self, weight: str, bias: str | None = None) -> Callable[..., Tensor | None]:
        def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self._local is None or weight in self._drawn:
                return None
            self._uncalled -= {weight, bias}
            variance = spread(module, inputs[0], self._local[weight], self._local[bias] if bias else None)
            return torch.addcmul(output, _deviation_of_sums(variance), torch.randn_like(output))

        return add


def spread(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Variance of what a linear layer or convolution computes of `x`, from the variances of its parameters.

    In the shape of the outputs.
    """
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x.square(), weight, bias)
    return layer._conv_forward(x.square(), weight, bias)


def _deviation(variance: Tensor) -> Tensor:
    """The square root, with a finite derivative at 0."""
    return variance.clamp_min(TINY).sqrt() * (variance > 0)


def _deviation_of_sums(variance: Tensor) -> Tensor:
    """The square root of what `spread` gives, which convolutions by Winograd's transforms may round to less than 0."""
    return variance.add(TINY).clamp_min(TINY / 2).sqrt()  # the floor has no gradient: it is below that of 0


def _put(module: nn.Module, leaf: str, tensor: Tensor | None) -> None:
    module._parameters[leaf] = tensor  # pyright: ignore[reportArgumentType]
    if isinstance(module, nn.RNNBase):
        module._flat_weights[module._flat_weights_names.index(leaf)] = tensor


def _places(network: nn.Module, names: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Where each parameter stands: module and name there; several where it is shared."""
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for path, module in network.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                found[id(parameter)].append((path, leaf))
    return {name: found[id(network.get_parameter(name))] for name in names}


def _local_layers(
    network: nn.Module, places: Mapping[str, list[tuple[str, str]]]
) -> Iterator[tuple[str, str] | tuple[str, str, str]]:
    """Path, weight and noisy bias of every layer that computes with its own noisy weight alone."""
    alone = {where[0]: name for name, where in places.items() if len(where) == 1}
    for path, module in network.named_modules():
        if type(module) in LOCAL and (path, "weight") in alone:
            bias = alone.get((path, "bias"))
            yield (path, alone[path, "weight"]) if bias is None else (path, alone[path, "weight"], bias)
