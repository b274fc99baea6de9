"""Export: a network as a torch.export program or an ONNX file, each compared with the network itself."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError, one_line
from ...datasets.trees import Inputs, examples, mapped, tensors_in
from ..compaction.certificate import Certificate
from ..running.forms import Forward, form_for, in_form
from ..running.modes import evaluating, precision_of, to_network

ONNX = ("onnx", "onnxruntime", "onnxscript")
ONNX_TOLERANCE = 1e-5


@torch.no_grad()
def export(network: nn.Module, x: Inputs, forward: Forward | None = None) -> torch.export.ExportedProgram:
    """`network` in evaluation mode as a program, for batches of any size where the network allows that.

    It takes x in the form given, and returns one tensor: that of the user's `forward`, or the logits (`running.forms`).

    Otherwise the program takes batches of the size of `x` (two, if x is a single example). The network is
    as before afterwards. nn.MultiheadAttention is exported and compared without the fused kernel that it
    takes where gradients are off: that kernel is in no program, and rounds otherwise.

    Raises:
        UsageError: a network that cannot be traced, or a program whose outputs for `x` are not identical.
    """
    x = _at_least_two(to_network(x, network))
    form = form_for(network, x, forward)
    with in_form(form, network), evaluating(network), _without_fused_attention(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*_flat_weights")  # nn.LSTM's list of its own parameters
        program = _traced(network, x)
        if not torch.equal(program.module()(x), network(x)):
            raise UsageError(f"the exported program of {type(network).__name__} computes something else")
    return program


@torch.no_grad()
def export_onnx(path: str | Path, network: nn.Module, x: Inputs, forward: Forward | None = None) -> Certificate:
    """Write `network` in evaluation mode as an ONNX file, replaced in one step, after a check by onnxruntime.

    Returns:
        The largest difference of the outputs for `x`, over max(1, largest absolute output).

    Raises:
        UsageError: packages that are not installed, a network that cannot be exported, outputs further
            than 1e-5 apart, a file that cannot be written. Nothing is written then.
    """
    if missing := [name for name in ONNX if importlib.util.find_spec(name) is None]:
        raise UsageError(f"ONNX export needs {', '.join(missing)}; pip install 'bayesprune[onnx]'")
    x = _at_least_two(to_network(x, network))
    content = onnx_bytes(network, x, forward)
    with in_form(form_for(network, x, forward), network), evaluating(network):
        expected = network(x)
    dtype = str(precision_of(network)).removeprefix("torch.")
    certificate = _compared(expected.cpu(), _run_onnx(content, x), dtype)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    return certificate


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _at_least_two(x: Inputs) -> Inputs:
    """A batch of one would be taken for a constant size."""
    return mapped(x, lambda tensor: torch.cat([tensor, tensor])) if examples(x) == 1 else x


def _traced(network: nn.Module, x: Inputs) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        return torch.export.export(network, (x,), dynamic_shapes=(mapped(x, lambda _: {0: batch}),))
    except Exception:  # the batch size is part of the network's arithmetic
        try:
            return torch.export.export(network, (x,))
        except Exception as error:
            raise UsageError(f"{type(network).__name__} cannot be exported: {one_line(error)}") from error


def onnx_bytes(network: nn.Module, x: Inputs, forward: Forward | None = None) -> bytes:
    """The content of an ONNX file; raises UsageError for a network that cannot be exported."""
    program = export(network, x, forward)
    try:
        converted: Any = torch.onnx.export(program, (x,), dynamo=True, verbose=False)
        return converted.model_proto.SerializeToString()
    except Exception as error:
        raise UsageError(f"{type(network).__name__} cannot be exported to ONNX: {one_line(error)}") from error


def _run_onnx(content: bytes, x: Inputs) -> Tensor:
    runtime = importlib.import_module("onnxruntime")
    runner = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in runner.get_inputs()]
    inputs = {name: tensor.cpu().numpy() for name, tensor in zip(names, tensors_in(x), strict=True)}
    return torch.from_numpy(runner.run(None, inputs)[0])


def _compared(expected: Tensor, found: Tensor, dtype: str) -> Certificate:
    if expected.shape != found.shape:
        raise UsageError(f"ONNX outputs have shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    largest = float(expected.abs().max())
    difference = float((expected - found).abs().max()) / max(1.0, largest)
    if not difference <= ONNX_TOLERANCE:
        raise UsageError(f"ONNX outputs differ by {difference:.1e}, more than {ONNX_TOLERANCE:g}")
    return Certificate(difference, largest, len(expected), ONNX_TOLERANCE, dtype)
