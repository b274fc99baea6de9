"""The face for the command line: train and prune the user's own network, and write the smaller one to a file."""

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
from ...architectures.checks import random_inputs
from ...architectures.running.modes import as_rows, evaluating
from ...architectures.running.plain import own_names
from ...datasets import registry
from ...datasets.errors import UsageError, one_line
from ...datasets.examples import Examples as Learned
from ...datasets.load import load as load_data
from ...datasets.own import import_function
from ...datasets.source import Source
from ...datasets.split import Split
from ...methods.build import build as build_pruner
from ...methods.closed_forms.likelihood import output_model
from ..evaluation.evaluate import DECISIONS, predicted
from ..evaluation.latency import Speedup
from ..spec.settings import Training
from .fit import fit
from .gathering import AnyData, gathered, is_typed, readable
from .inputs import fitted
from .prune import prune
from .pruned import Pruned


@dataclass(frozen=True)
class Examples:
    """What to prune with, and, where there are any, examples apart on which the result is judged."""

    train: Learned
    test: Learned | None
    input_shape: tuple[int, ...]
    outputs: int
    validation: Learned | None = None
    typed: bool = True  # whether the type of y says its likelihood, which that of bare arrays does not


def examples(name: str, seed: int = 0, options: Mapping[str, Any] | None = None) -> Examples:
    """The data set called `name` with its `options`, or what the function `module:function` returns, as it is.

    The function is called without arguments and returns (x, y), (x_train, y_train, x_test, y_test), an iterable
    of batches such as a DataLoader, or a `Source`, which may hold sequences of tokens. Raises UsageError.
    """
    _, parts = registry.resolve(name)
    returned = _called(name, **parts) if "function" in parts and not options else None
    if returned is None or isinstance(returned, Source):
        data = load_data(name, seed, **(options or {}))
        return Examples(data.train, data.test, data.input_shape, data.outputs, data.validation)
    if isinstance(returned, tuple | list) and len(returned) == 4:
        return _shaped(gathered(tuple(returned[:2]), seed), gathered(tuple(returned[2:]), seed))
    return _shaped(gathered(returned, seed), None, is_typed(returned))


def _shaped(train: Learned, test: Learned | None, typed: bool = False) -> Examples:
    few = train[:1]
    labels = not few.y.is_floating_point() and few.y.dim() == 1
    outputs = max(int(y.max()) for _, y in train.parts()) + 1 if labels else few.y.shape[1]
    return Examples(train, test, tuple(few.x.shape[1:]), outputs, typed=typed)


def _called(name: str, module: str, function: str) -> Any:
    found = import_function("data", module, function)
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise UsageError(f"data {name!r} failed: {one_line(error)}") from error


def architecture_for(
    name: str, options: Mapping[str, Any], data: Examples, checkpoint: str | Path | None = None
) -> dict[str, Any]:
    """What `architectures.build` and a bundle need to know of the network.

    It has as many outputs as the data have classes, or more, as the checkpoint or the network itself says: data may
    have examples of some of the classes only, and of two classes a network may have one logit.
    """
    state = {} if checkpoint is None else state_of(Path(checkpoint))
    reference = {"name": name, "input_shape": data.input_shape, "outputs": data.outputs, "options": dict(options)}
    if data.train.likelihood != "categorical" or data.train[:1].y.is_floating_point():
        return reference
    sizes = [len(tensor) for tensor in reversed(state.values()) if tensor.dim()]
    others = [k for k in (*sizes, *_own_outputs(reference)) if k > data.outputs or (k, data.outputs) == (1, 2)]
    for outputs in dict.fromkeys([data.outputs, *others]):
        if _is_of(state, reference | {"outputs": outputs}):
            return reference | {"outputs": outputs}
    return reference


def _own_outputs(reference: Mapping[str, Any]) -> list[int]:
    """How many outputs a function of the user's gives its network, whatever it is asked for."""
    module, colon, function = reference["name"].partition(":")
    if not colon:
        return []
    try:
        network = import_function("architecture", module, function)(reference["input_shape"], reference["outputs"])
        with evaluating(network), torch.no_grad():
            return [network(random_inputs(reference["input_shape"], 2)).shape[-1]]
    except (Exception, SystemExit):  # it will fail again where it is built, and be reported
        return []


