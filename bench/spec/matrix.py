"""The matrix file: a product of lists, checked before anything runs, expanded into cells."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from ...architectures.units.vector import Granularity
from ...datasets.errors import UsageError, unknown
from .conditions import Conditions
from .pattern import Pattern, Sparsity, match
from .protocol import Named, Protocol
from .run import WEIGHTS, Choice, Run, sources_read_once
from .settings import Finetune, Seed, Training
from .shipped import find_matrix
from .yaml_places import line_of, written
from .yaml_text import parsed, text_of


def _choice(value: Any) -> Any:
    """`magnitude`, or `{name: magnitude, option: value}`, as a Choice."""
    if isinstance(value, Choice):
        return value
    if isinstance(value, str):
        return Choice(name=value)
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return Choice(name=value["name"], options={k: v for k, v in value.items() if k != "name"})
    raise ValueError("give a name, or a mapping with a name and options")


Choices = Annotated[list[Annotated[Choice, BeforeValidator(_choice)]], Field(min_length=1)]


class Matrix(Conditions):
    """Everything that a matrix file says."""

    datasets: Choices
    architectures: Choices
    methods: Choices
    sparsity: Annotated[list[Sparsity], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    units: Annotated[list[Granularity], Field(min_length=1)] = Field(default_factory=lambda: ["weights"])
    exclude: list[Pattern] = Field(default_factory=list)
    protocol: Named | None = None

    _file: Path | None = PrivateAttr(None)
    _node: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _certified(self) -> Self:
        """A mask of the prior's examples is for the certificate whose prior has such examples."""
        if self.mask_from == "prior" and self.risk_bound != "half":
            raise ValueError(
                "mask_from: prior chooses masks on the examples of risk_bound: half, which must be asked for"
            )
        return self

    def cells(self) -> list[Run]:
        """The cells, each once; raises UsageError for names and options that nobody knows, or when none is left."""
        from ...architectures.build import options as architecture_options
        from ...datasets.load import options as dataset_options
        from ...methods.build import options as method_options

        datasets = self._checked("datasets", dataset_options)
        architectures = self._checked("architectures", architecture_options)
        methods = self._checked("methods", method_options)
        training, finetune = self._phases()
        conditions = {name: getattr(self, name) for name in Conditions.model_fields}
        conditions |= {"training": training, "finetune": finetune}
        product = itertools.product(datasets, architectures, self.units, self.seeds, methods, self.sparsity)
        runs = [
            Run(dataset=d, architecture=a, units=u, seed=seed, method=m, sparsity=s, **conditions)
            for d, a, u, seed, m, s in product
        ]
        self._refuse_idle_patterns(runs)
        self._refuse_untrained(architectures)
        runs += self._curve(runs, finetune)
        with sources_read_once():
            kept = {run.key: run for run in runs if not match(self.exclude, run)}
        if not kept:
            raise UsageError("the matrix is empty: `exclude` leaves no cell")
        return list(kept.values())

    def _phases(self) -> tuple[Training, Finetune]:
        """Training and retraining, as the protocol has them if there is one."""
        if self.protocol is None:
            return self.training, self.finetune
        try:
            return self.protocol.phases(self.training, self.finetune)
        except UsageError as error:
            raise UsageError(f"{self._place('protocol')}{error}") from error

    def _curve(self, runs: list[Run], finetune: Finetune) -> list[Run]:
        """The cells that the protocol repeats under other budgets."""
        if self.protocol is None:
            return []
        budgets = self.protocol.other_budgets(finetune)
        return [r.model_copy(update={"finetune": f}) for f in budgets for r in runs if match(self.protocol.curve, r)]

    def _checked(self, kind: str, options: Callable[[str, Mapping[str, Any]], dict[str, Any]]) -> list[Choice]:
        """The choices of one kind with checked options, without those at their default."""
        checked = []
        tuned = self.protocol.tuned if self.protocol is not None and kind == "methods" else lambda choice: choice
        for i, choice in enumerate(map(tuned, getattr(self, kind))):
            try:
                checked.append(Choice(name=choice.name, options=options(choice.name, choice.options)))
            except UsageError as error:
                raise UsageError(f"{self._place(kind, i)}{error}") from error
        return checked

    def _refuse_idle_patterns(self, runs: list[Run]) -> None:
        curve = self.protocol.curve if self.protocol else []
        for place, patterns in ((("exclude",), self.exclude), (("protocol", "curve"), curve)):
            for i, pattern in enumerate(patterns):
                if not any(pattern.matches(run) for run in runs):
                    given = pattern.model_dump(exclude_none=True)
                    raise UsageError(f"{self._place(*place, i)}{place[-1]} {given} matches no cell; check the spelling")

    def _refuse_untrained(self, architectures: list[Choice]) -> None:
        for i, choice in enumerate(architectures):
            if not self.training.epochs and WEIGHTS not in choice.options:
                raise UsageError(
                    f"{self._place('architectures', i)}training.epochs: 0 leaves {choice.label!r} untrained; give it "
                    "the option weights, or at least one epoch"
                )

    def _place(self, *path: Any) -> str:
        return f"{self._file}:{line_of(self._node, path)}: " if self._file else ""


def load_matrix(name_or_path: str | Path) -> Matrix:
    """Read a matrix file, or a shipped matrix by its name.

    Raises UsageError, naming file and line, for a file that is absent, is not YAML, or says what a matrix
    does not know.
    """
    path = find_matrix(name_or_path)
    node, content = parsed(text_of(path), str(path))
    if not isinstance(content, Mapping):
        keys = sorted(Matrix.model_fields, key=lambda name: not Matrix.model_fields[name].is_required())
        raise UsageError(f"{path}:1: a matrix is a mapping with the keys {', '.join(keys)}")
    try:
        matrix = Matrix.model_validate(content)
    except ValidationError as error:
        raise _located(path, node, error) from error
    matrix._file, matrix._node = path, node
    return matrix


def _located(path: Path, node: yaml.Node | None, error: ValidationError) -> UsageError:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a misspelt key is also a missing one
    place = list(written(node, first["loc"]))
    where = f"{path}:{line_of(node, place)}"
    name = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        known = _fields_at(place[:-1])
        return UsageError(f"{where}: {unknown('key', place[-1], known)}")
    if first["type"] == "missing":
        return UsageError(f"{where}: the key {name!r} is missing")
    given = "" if isinstance(first["input"], Mapping) else f" (got {first['input']!r})"
    message = first["msg"].removeprefix("Value error, ").lower()
    if first["type"] == "too_short":
        message = "the list is empty; name at least one"
    if place and place[0] == "sparsity" and len(place) > 1:
        message = "a sparsity is a number in [0, 1) or auto"
    return UsageError(f"{where}: {name}: {message}{given}")


def _fields_at(place: list[Any]) -> Iterable[str]:
    model = {"training": Training, "finetune": Finetune, "exclude": Pattern, "protocol": Protocol}.get(
        place[0] if place else "", Matrix
    )
    return model.model_fields
