"""Methods by name. Every method takes, beside its own options, those of the schedule: when, rounds, allocation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from ..datasets.registry import UsageError
from . import registry
from .pruner import Allocation, Pruner, When

_CHOICES = {"when": get_args(When), "allocation": get_args(Allocation)}


def build(name: str, **given: Any) -> Pruner:
    """The pruner called `name`; raises UsageError for a name, an option or a value that does not exist."""
    own, schedule = _separate(name, given)
    pruner = registry.build(name, **own)
    if not isinstance(pruner, Pruner):
        raise UsageError(f"method {name!r} must return a Pruner, got {type(pruner).__name__}")
    pruner.inference()  # a bad hyperparameter is refused here, not in the middle of a matrix
    return replace(pruner, **schedule)


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options of the method `name`, without those at their default."""
    own, schedule = _separate(name, given)
    checked = registry.options(name, own)
    default = build(name, **checked)
    return checked | {n: v for n, v in schedule.items() if v != getattr(default, n)}


def _separate(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = registry.option_names(name)
    schedule = {n: _schedule_value(name, n, v) for n, v in given.items() if n in _SCHEDULE and n not in own}
    return {n: v for n, v in given.items() if n not in schedule}, schedule


def _schedule_value(method: str, option: str, value: Any) -> Any:
    choices = _CHOICES.get(option)
    if choices and value not in choices:
        raise UsageError(f"method {method!r}: {option}={value!r} is not valid: choose {', '.join(choices)}")
    if not choices and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UsageError(f"method {method!r}: {option}={value!r} is not valid: give a whole number >= 1")
    return value


_SCHEDULE = ("when", "rounds", "allocation")
