"""The diagonal of the curvature of the summed negative log likelihood, from per-example gradients.

For an output Hessian written as a sum (or expectation) of outer products, diag(p) - p p' = Σ_k v_k v_k',
the generalised Gauss-Newton diagonal of one example is Σ_k (∂(f·v_k)/∂θ)², f the network's output
(Schraudolph, "Fast curvature matrix-vector products", Neural Computation 14, 2002; Martens, JMLR 21, 2020).
The choices of v_k for a categorical likelihood with probabilities p:

    ggn         √p_c (e_c - p), c = 1..C       exact
    mc          e_y - p, y drawn from p        unbiased (the true Fisher by sampling)
    rademacher  Σ_c ±√p_c (e_c - p)            unbiased, about half the error of mc
    ef          e_y - p, y the label           the empirical Fisher, biased

For a Gaussian likelihood of unit noise the output Hessian is the identity.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..datasets.data import Likelihood
from ..datasets.registry import UsageError
from .cost import count_passes
from .squared_gradients import SquaredGradients

CurvatureKind = Literal["ggn", "mc", "rademacher", "ef"]

# Examples in one forward pass.
BATCH = 64
# Bytes that per-example gradients may take where they have to be formed: about what a cache holds.
CHUNK_BYTES = 1 << 24


def diagonal(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    likelihood: Likelihood = "categorical",
    kind: CurvatureKind = "ggn",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Curvature diagonal of the negative log likelihood, summed over the examples.

    Args:
        network: evaluated in evaluation mode; left as it was.
        x: inputs of shape (N, ...).
        y: labels (N,) or targets (N, K).
        likelihood: "categorical", or "gaussian" with unit noise.
        kind: the vectors sent backward; "mc" and "rademacher" draw them from `generator` (on the CPU).
        generator: required by the kinds that draw.

    Returns:
        float64 tensors by the name of every trainable parameter.

    Raises:
        UsageError: no examples, or nothing trainable.
        ArithmeticError: a curvature that is not finite.
    """
    parameters = trainable(network)
    if not len(x):
        raise UsageError("the curvature needs at least one example, got none")
    if not parameters:
        raise UsageError("the curvature needs trainable parameters, but all are frozen")
    with evaluating(network), torch.no_grad():
        sums = _fast(network, parameters, x, y, likelihood, kind, generator)
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise ArithmeticError(
                f"the curvature of {name!r} is not finite: the network has diverged, lower the learning rate"
            )
    return sums


def _fast(
    network: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, y: Tensor, likelihood: Likelihood,
    kind: CurvatureKind, generator: torch.Generator | None,
) -> dict[str, Tensor]:  # fmt: skip
    """One forward pass and one backward pass per vector; parameters that this cannot follow, one by one."""
    collected = SquaredGradients(parameters)
    strays: dict[str, Tensor] = {}
    for index in torch.arange(len(x), device=x.device).split(BATCH):
        collected.new_batch()
        with torch.enable_grad(), collected:
            outputs = network(x[index])
        vectors = _output_vectors(outputs.detach(), y[index], likelihood, kind, generator)
        for k in range(vectors.shape[1]):
            last = k == vectors.shape[1] - 1
            torch.autograd.grad(
                outputs, list(parameters.values()), vectors[:, k], retain_graph=not last, allow_unused=True
            )
        if collected.fallback:
            lost = {name: parameters[name] for name in sorted(collected.fallback)}
            for name, squares in _one_by_one(network, lost, x[index], vectors).items():
                strays[name] = strays.get(name, 0) + squares
    return collected.sums | strays


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training may change, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module is in the mode it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def differentiable_attention():
    """Attention in the form that can be differentiated twice and per example (the fused kernels cannot)."""
    return sdpa_kernel(SDPBackend.MATH)


def _one_by_one(
    network: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, vectors: Tensor
) -> dict[str, Tensor]:
    """Sum over examples n and vectors k of (∂(f_n·v_nk)/∂θ)² for any operation; vectors has shape (N, K, C).

    Batched where every operation has a batching rule; example by example where one has none (torch's LSTM).
    """
    count_passes(len(x) * vectors.shape[1])
    try:
        return _vmapped(network, parameters, x, vectors)
    except RuntimeError:
        return _looped(network, parameters, x, vectors)


def _vmapped(network: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, vectors: Tensor) -> dict[str, Tensor]:
    constants = {name: p.detach() for name, p in network.named_parameters() if name not in parameters}
    buffers = dict(network.named_buffers())

    def gradients(example: Tensor, directions: Tensor) -> dict[str, Tensor]:
        def output(free: dict[str, Tensor]) -> Tensor:
            return functional_call(network, {**free, **constants, **buffers}, (example.unsqueeze(0),)).squeeze(0)

        pull_back = vjp(output, {name: p.detach() for name, p in parameters.items()})[1]
        return vmap(lambda v: pull_back(v)[0])(directions)

    per_example = vectors.shape[1] * sum(p.numel() * p.element_size() for p in parameters.values())
    size = max(1, CHUNK_BYTES // per_example)
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    with differentiable_attention(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # some operations are batched by a loop
        for part_x, part_v in zip(x.split(size), vectors.split(size), strict=True):
            for name, g in vmap(gradients)(part_x, part_v).items():
                sums[name] += g.square_().sum((0, 1), dtype=torch.float64)
    return sums


def _looped(network: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, vectors: Tensor) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    weights = list(parameters.values())
    for example, directions in zip(x.split(1), vectors, strict=True):
        with torch.enable_grad():
            output = network(example)
        for direction in directions:
            found = torch.autograd.grad(output, weights, direction.unsqueeze(0), retain_graph=True, allow_unused=True)
            for name, g in zip(sums, found, strict=True):
                if g is not None:
                    sums[name] += g.double().square()
    return sums


def _output_vectors(
    outputs: Tensor, y: Tensor, likelihood: Likelihood, kind: CurvatureKind, generator: torch.Generator | None
) -> Tensor:
    """Vectors v of shape (N, K, C) whose outer products sum to the output Hessian."""
    if kind in ("mc", "rademacher") and generator is None:
        raise UsageError(f"curvature kind {kind!r} draws at random: pass a generator")
    exact = _gaussian_roots(outputs) if likelihood == "gaussian" else _categorical_roots(outputs)
    if kind == "ggn":
        return exact
    if kind == "rademacher":
        signs = torch.randint(0, 2, exact.shape[:2], generator=generator).to(exact) * 2 - 1
        return (signs.unsqueeze(2) * exact).sum(1, keepdim=True)
    if likelihood == "gaussian":
        noise = torch.randn(outputs.shape, generator=generator).to(outputs) if kind == "mc" else outputs - y
        return noise.unsqueeze(1)
    p = outputs.softmax(1)
    label = torch.multinomial(p.cpu(), 1, generator=generator).to(y.device).squeeze(1) if kind == "mc" else y
    return (nn.functional.one_hot(label, p.shape[1]) - p).unsqueeze(1)


def _categorical_roots(logits: Tensor) -> Tensor:
    p = logits.softmax(1)
    identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return p.sqrt().unsqueeze(2) * (identity - p.unsqueeze(1))


def _gaussian_roots(outputs: Tensor) -> Tensor:
    return torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device).expand(len(outputs), -1, -1)
