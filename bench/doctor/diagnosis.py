"""What curvature a network can have: our own, with its cost, and which backends of laplace-torch manage it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError
from ...datasets.load import load
from ...methods.curvature import kronecker
from ...methods.curvature.output_vectors import CurvatureKind
from ..text_table import aligned
from .memory import free_bytes, predicted_bytes
from .probes import Answer, Lost, Prober, Problem, Trial, expected

STRUCTURES = ("diag", "kron")
BACKENDS: Mapping[str | None, CurvatureKind] = {
    "CurvlinopsGGN": "ggn", "CurvlinopsEF": "ef", "BackPackGGN": "ggn", "BackPackEF": "ef", "AsdlGGN": "ggn",
    "AsdlEF": "ef",
}  # fmt: skip
OWN = "bayesprune"
_OWN: Sequence[tuple[str | None, CurvatureKind]] = ((None, "ggn"), (None, "ef"))
TRIALS = tuple(
    Trial(structure, kind, backend) for structure in STRUCTURES for backend, kind in (*_OWN, *BACKENDS.items())
)
REASON_LENGTH = 80


@dataclass(frozen=True)
class Finding:
    """One row: how a trial ended, and its seconds in multiples of our own for the same structure and kind."""

    structure: str
    backend: str
    kind: str
    result: str
    seconds: float | None
    times_ours: float | None
    difference: float | None
    predicted_bytes: int
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """All that is known of a network's curvature; `fallback` names parameters with a pass for each example."""

    architecture: str
    dataset: str
    input_shape: tuple[int, ...]
    outputs: int
    batch: int
    parameters: int
    tensors: int
    fallback: tuple[str, ...]
    diagonal_bytes: int
    kfac_bytes: int
    free_bytes: int
    findings: tuple[Finding, ...]


def diagnose(
    architecture: str,
    options: Mapping[str, Any] | None = None,
    dataset: str = "digits",
    batch: int = 64,
    resize: int | None = None,
    limit: float = 60.0,
) -> Diagnosis:
    """Try every curvature on one batch of `dataset`, each in a child process for at most `limit` seconds.

    Raises UsageError if the data or the network cannot be had.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    data = load(dataset, resize=resize)
    train = data.train[slice(batch)]
    problem = Problem(
        architecture, dict(options or {}), data.input_shape, data.outputs, train.x.numpy(), train.y.numpy(),
        data.likelihood,
    )  # fmt: skip
    network, free = problem.network(), free_bytes()
    tensors = trainable(network)
    with Prober(problem, free, limit) as prober:
        slow, diagonal = _expected(prober)
        predicted = {trial: predicted_bytes(trial, network, len(train), data.outputs, diagonal) for trial in TRIALS}
        findings = _findings(prober, predicted, free)
    return Diagnosis(
        architecture, dataset, data.input_shape, data.outputs, len(train), sum(p.numel() for p in tensors.values()),
        len(tensors), tuple(slow), diagonal, kronecker.predicted_bytes(network), free, findings,
    )  # fmt: skip


def _expected(prober: Prober) -> tuple[list[str], int]:
    try:
        return prober.run(expected)
    except Lost:  # the trial of our own diagonal will say why
        return [], 0


def _findings(prober: Prober, predicted: Mapping[Trial, int], free: int) -> tuple[Finding, ...]:
    found: list[Finding] = []
    own: dict[tuple[str, str], float] = {}
    for trial, needed in predicted.items():
        answer = _answer(prober, trial, needed, free)
        key = (trial.structure, trial.kind)
        if trial.backend is None and answer.seconds:
            own[key] = answer.seconds
        times = answer.seconds / own[key] if answer.seconds and key in own else None
        found.append(
            Finding(
                trial.structure, trial.backend or OWN, trial.kind, answer.result, answer.seconds, times,
                answer.difference, needed, answer.reason,
            )
        )  # fmt: skip
    return tuple(found)


def _answer(prober: Prober, trial: Trial, predicted: int, free: int) -> Answer:
    if predicted > free:
        return Answer("skipped", reason=f"needs about {size_text(predicted)}, {size_text(free)} are free")
    return prober.attempt(trial)


# ---------------------------------------------------------------------- memory


# ---------------------------------------------------------------------- text


def as_json(diagnosis: Diagnosis) -> str:
    """The diagnosis as a JSON object."""
    return json.dumps(asdict(diagnosis), indent=1, allow_nan=False)


def describe(diagnosis: Diagnosis) -> str:
    """The diagnosis as aligned text."""
    d = diagnosis
    shape = "×".join(map(str, d.input_shape))
    return "\n".join(
        [
            f"{d.architecture} for {d.dataset}: inputs {shape}, {d.outputs} outputs, {d.parameters:,} parameters in "
            f"{d.tensors} tensors; a batch of {d.batch}, one thread",
            "",
            *_own_text(d),
            "",
            *aligned([_HEAD, *map(_row, d.findings)], _RIGHT),
            "",
            "x ours: seconds in multiples of ours, of the same structure and kind. difference: the largest from",
            "our diagonal, relative to the largest entry of the same parameter; KFAC is no diagonal, so it has none.",
        ]
    )


def _own_text(d: Diagnosis) -> list[str]:
    slow = f"{len(d.fallback)} of {d.tensors} tensors need a slow pass for each example: {', '.join(d.fallback)}"
    return [
        f"Diagonal: {slow if d.fallback else 'every parameter in the passes of the whole batch, none one by one'}",
        f"Memory: diagonal about {size_text(d.diagonal_bytes)}, KFAC at most "
        f"{size_text(d.kfac_bytes)}; {size_text(d.free_bytes)} are free",
    ]


_HEAD = ("structure", "backend", "kind", "result", "seconds", "x ours", "difference", "reason")
_RIGHT = frozenset({"seconds", "x ours", "difference"})


def _row(f: Finding) -> tuple[str, ...]:
    numbers = (_text(f.seconds, ".3g"), _text(f.times_ours, ".1f"), _text(f.difference, ".0e"))
    return f.structure, f.backend, f.kind, f.result, *numbers, shortened(f.reason)


def _text(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)


def shortened(text: str) -> str:
    """One line of at most 80 characters."""
    line = " ".join(text.split())
    return line if len(line) <= REASON_LENGTH else f"{line[: REASON_LENGTH - 1]}…"


def size_text(count: float) -> str:
    """`12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
