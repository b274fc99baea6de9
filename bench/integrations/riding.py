"""What the callbacks have in common: a method that rides along in the loop of a trainer.

The trainer's optimiser has the network's parameters; the method's own have an Adam of theirs here, which follows its
learning rate. So the trainer's optimiser, schedules and checkpoints stay what they are.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from ...datasets.errors import UsageError
from ..face.attach import attach
from ..face.attached import AttachedMethod
from ..face.pruned import Pruned


class Riding:
    """Attaches a method when training begins, steps with the trainer, and prunes at the end.

    Args:
        method: name of a registered method.
        sparsity: share of the units to remove, in [0, 1), or "auto".
        options: those of `bayesprune.attach`; `data` is the trainer's own unless given.

    Attributes:
        pruned: the result, once training has ended.
        method: the method at work, from the beginning of the training on.
    """

    def __init__(self, method: str, sparsity: float | Literal["auto"], **options: Any) -> None:
        self.name, self.options = method, options
        self.sparsity: float | Literal["auto"] = sparsity
        self.method: AttachedMethod | None = None
        self.pruned: Pruned | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._saved: dict[str, Any] | None = None

    def begin(self, network: nn.Module, data: Any) -> None:
        """Attach to the network, and go on from what `load` was given."""
        options: dict[str, Any] = {"data": data, "sparsity": self.sparsity, **self.options}
        self.method = attach(network, self.name, **options)
        own = self.method.parameters()
        self._optimizer = torch.optim.Adam(own) if own else None
        if self._saved is not None:
            self.method.load_state_dict(self._saved["method"])
            if self._optimizer is not None:
                self._optimizer.load_state_dict(self._saved["optimizer"])
            self._saved = None

    def before_step(self) -> None:
        """Gradients are there: add the penalty's."""
        self.at_work.add_penalty()

    def after_step(self, lr: float) -> None:
        """The trainer's optimiser has taken its step, at this learning rate: take that of the method's own."""
        if self._optimizer is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
            self._optimizer.zero_grad()
        self.at_work.after_step()

    def end(self, data: Any) -> None:
        """Prune, and take the method off."""
        method = self.at_work
        given = method.asked_when in ("before", "during", "dynamic")
        self.pruned = method.finish(None if given else self.sparsity, data)

    @property
    def at_work(self) -> AttachedMethod:
        """The method; raises UsageError before the training has begun."""
        if self.method is None:
            raise UsageError("the callback has seen no beginning of a training: give it to the trainer before fit")
        return self.method

    def state(self) -> dict[str, Any]:
        """For a checkpoint; nothing before the training has begun."""
        if self.method is None:
            return {}
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        return {"method": self.method.state_dict(), "optimizer": optimizer}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, once the training begins."""
        self._saved = state or None
