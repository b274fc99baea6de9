"""Networks whose inputs or outputs are no single tensor, called as if they were.

A working copy is given another class, made of its own: `network(x)`, x of any form (`datasets.trees`), then returns one
tensor of outputs. Parameters, modules and hooks stay, and so do copies and loans of it. Its own class comes back by
`release_`; nobody else's network is ever left in another form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs, described, examples, pieces, plain_tree
from .call import called
from .modes import as_rows, evaluating, to_network

# forward(network, batch) -> (outputs, targets), as a user writes it.
Forward = Callable[[Any, Any], tuple[Tensor, Tensor]]

AT_ONCE = 256  # examples of which targets are asked for
PLAIN = TENSOR, LOGITS = "the tensor", "the logits"  # outputs that nobody can mean otherwise


@dataclass(frozen=True)
class Form:
    """How a network is called with the inputs of a batch, and what of it are its outputs.

    Attributes:
        forward: the user's own; None for the names of a batch as arguments, and the logits of what comes back.
        said: which outputs were taken without being asked for, in words.
    """

    forward: Forward | None = None
    said: str | None = None

    def outputs(self, network: Own, x: Inputs) -> Tensor:
        """One tensor of outputs (N, ...); raises UsageError where there is none."""
        if self.forward is not None:
            return _of_pair(self.forward(network, x))[0]
        return logits_of(called_by_name(network, x))[0]

    def targets(self, network: nn.Module, batch: Inputs) -> Tensor:
        """What the user's forward compares with the outputs: it is run for them, without gradients."""
        assert self.forward is not None
        found = []
        with evaluating(network), torch.no_grad():
            for part in pieces(to_network(batch, network), AT_ONCE) if examples(batch) > AT_ONCE else [batch]:
                found.append(_of_pair(self.forward(Own(network), to_network(part, network)))[1])
        return torch.cat(found) if len(found) > 1 else found[0]


class Own:
    """A network in its own form, whatever class it has now: calls reach its own forward, attributes are its own."""

    def __init__(self, network: nn.Module):
        self._network, self._class = network, own_class(network)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network's own class returns."""
        return self._class.forward(self._network, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


# ---------------------------------------------------------------------- classes


def adapt_(network: nn.Module, form: Form | None) -> nn.Module:
    """Let `network(x)` return one tensor, in place; without a form it stays as it is."""
    release_(network)
    if form is not None:
        network.__class__ = _adapted(type(network), form)
    return network


def release_(network: nn.Module) -> nn.Module:
    """Give a network its own form back, in place."""
    network.__class__ = own_class(network)
    return network


@contextmanager
def in_form(form: Form | None, *networks: nn.Module) -> Iterator[None]:
    """The networks have this form inside, and their own one afterwards."""
    try:
        for network in networks:
            adapt_(network, form)
        yield
    finally:
        for network in networks:
            release_(network)


def own_class(network: nn.Module) -> type[nn.Module]:
    """The class that somebody gave the network."""
    return vars(type(network)).get("_own_class", type(network))


def _adapted(own: type[nn.Module], form: Form) -> type[nn.Module]:
    def forward(self: nn.Module, x: Inputs) -> Tensor:
        return form.outputs(Own(self), x)

    names = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    return type(own.__name__, (own,), {**names, "forward": forward, "_own_class": own})


# ---------------------------------------------------------------------- what goes in, what comes out


def form_for(network: nn.Module, x: Inputs, forward: Forward | None = None) -> Form | None:
    """The form that the network needs for such inputs; None where it takes and gives one tensor anyway.

    A forward pass, in evaluation mode, shows it; one that fails will fail again where that is reported.
    """
    if forward is not None:
        return Form(forward)
    single = isinstance(x, Tensor)
    try:
        with evaluating(network), torch.no_grad():
            found = called_by_name(network, x)
        if single and isinstance(found, Tensor):
            return None
        where = logits_of(found)[1]
    except Exception:
        return None if single else Form()
    return Form(None, None if where in PLAIN else f"outputs taken: {where}")


def called_by_name(network: Own | nn.Module, x: Inputs) -> Any:
    """What the network returns: of a dict, names are those of its arguments; it keeps nothing for a next token."""
    known = arguments_of(network)
    if isinstance(x, Mapping) and "use_cache" in known and "use_cache" not in x:
        return network(**x, use_cache=False)
    return called(network, x)  # pyright: ignore[reportArgumentType]


def arguments_of(network: Own | nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of its own forward, by name."""
    own = network._class if isinstance(network, Own) else own_class(network)
    return {name: p for name, p in inspect.signature(own.forward).parameters.items() if name != "self"}


def logits_of(returned: Any) -> tuple[Tensor, str]:
    """The outputs among what a network returned, and which they are, in words.

    Of a dict what it calls `logits`, or its only tensor; of a tuple or list its first tensor. Raises UsageError for
    anything else.
    """
    if isinstance(returned, Tensor):
        return returned, TENSOR
    if isinstance(returned, Mapping):
        found = {name: value for name, value in returned.items() if isinstance(value, Tensor)}
        name = "logits" if "logits" in found else next(iter(found), None) if len(found) == 1 else None
        if name is not None:
            return found[name], LOGITS if name == "logits" else f"{name!r} of a {type(returned).__name__}"
    elif isinstance(returned, tuple | list):
        for place, value in enumerate(returned):
            if isinstance(value, Tensor):
                return value, f"number {place} of a {type(returned).__name__} of {len(returned)}"
    raise UsageError(
        f"network gives {described(plain_tree(returned))}, of which it is not known what the outputs are; give "
        "forward=lambda network, batch: (outputs, targets)"
    )


def _of_pair(pair: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise UsageError(
            f"forward(network, batch) must return two tensors (outputs, targets), not {described(plain_tree(pair))}"
        )
    outputs, targets = pair
    if not outputs.dim() or not targets.dim() or len(outputs) != len(targets):
        raise UsageError(
            f"forward(network, batch) must return outputs and targets of the same examples, got shapes "
            f"{tuple(outputs.shape)} and {tuple(targets.shape)}; label what does not count -100 instead of leaving it "
            "out"
        )
    return as_rows(outputs), targets
