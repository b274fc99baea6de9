"""Settings of training and fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class Training(BaseModel):
    """How networks are trained, the same for all methods. Weight decay is the inference's prior precision."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 64
    optimizer: Literal["adam", "sgd", "adabelief"] = "adam"
    lr: PositiveFloat = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(default=0.9, ge=0, lt=1)


class Finetune(BaseModel):
    """Training of the survivors after pruning; `lr` is that of the training unless given.

    `batch_norm: reestimate` first sets the statistics of BatchNorm layers anew, on the training examples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=5, ge=0)
    lr: PositiveFloat | None = None
    batch_norm: Literal["keep", "reestimate"] = "keep"