def _is_of(state: Mapping[str, Tensor], reference: Mapping[str, Any]) -> bool:
    try:
        network = build(
            reference["name"], reference["input_shape"], reference["outputs"], seed=0, **reference["options"]
        )
    except UsageError:
        return False
    own = network.state_dict()
    state = own_names(state, own)
    return not state or (own.keys() == state.keys() and all(own[n].shape == t.shape for n, t in state.items()))


def trained(architecture: Mapping[str, Any], checkpoint: str | Path | None, seed: int) -> nn.Module:
    """The network with the weights of a checkpoint (safetensors, or a state dict saved by torch).

    Raises UsageError, naming the tensor, for a checkpoint of another network.
    """
    options = architecture["options"]
    network = build(architecture["name"], architecture["input_shape"], architecture["outputs"], seed=seed, **options)
    if checkpoint is None:
        return network
    own = network.state_dict()
    state = own_names(state_of(Path(checkpoint)), own)
    for name in sorted(own.keys() | state.keys()):
        shapes = [tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (own, state)]
        if shapes[0] != shapes[1]:
            place = f"{name} is {shapes[1]} there and {shapes[0]} in {architecture['name']!r}"
            raise UsageError(f"checkpoint {checkpoint} is of another network: {place}")
    network.load_state_dict(state)
    return network


def state_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name.

    Raises UsageError for a file that holds anything else.
    """
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
    training: Mapping[str, Any] | None = None, onnx: str | Path | None = None,
    data_options: Mapping[str, Any] | None = None, epochs: int | None = None, **settings: Any,
) -> tuple[Pruned, str]:  # fmt: skip
    """Build, load, train for `epochs` if they are given, prune, judge and write; returns the result, and in words.

    `settings` are those of `prune`, or of `fit`, which trains. Raises UsageError for all that the user can mend; then
    nothing is written.
    """
    given = examples(data, seed, data_options)
    reference = architecture_for(architecture, options, given, checkpoint)
    network = trained(reference, checkpoint, seed)
    train: AnyData = given.train
    if isinstance(train, Split) and not given.typed:
        train = (train.x, train.y)
    settings |= {"seed": seed, "training": Training(**(training or {}))}
    if epochs is None:
        pruned = prune(network, train, **settings)
    else:
        pruned = fit(network, train, epochs=epochs, validation=given.validation, **settings)
    lines = [
        *_untrained(checkpoint, pruned),
        pruned.summary(),
        *_judged(pruned, given.test, not given.typed),
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
    if checkpoint is not None or "epochs" in pruned.notes or build_pruner(method, **options).when == "before":
        return []
    return [f"note: {method} is for trained networks, and this one has its initial weights; give --checkpoint FILE"]


def _judged(pruned: Pruned, test: Learned | None, bare: bool) -> list[str]:
    if test is None or pruned.notes["likelihood"] not in DECISIONS:
        return []
    test = fitted(pruned.dense, readable(pruned.dense, test), pruned.notes["likelihood"], bare)
    dense, own = (_quality(network, test) for network in (pruned.dense, pruned.deployable()))
    found = [f"accuracy on {len(test):,} examples apart: {own['accuracy']:.4f} (dense: {dense['accuracy']:.4f})"]
    if test[:1].y.dim() > 1 and test.terms > len(test):
        found.append(f"bits per character there: {own['bits']:.4f} (dense: {dense['bits']:.4f})")
    return found


def _quality(network: nn.Module, split: Learned) -> dict[str, float]:
    """Accuracy, and bits per label, of the examples that are evaluated (of a language model those that fit)."""
    with evaluating(network), torch.no_grad():
        outputs, y = predicted(network, split, as_rows(network(split[:1].x)).shape[-1])
    found = DECISIONS[output_model(split.likelihood).name].metrics(outputs, y)
    return {"accuracy": found["accuracy"], "bits": found["nll"] / math.log(2)}


def _told(speedup: Speedup) -> str:
    interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
    return f"latency at batch {speedup.batch}: {speedup.ratio:.2f} times as fast ({interval}): {speedup.verdict}"
