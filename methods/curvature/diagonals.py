"""The diagonal of the curvature of the summed negative log likelihood, from per-example gradients.

For an output Hessian written as a sum (or expectation) of outer products, diag(p) - p p' = Σ_k v_k v_k',
the generalised Gauss-Newton diagonal of one example is Σ_k (∂(f·v_k)/∂θ)², f the network's output
(Schraudolph, "Fast curvature matrix-vector products", Neural Computation 14, 2002; Martens, JMLR 21, 2020).
The kinds differ in the vectors, and so in backward passes per example; C outputs:

    ggn         all roots of `output_vectors`: C - 1 passes (others: C)      exact
    rademacher  one sum of all roots with random signs: 1 pass               unbiased
    topk        the first k roots, and such a sum of the others: k + 1       unbiased, exact if all are among the k
    mc          e_y - p, y drawn from p: 1 pass                              unbiased (the true Fisher by sampling)
    ef          e_y - p, y the label: 1 pass                                 the empirical Fisher, biased

Without classes, e_y - p is y - p for zeros and ones, and the residual for real targets.

For sequences of T targets an example is a sequence, the vectors of its tokens go back together where they are drawn,
else one by one, T times as many; "ef" squares the gradient of the whole sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...architectures.running.modes import as_rows, evaluating
from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ...datasets.split import AnyLikelihood, Split
from ...datasets.trees import Inputs, examples, pieces, rows, tensors_in
from ..gradients import one_by_one as fallback
from ..gradients.footprint import BATCH, Footprint, SavedBytes, per_example
from ..gradients.interception import ParameterUses
from ..gradients.one_by_one import one_by_one
from .output_vectors import CurvatureKind, check_passes, check_request, check_targets, combined, draws, passes
from .squared_gradients import BUFFER, SquaredGradients

__all__ = [
    "CurvatureKind",
    "diagonal",
    "diagonal_of",
    "predicted_bytes",
    "send_back",
    "trainable",
]

# Bytes that a batch may take.
MEMORY = 1 << 30


def diagonal(
    network: nn.Module,
    x: Inputs,
    y: Tensor,
    likelihood: AnyLikelihood = "categorical",
    kind: CurvatureKind = "ggn",
    generator: torch.Generator | None = None,
    top: int = 1,
    memory: int = MEMORY,
) -> dict[str, Tensor]:
    """Curvature diagonal of the negative log likelihood, summed over the examples.

    Args:
        network: evaluated in evaluation mode; left as it was. Returns (N, C), or (N, T, C) for sequences of targets.
        x: inputs of shape (N, ...).
        y: labels (N,) or (N, T), probabilities of the classes (N, C), or targets (N, C).
        likelihood: "categorical", "gaussian" with unit noise, or "bernoulli" for y of zeros and ones, (N, C).
        kind: the vectors sent backward; "mc", "rademacher" and "topk" draw from `generator` (on the CPU).
        generator: required by the kinds that draw.
        top: k of "topk", the roots that are sent one by one.
        memory: bytes that a batch may take, by `predicted_bytes`; at least one example is in it. The size of
            the batches changes nothing in the result but rounding.

    Returns:
        float64 tensors by the name of every trainable parameter.

    Raises:
        UsageError: no examples, nothing trainable, targets that do not fit the outputs or the likelihood, an
            unknown kind or likelihood, or no generator for a kind that draws.
        NotApplicable: sequences that would take more than `MOST_PASSES` backward passes each.
        ArithmeticError: outputs or a curvature that are not finite.
    """
    return diagonal_of(network, Split(x, y, likelihood), kind, generator, top, memory)


def diagonal_of(
    network: nn.Module, data: Examples, kind: CurvatureKind = "ggn", generator: torch.Generator | None = None,
    top: int = 1, memory: int = MEMORY,
) -> dict[str, Tensor]:  # fmt: skip
    """The same of any examples, in memory or not."""
    collected = SquaredGradients(trainable(network))
    strays = send_back(collected, network, data, kind, generator, top, memory)
    sums = collected.sums() | strays
    for name, total in sums.items():
        if not torch.isfinite(total.sum()):
            raise _diverged(f"the curvature of {name!r}")
    return sums


def send_back(
    sink: ParameterUses, network: nn.Module, data: Examples, kind: CurvatureKind, generator: torch.Generator | None,
    top: int = 1, memory: int = MEMORY,
) -> dict[str, Tensor]:  # fmt: skip
    """Run all backward passes and hand the gradients to `sink`; arguments and errors as for `diagonal`.

    What is drawn is drawn for all examples that are in memory at once.

    Returns:
        Exact sums of squares, float64, of the parameters in `sink.fallback`.
    """
    likelihood, shapes, outputs, size = data.likelihood, None, torch.empty(0), 0
    check_request(likelihood, kind, generator, top)
    if not sink.parameters:
        raise UsageError("the curvature needs trainable parameters, but all are frozen")
    strays: dict[str, Tensor] = {}
    with evaluating(network), torch.no_grad():
        for x, y in data.parts():
            if not len(y) or examples(x) != len(y):
                raise UsageError(
                    f"the curvature needs at least one example and one target for each, got {examples(x)} and {len(y)}"
                )
            if (here := [tensor.shape[1:] for tensor in tensors_in(x)]) != shapes:  # sequences of another length
                footprint, outputs = _tried_out(sink, network, x, likelihood, kind, top)
                shapes, size = here, footprint.batch(memory, BATCH)
            check_targets(outputs, y, likelihood)
            check_passes(outputs, likelihood, kind, top)
            drawn = draws((len(y), *outputs.shape[1:]), likelihood, kind, generator)
            for part_x, part_y, part_drawn in zip(pieces(x, size), y.split(size), drawn.split(size), strict=True):
                vectors = _sent_back(sink, network, part_x, part_y, likelihood, kind, part_drawn, top)
                lost = {name: sink.parameters[name] for name in sorted(sink.fallback)}
                for name, squares in one_by_one(network, lost, part_x, vectors).items() if lost else ():
                    strays[name] = strays.get(name, 0) + squares
    sink.new_batch()  # the inputs that a sink keeps belong to the graph, which holds the sink: both would stay for ever
    return strays


def _sent_back(
    sink: ParameterUses, network: nn.Module, x: Inputs, y: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind,
    drawn: Tensor, top: int,
) -> Tensor:  # fmt: skip
    """Send the vectors of a few examples back, and return them, shape (N, K, C) or (N, K, T, C)."""
    with torch.enable_grad():
        outputs = as_rows(sink.forward(network, x))
    if not torch.isfinite(outputs.detach().sum()):
        raise _diverged("the output of the network")
    vectors = combined(outputs.detach(), y, likelihood, kind, drawn, top)
    sink.backward(outputs, vectors)
    return vectors


def predicted_bytes(
    network: nn.Module,
    x: Inputs,
    likelihood: AnyLikelihood = "categorical",
    kind: CurvatureKind = "ggn",
    top: int = 1,
    batch: int = BATCH,
) -> int:
    """About what `diagonal` will take beside the network and the data, in batches of that size.

    From the forward pass of one example: the tensors that autograd keeps for every example, gradients on
    their way, buffers, and the sums.
    """
    with evaluating(network), torch.no_grad():
        sink = SquaredGradients(trainable(network))
        return _tried_out(sink, network, x, likelihood, kind, top)[0].of(min(batch, examples(x)))


def _tried_out(
    sink: ParameterUses, network: nn.Module, x: Inputs, likelihood: AnyLikelihood, kind: CurvatureKind, top: int
) -> tuple[Footprint, Tensor]:
    """What to expect of batches, and the outputs of the first example."""
    saved = SavedBytes([*tensors_in(x), *network.parameters(), *network.buffers()])
    with saved.recorded():
        outputs = as_rows(sink.try_out(network, x))
    vectors = passes(outputs, likelihood, kind, top)
    sums = sum(p.numel() * (8 + p.element_size()) for p in sink.parameters.values())
    buffers = 4 * BUFFER * outputs.element_size() + (4 * fallback.CHUNK_BYTES if sink.fallback else 0)
    return Footprint(sums + buffers, per_example(saved, rows(x, slice(1)), outputs, vectors)), outputs.detach()


def _diverged(what: str) -> ArithmeticError:
    return ArithmeticError(f"{what} is not finite: the network has diverged, lower the learning rate")
