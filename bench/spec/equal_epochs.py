"""The budgets of the protocol `equal-epochs`, and whether the settings of a record have one of them. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME, VERSION = "equal-epochs", 1
LABEL = f"{NAME}, version {VERSION}"
# Epochs of retraining over those of training, of which 1 is the headline.
CURVE = (0.0, 0.25, 1.0, 4.0)


def retraining(training: int) -> list[int]:
    """Epochs of retraining on the curve, after so many of training; rising, each once."""
    return sorted({round(share * training) for share in CURVE})


def of_settings(run: Mapping[str, Any]) -> str | None:
    """The protocol whose budgets the settings of a record's `run` have; None if they have none's."""
    training, finetune = run.get("training", {}), run.get("finetune", {})
    follows = (
        training.get("schedule") == "cosine"
        and finetune.get("lr") in (None, training.get("lr"))
        and finetune.get("epochs") in retraining(training.get("epochs", 0))
    )
    return LABEL if follows else None
