"""Settings of training and fine-tuning, and the numbers that a matrix takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ...datasets.plain import as_plain

MOST = 2**31 - 1


def _no_boolean(value: Any) -> Any:
    """`yes` is no number of epochs."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


Number = Annotated[float, BeforeValidator(_no_boolean)]
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Count = Annotated[Whole, Field(gt=0, le=MOST)]
Rate = Annotated[Number, Field(gt=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Threads = Annotated[Whole, Field(gt=0, le=4096)]


class Settings(BaseModel):
    """Fields that are all known, finite and fixed; numbers of numpy and torch are as good as Python's."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return as_plain(given)


class Drops(Settings):
    """A learning rate that falls in steps: times `factor` at the end of each of the epochs `at`, counted in each phase.

    So a phase after pruning begins at the full rate again, as with a cosine.
    """

    factor: Annotated[Number, Field(gt=0, lt=1)]
    at: Annotated[tuple[Count, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("the epochs of a schedule must rise")
        return self


class Training(Settings):
    """How networks are trained, the same for all methods. Weight decay is the inference's prior precision.

    No epochs are for networks whose weights are given.
    """

    epochs: Annotated[Whole, Field(ge=0, le=MOST)] = 30
    batch_size: Count = 64
    optimizer: Literal["adam", "sgd", "adabelief"] = "adam"
    lr: Rate = 1e-3
    schedule: Literal["constant", "cosine"] | Drops = "constant"
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9


class Finetune(Settings):
    """Training of the survivors after pruning; `lr` is that of the training unless given.

    `batch_norm: reestimate` first sets the statistics of BatchNorm layers anew, on the training examples.
    """

    epochs: Annotated[Whole, Field(ge=0, le=MOST)] = 5
    lr: Rate | None = None
    batch_norm: Literal["keep", "reestimate"] = "keep"
