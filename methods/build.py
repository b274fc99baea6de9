"""Methods by name. Every method takes, beside its own options, those of the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from ..datasets.errors import UsageError, one_line
from ..datasets.plain import as_plain
from ..datasets.seal import TestSplitError, sealed
from . import registry
from .pruner import Adjusting, Allocation, Inference, Pruner, Retrain, Rewind, When

# Options of every method: when, in how many rounds and by which allocation units leave, and where the others go.
SCHEDULE = ("when", "rounds", "every", "allocation", "adjust", "rewind", "retrain")
_CHOICES = {
    name: get_args(kind)
    for name, kind in (("when", When), ("allocation", Allocation), ("adjust", Adjusting), ("retrain", Retrain))
}


def build(name: str, **given: Any) -> Pruner:
    """The pruner called `name`; raises UsageError for a name, an option or a value that does not exist."""
    own, schedule = _separate(name, given)
    with sealed():
        try:
            pruner = registry.build(name, **own)
            inference = pruner.inference()  # a bad hyperparameter is refused here, not in the middle of a matrix
        except (UsageError, TestSplitError):
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"method {name!r} cannot be built: {one_line(error)}") from error
    _check_kind(name, pruner, inference)
    pruner = replace(pruner, **schedule)
    if pruner.adjust == "condition" and not inference.correlates:
        raise UsageError(
            f"method {name!r}: adjust=condition moves survivors by their correlations with what leaves, and its "
            "posterior has none: choose curvature: kfac, or curvature: full for a small network"
        )
    return pruner


def _check_kind(name: str, pruner: Any, inference: Any) -> None:
    if not isinstance(pruner, Pruner):
        raise UsageError(f"method {name!r} must return a Pruner, got {type(pruner).__name__}")
    kind = type(inference)
    if not isinstance(inference, Inference) or "__dataclass_fields__" not in vars(kind):
        raise UsageError(
            f"method {name!r}: {kind.__name__} must be a subclass of Inference decorated with @dataclass: "
            "its fields decide which trained networks are shared"
        )


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options of the method `name`, without those at their default."""
    own, schedule = _separate(name, given)
    checked = registry.options(name, own)
    default = build(name, **checked)
    return checked | {n: v for n, v in schedule.items() if v != getattr(default, n)}


def _separate(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    given = as_plain(given)
    own = registry.option_names(name)
    schedule = {n: _schedule_value(name, n, v) for n, v in given.items() if n in SCHEDULE and n not in own}
    return {n: v for n, v in given.items() if n not in schedule}, schedule


def _schedule_value(method: str, option: str, value: Any) -> Any:
    if option == "rewind":
        if value in get_args(get_args(Rewind)[1]) or (
            isinstance(value, int) and not isinstance(value, bool) and value >= 0
        ):
            return value
        raise UsageError(f"method {method!r}: rewind={value!r} is not valid: give an epoch, initial or transplant")
    choices = _CHOICES.get(option)
    if choices and value not in choices:
        raise UsageError(f"method {method!r}: {option}={value!r} is not valid: choose {', '.join(choices)}")
    if not choices and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UsageError(f"method {method!r}: {option}={value!r} is not valid: give a whole number >= 1")
    return value
