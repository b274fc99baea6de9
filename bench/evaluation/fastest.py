"""The form in which a network runs fastest here: eager, channels last, compiled, or by ONNX Runtime.

Smaller networks are not faster in proportion: what the framework does for every operation stays. So dense and pruned
are both tried in every form, and the best form of one is compared with the best of the other, in rounds of their own,
as a form that was chosen for its times looks better in those than it is. Whether a ratio is more than noise is seen
from the same network timed against itself in the same rounds.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.running.modes import evaluating
from ...architectures.running.plain import copied
from ...architectures.saved.export import onnx_bytes
from ...datasets.errors import UsageError, one_line
from .latency import Speedup, speedup_of, times

AGREED = 1e-3  # largest difference of a form's outputs from the eager ones, over max(1, largest output)


@dataclass(frozen=True)
class Fastest:
    """At one batch size: the fastest form of the pruned network, and how it compares with the fastest dense one.

    Attributes:
        batch: examples at once.
        form: "eager", "channels last", "compiled" or "onnx".
        dense_form: that of the dense network.
        speedup: dense seconds over pruned seconds, each in its best form.
        noise: the same ratio of the dense network to itself: what this machine makes of no difference.
        seconds: of every form, pruned and dense, medians, by name.
        run: the form itself, a module that maps inputs to outputs.
        left_out: forms that cannot be had here, with the reason.
    """

    batch: int
    form: str
    dense_form: str
    speedup: Speedup
    noise: Speedup
    seconds: Mapping[str, Mapping[str, float]]
    run: nn.Module
    left_out: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """`faster` or `slower` where the interval is beyond what the same network shows against itself."""
        if self.speedup.low > max(1.0, self.noise.high):
            return "faster"
        return "slower" if self.speedup.high < min(1.0, self.noise.low) else "no faster"

    def __str__(self) -> str:
        s = self.speedup
        return (
            f"batch {self.batch}: {self.form} against dense {self.dense_form}, {s.ratio:.2f} times as fast "
            f"({s.low:.2f} to {s.high:.2f}; dense against itself {self.noise.low:.2f} to {self.noise.high:.2f}): "
            f"{self.verdict}"
        )


def fastest(
    dense: nn.Module, pruned: nn.Module, x: Tensor, batches: Sequence[int] = (1, 16, 64), seconds: float = 1.0
) -> list[Fastest]:
    """The fastest form of `pruned` for every batch size; inputs are repeated from `x`.

    Each size takes about twice `seconds` after the forms are made; compiling takes longest. The threads are those that
    torch uses now. Raises UsageError for a batch size that is no whole number >= 1.
    """
    found = []
    for size in batches:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"batches must be whole numbers >= 1, got {size!r}")
        inputs = x[torch.arange(size, device=x.device) % len(x)]
        of_dense, missing = _forms(dense, inputs)
        of_pruned, others = _forms(pruned, inputs)
        found.append(_compared(size, of_dense, of_pruned, inputs, seconds, missing | others))
    return found


def _compared(
    size: int, dense: dict[str, nn.Module], pruned: dict[str, nn.Module], x: Tensor, seconds: float,
    left_out: dict[str, str],
) -> Fastest:  # fmt: skip
    contenders = {("dense", n): f for n, f in dense.items()} | {("pruned", n): f for n, f in pruned.items()}
    measured = times(contenders, x, seconds)
    medians: dict[str, dict[str, float]] = {"dense": {}, "pruned": {}}
    for (whose, name), taken in measured.items():
        medians[whose][name] = sorted(taken)[len(taken) // 2]
    best, best_dense = (min(medians[whose], key=medians[whose].__getitem__) for whose in ("pruned", "dense"))
    again = times({"dense": dense[best_dense], "itself": dense[best_dense], "pruned": pruned[best]}, x, seconds)
    ratio, noise = (speedup_of(size, again["dense"], again[name]) for name in ("pruned", "itself"))
    return Fastest(size, best, best_dense, ratio, noise, medians, pruned[best], left_out)


# ---------------------------------------------------------------------- forms


def _forms(network: nn.Module, x: Tensor) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The forms of a network that compute here what it computes, and why others do not."""
    network = copied(network).eval()
    with torch.no_grad():
        expected = network(x)
    forms, left_out = {"eager": network}, {}
    for name, make in _FORMS.items():
        try:
            form = make(network, x).eval()
            with torch.no_grad():
                _check(form(x), expected)
        except Exception as reason:
            left_out[name] = one_line(reason)
        else:
            forms[name] = form
    return forms, left_out


def _check(found: Tensor, expected: Tensor) -> None:
    difference = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not difference <= AGREED:
        raise UsageError(f"its outputs differ by {difference:.1e}")


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copied(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))


class _Onnx(nn.Module):
    def __init__(self, network: nn.Module, x: Tensor) -> None:
        super().__init__()
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with evaluating(network):
            content = onnx_bytes(network, x)
        self.runner = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.name = self.runner.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.runner.run(None, {self.name: x.numpy()})[0])


def _channels_last(network: nn.Module, x: Tensor) -> nn.Module:
    if x.dim() != 4:
        raise UsageError("its inputs are no images")
    return _ChannelsLast(network)


def _compiled(network: nn.Module, x: Tensor) -> nn.Module:
    form: Any = torch.compile(copied(network), dynamic=False)
    return form


def _onnx(network: nn.Module, x: Tensor) -> nn.Module:
    if x.device.type != "cpu":
        raise UsageError("it is tried on the CPU only")
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError("onnxruntime is not installed: pip install 'bayesprune[onnx]'")
    return _Onnx(network, x)


_FORMS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "channels last": _channels_last,
    "compiled": _compiled,
    "onnx": _onnx,
}
