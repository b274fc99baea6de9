"""Protocols: rules under which results of different methods may be ranked, named and versioned.

`equal-epochs`, version 1 (docs/protocol.md): T epochs of training and R = T of retraining for every method, whenever it
prunes, at the same rate and batch; the rate falls by a cosine and begins again after pruning; options that are tuned
are chosen by validation accuracy after pruning, from one grid for everyone. The order of methods depends on R (Renda et
al. 2020; Le and Hua 2021), so some cells may be repeated for the curve R = 0, T/4, T, 4T.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ...datasets.errors import UsageError
from .equal_epochs import LABEL, NAME, VERSION, retraining
from .pattern import Pattern
from .run import Choice
from .settings import Finetune, Settings, Training

# Of the prior precision: weight decays of about 1e-4 to 1e-1 at 1,000 examples.
GRIDS: dict[str, tuple[float, ...]] = {"precision": (0.1, 1.0, 10.0, 100.0)}


class Protocol(Settings):
    """What a matrix says of its protocol.

    Attributes:
        name, version: which one.
        tuning: grids by the name of an option; a method's option that is `tuned` is chosen from there.
        curve: the cells that are repeated under the other budgets of the curve.
    """

    name: Literal["equal-epochs"] = NAME
    version: Literal[1] = VERSION
    tuning: dict[str, tuple[float, ...]] = Field(default_factory=lambda: dict(GRIDS))
    curve: list[Pattern] = Field(default_factory=list)

    def phases(self, training: Training, finetune: Finetune) -> tuple[Training, Finetune]:
        """The phases that the protocol has; raises UsageError where a matrix asks for others."""
        if "schedule" in training.model_fields_set and training.schedule != "cosine":
            raise UsageError(f"training.schedule: {LABEL}, has a cosine; leave the schedule out")
        if "epochs" in finetune.model_fields_set and finetune.epochs != training.epochs:
            raise UsageError(
                f"finetune.epochs: {LABEL}, retrains for as many epochs as it trains, {training.epochs}; leave it "
                "out, and name cells for other budgets under curve"
            )
        if finetune.lr not in (None, training.lr):
            raise UsageError(f"finetune.lr: {LABEL}, retrains at the rate of the training; leave it out")
        cosine = training.model_copy(update={"schedule": "cosine"})
        return cosine, finetune.model_copy(update={"epochs": training.epochs, "lr": None})

    def tuned(self, choice: Choice) -> Choice:
        """A method whose options that say `tuned` have the protocol's grid, and are judged after pruning."""
        grids = {
            name: {"tuned": list(self.tuning[name]), "at": "pruned"}
            for name, value in choice.options.items()
            if value == "tuned" and name in self.tuning
        }
        return Choice(name=choice.name, options=choice.options | grids)

    def other_budgets(self, finetune: Finetune) -> list[Finetune]:
        """The retraining of the curve beside R = T; each once."""
        epochs = retraining(finetune.epochs)
        return [finetune.model_copy(update={"epochs": n}) for n in epochs if n != finetune.epochs]


def _named(value: Any) -> Any:
    """`equal-epochs` for `{name: equal-epochs}`."""
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[Protocol, BeforeValidator(_named)]
