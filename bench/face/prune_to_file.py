"""The face for the command line: prune the user's own trained network, and write the smaller one to a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...architectures.build import build
from ...architectures.running.modes import evaluating
from ...datasets import registry
from ...datasets.data import Split
from ...datasets.errors import UsageError, one_line
from ...datasets.load import load as load_data
from ...datasets.own import import_function
from ...datasets.source import Source
from ...methods.build import build as build_pruner
from ..evaluation import metrics
from ..evaluation.evaluate import predicted
from ..evaluation.latency import Speedup
from ..spec.settings import Training
from .gathering import gathered, readable
from .prune import Pruned, prune


@dataclass(frozen=True)
class Examples:
    """What to prune with, and, where there are any, examples apart on which the result is judged."""

    train: Split
    test: Split | None
    input_shape: tuple[int, ...]
    outputs: int


def examples(name: str, seed: int = 0) -> Examples:
    """The data set called `name`, or what the function `module:function` returns, as it is.

    The function is called without arguments and returns (x, y), (x_train, y_train, x_test, y_test), an iterable
    of batches such as a DataLoader, or a `Source`, which may hold sequences of tokens. Raises UsageError.
    """
    _, parts = registry.resolve(name)
    returned = _called(name, **parts) if "function" in parts else None
    if returned is None or isinstance(returned, Source):
        data = load_data(name, seed)
        return Examples(data.train, data.test, data.input_shape, data.outputs)
    if isinstance(returned, tuple | list) and len(returned) == 4:
        return _shaped(gathered(tuple(returned[:2])), gathered(tuple(returned[2:])))
    return _shaped(gathered(returned), None)


def _shaped(train: Split, test: Split | None) -> Examples:
    outputs = int(train.y.max()) + 1 if train.likelihood == "categorical" else train.y.shape[1]
    return Examples(train, test, tuple(train.x.shape[1:]), outputs)


def _called(name: str, module: str, function: str) -> Any:
    found = import_function("data", module, function)
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise UsageError(f"data {name!r} failed: {one_line(error)}") from error


def architecture_for(name: str, options: Mapping[str, Any], data: Examples) -> dict[str, Any]:
    """What `architectures.build` and a bundle need to know of the network."""
    return {"name": name, "input_shape": data.input_shape, "outputs": data.outputs, "options": dict(options)}


def trained(architecture: Mapping[str, Any], checkpoint: str | Path | None, seed: int) -> nn.Module:
    """The network with the weights of a checkpoint (safetensors, or a state dict saved by torch).

    Raises UsageError, naming the tensor, for a checkpoint of another network.
    """
    options = architecture["options"]
    network = build(architecture["name"], architecture["input_shape"], architecture["outputs"], seed=seed, **options)
    if checkpoint is None:
        return network
    state, own = _state(Path(checkpoint)), network.state_dict()
    for name in sorted(own.keys() | state.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (own, state)]
        if shapes[0] != shapes[1]:
            place = f"{name} is {shapes[1]} there and {shapes[0]} in {architecture['name']!r}"
            raise UsageError(f"checkpoint {checkpoint} is of another network: {place}")
    network.load_state_dict(state)
    return network


def _state(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot read checkpoint {path}: {error}") from error
    except Exception as error:  # torch.load raises what pickle raises
        raise UsageError(f"checkpoint {path} is no state dict of plain tensors: {one_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"checkpoint {path} is no state dict: save network.state_dict()")
    return state


def prune_to_file(
    out: str | Path, architecture: str, options: Mapping[str, Any], checkpoint: str | Path | None, data: str,
    seed: int = 0,
    training: Mapping[str, Any] | None = None, onnx: str | Path | None = None, **settings: Any,
) -> tuple[Pruned, str]:  # fmt: skip
    """Build, load, prune, judge and write; returns what was pruned and a text that says what it gave.

    `settings` are those of `prune`. Raises UsageError for all that the user can mend; then nothing is written.
    """
    given = examples(data, seed)
    reference = architecture_for(architecture, options, given)
    network = trained(reference, checkpoint, seed)
    pruned = prune(network, given.train, seed=seed, training=Training(**(training or {})), **settings)
    lines = [
        *_untrained(checkpoint, pruned),
        pruned.summary(),
        *_judged(pruned, given.test),
        *map(_told, pruned.speedups()),
    ]
    pruned.save(out, reference)
    if onnx is not None:
        from ...architectures.saved.export import export_onnx

        lines.append(f"ONNX: {onnx}, {export_onnx(onnx, pruned.deployable(), pruned.inputs)}")
    return pruned, "\n".join([*lines, f"written: {out} ({Path(out).stat().st_size:,} bytes)"])


def _untrained(checkpoint: str | Path | None, pruned: Pruned) -> list[str]:
    """A warning where a method for trained networks was given one with its initial weights."""
    method, options = pruned.notes["method"], pruned.notes["options"]
    if checkpoint is not None or build_pruner(method, **options).when == "before":
        return []
    return [f"note: {method} is for trained networks, and this one has its initial weights; give --checkpoint FILE"]


def _judged(pruned: Pruned, test: Split | None) -> list[str]:
    if test is None or test.likelihood != "categorical":
        return []
    test = readable(pruned.dense, test)
    dense, own = (_quality(network, test) for network in (pruned.dense, pruned.deployable()))
    found = [f"accuracy on {len(test):,} examples apart: {own['accuracy']:.4f} (dense: {dense['accuracy']:.4f})"]
    if test.terms > len(test):
        found.append(f"bits per character there: {own['bits']:.4f} (dense: {dense['bits']:.4f})")
    return found


def _quality(network: nn.Module, split: Split) -> dict[str, float]:
    """Accuracy, and bits per label, of the examples that are evaluated (of a language model those that fit)."""
    with evaluating(network), torch.no_grad():
        outputs, y = predicted(network, split, network(split.x[:1]).shape[-1])
    nats = metrics.negative_log_likelihood(outputs, y)
    return {"accuracy": (outputs.argmax(-1) == y).double().mean().item(), "bits": nats / math.log(2)}


def _told(speedup: Speedup) -> str:
    interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
    return f"latency at batch {speedup.batch}: {speedup.ratio:.2f} times as fast ({interval}): {speedup.verdict}"
