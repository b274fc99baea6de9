"""What a forward pass does with the values of its inputs: which layer branches on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ...datasets.errors import UsageError

# What Python can branch on, and what makes shapes depend on values.
_PYTHON = ("__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__", "item", "tolist", "numpy")
_SHAPES = ("equal", "allclose", "is_nonzero", "nonzero", "argwhere", "unique", "unique_consecutive")
_LOOKS = frozenset((*_PYTHON, *_SHAPES))


class Watch(TorchFunctionMode):
    """Refuse, inside a `with` block, that the forward pass of a lent network looks at values.

    All that is computed from the tensors given to `follow` is marked. A pass that looks at a marked value may
    take another way for other inputs, so that one traced pass does not tell what the network computes.

    Attributes:
        inside: Names of the modules whose forward passes are running, outermost first.
        sized: For each of them, how many calls that take sizes there were.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = type(network).__name__
        self.inside: list[str] = []
        self.sized: list[int] = []
        for name, module in network.named_modules():
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave)

    def follow(self, x: Tensor) -> Tensor:
        """`x`, marked as an input."""
        x._is_followed = True  # pyright: ignore[reportAttributeAccessIssue]
        return x

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, _: object) -> None:
            self.inside.append(name)
            self.sized.append(0)

        return enter

    def _leave(self, *_: object) -> None:
        self.inside.pop()
        self.sized.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`; mark what it returns if anything it takes is marked."""
        kwargs = kwargs or {}
        if not any(hasattr(leaf, "_is_followed") for leaf in pytree.tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            raise UsageError(self._refusal(name))
        result = func(*args, **kwargs)
        for leaf in pytree.tree_leaves((result, args[0] if name == "__setitem__" else None)):
            if isinstance(leaf, Tensor):
                self.follow(leaf)
        return result

    def _refusal(self, look: str) -> str:
        where = f"layer {self.inside[-1]!r} of " if self.inside and self.inside[-1] else ""
        return (
            f"the forward pass of {where}{self.network} depends on values of its inputs ({look}), so that its groups "
            "cannot be traced; prune its weights (units: weights), or let it compute without branching"
        )
