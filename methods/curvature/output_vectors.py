"""Vectors whose outer products sum, or sum in expectation, to the Hessian of the loss in the outputs.

For a categorical likelihood with probabilities p that Hessian is diag(p) - p p', of rank C - 1. Let 1 be the
most probable class and s = √p. The reflection that maps s to -e_1 has columns orthogonal to s; scaled by s, all
but its first are exact roots, one for each class c ≠ 1:

    v_c = s_c (e_c - q),   q = s_1 e_1 + Σ_{i≠1} p_i e_i / (1 + s_1),   Σ_c v_c v_c' = diag(p) - p p'.

No entry is a difference of nearly equal numbers, however sure the network is. They are also good roots for random
signs: Σ_c ±v_c is unbiased, exact for two classes, and the surer the network the more accurate than the same
with √p_c (e_c - p). For a Gaussian likelihood of unit noise the Hessian is the identity, with its columns as roots;
for a Bernoulli likelihood it is diag(p (1 - p)), with √(p_k (1 - p_k)) e_k.

A sequence of T targets has outputs (T, C) and a Hessian of one block for each token. Vectors with independent draws
for every token are sent back for all tokens at once, which keeps them unbiased, since the products of different
tokens vanish in expectation; roots that are sent one by one are sent token by token, T times as many.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...datasets.data import Likelihood
from ...datasets.errors import NotApplicable, UsageError
from ...datasets.targets import check_probabilities

CurvatureKind = Literal["ggn", "mc", "rademacher", "topk", "ef"]
DRAWING: tuple[CurvatureKind, ...] = ("mc", "rademacher", "topk")
MOST_PASSES = 512  # backward passes for each sequence of targets


def output_vectors(
    outputs: Tensor,
    y: Tensor,
    likelihood: Likelihood,
    kind: CurvatureKind,
    generator: torch.Generator | None = None,
    top: int = 1,
) -> Tensor:
    """Vectors of shape (N, K, C) for outputs (N, C), (N, K, T, C) for (N, T, C); `combined` with fresh draws."""
    return combined(outputs, y, likelihood, kind, draws(outputs.shape, likelihood, kind, generator), top)


def draws(
    shape: tuple[int, ...], likelihood: Likelihood, kind: CurvatureKind, generator: torch.Generator | None
) -> Tensor:
    """What `kind` draws for outputs of that shape, (N, ...): uniform or normal numbers, signs, or nothing."""
    if kind not in DRAWING:
        return torch.empty(*shape[:-1], 0)
    if generator is None:
        raise UsageError(f"curvature kind {kind!r} draws at random: pass a generator")
    if kind == "mc":
        if likelihood == "gaussian":
            return torch.randn(shape, generator=generator)
        numbers = shape[-1] if likelihood == "bernoulli" else 1
        return torch.rand(*shape[:-1], numbers, generator=generator, dtype=torch.float64)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1


def combined(
    outputs: Tensor, y: Tensor, likelihood: Likelihood, kind: CurvatureKind, drawn: Tensor, top: int = 1
) -> Tensor:
    """Vectors of shape (N, K, C), K = 1 except for "ggn" and for "topk", which has `top` + 1.

    Of sequences of targets (N, T), with outputs (N, T, C), the shape is (N, K, T, C), and K the larger by a factor T
    for what is not sent together.
    """
    if outputs.dim() == 3:
        return _of_tokens(outputs, y, likelihood, kind, drawn, top)
    if kind in ("mc", "ef"):
        return _RESIDUALS[likelihood](outputs, y, kind, drawn).unsqueeze(1)
    rank, alone = _rank(outputs, likelihood), sent_alone(outputs, likelihood, kind, top)
    weights = _weights(outputs, likelihood, alone, drawn, together=alone < rank)
    if likelihood == "categorical":
        return _of_roots(outputs.softmax(1), weights)
    return weights if likelihood == "gaussian" else weights * _deviation(outputs).unsqueeze(1)


def _rank(outputs: Tensor, likelihood: Likelihood) -> int:
    return outputs.shape[-1] - (likelihood == "categorical")


def sent_alone(outputs: Tensor, likelihood: Likelihood, kind: CurvatureKind, top: int = 1) -> int:
    """How many roots of the Hessian in one target's outputs are vectors by themselves."""
    rank = _rank(outputs, likelihood)
    return min(rank, {"ggn": rank, "topk": top}.get(kind, 0))


def passes(outputs: Tensor, likelihood: Likelihood, kind: CurvatureKind, top: int = 1) -> int:
    """Backward passes for each example, K, for outputs (N, C) or (N, T, C)."""
    alone = sent_alone(outputs, likelihood, kind, top)
    together = kind != "ggn" and (kind != "topk" or alone < _rank(outputs, likelihood))
    return alone * outputs[0, ..., 0].numel() + together


def _of_tokens(
    outputs: Tensor, y: Tensor, likelihood: Likelihood, kind: CurvatureKind, drawn: Tensor, top: int
) -> Tensor:
    """Vectors (N, K, T, C) for outputs (N, T, C): see above, what is sent alone is so token by token."""
    flat = combined(outputs.flatten(0, 1), y.flatten(0, 1), likelihood, kind, drawn.flatten(0, 1), top)
    vectors = flat.unflatten(0, outputs.shape[:2])
    alone, together = vectors.tensor_split([sent_alone(outputs, likelihood, kind, top)], 2)
    steps = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    spread = alone.unsqueeze(3) * steps[:, None, :, None]
    return torch.cat([spread.flatten(1, 2), together.transpose(1, 2)], 1)


def _weights(outputs: Tensor, likelihood: Likelihood, alone: int, drawn: Tensor, together: bool) -> Tensor:
    """Which roots make up which vector, (N, K, C): the most probable ones by themselves, the others with signs."""
    if not alone:
        return drawn.to(outputs).unsqueeze(1)
    worth = _deviation(outputs) if likelihood == "bernoulli" else outputs
    order = worth.argsort(dim=1, descending=True, stable=True)
    classes = order[:, 1 : alone + 1] if likelihood == "categorical" else order[:, :alone]
    single = one_hot(classes, outputs.shape[1]).to(outputs)
    if not together:
        return single
    return torch.cat([single, ((1 - single.sum(1)) * drawn.to(outputs)).unsqueeze(1)], 1)


def _of_roots(p: Tensor, weights: Tensor) -> Tensor:
    """Σ_c w_c v_c for weights (N, K, C) of the roots v_c; that of the most probable class counts for nothing."""
    s = p.sqrt()
    first = p.argmax(1, keepdim=True)
    largest = s.gather(1, first)
    q = (p / (1 + largest)).scatter_(1, first, largest)
    scaled = weights * s.scatter(1, first, 0).unsqueeze(1)
    return scaled - scaled.sum(2, keepdim=True) * q.unsqueeze(1)


def _surprise(logits: Tensor, y: Tensor, kind: CurvatureKind, uniform: Tensor) -> Tensor:
    """e_y - p, y the label or drawn from p (by inverting its distribution function); or y - p of probabilities y."""
    p = logits.softmax(1)
    if kind == "mc":
        y = (p.double().cumsum(1) < uniform.to(p.device)).sum(1).clamp_max(p.shape[1] - 1)
    return (y.to(p) if y.is_floating_point() else one_hot(y, p.shape[1])) - p


def _noise(outputs: Tensor, y: Tensor, kind: CurvatureKind, normal: Tensor) -> Tensor:
    return normal.to(outputs) if kind == "mc" else outputs - y


def _deviation(logits: Tensor) -> Tensor:
    """√(p (1 - p)) for p = σ(logits), (N, C), without the difference."""
    return (logits.sigmoid() * (-logits).sigmoid()).sqrt()


def _surprises(logits: Tensor, y: Tensor, kind: CurvatureKind, uniform: Tensor) -> Tensor:
    """y - p, every y given, or drawn from its p."""
    p = logits.sigmoid()
    return (uniform.to(p.device) < p.double() if kind == "mc" else y).to(p) - p


_RESIDUALS = {"categorical": _surprise, "gaussian": _noise, "bernoulli": _surprises}


# ---------------------------------------------------------------------- what cannot be


def check_request(likelihood: str, kind: str, generator: torch.Generator | None, top: int) -> None:
    """Refuse what no network could answer, before any work."""
    if likelihood not in get_args(Likelihood):
        raise UsageError(
            f"likelihood must be 'categorical', 'gaussian' or 'bernoulli', got {likelihood!r}: other losses are no "
            "likelihoods and have no curvature here; train with cross-entropy, of classes or binary, or squared error"
        )
    if kind not in get_args(CurvatureKind):
        raise UsageError(f"curvature kind must be one of {', '.join(get_args(CurvatureKind))}, got {kind!r}")
    if kind in DRAWING and generator is None:
        raise UsageError(f"curvature kind {kind!r} draws at random: pass a generator")
    if isinstance(top, bool) or not isinstance(top, int) or top < 0:
        raise UsageError(f"top must be a whole number of classes >= 0, got {top!r}")


def check_targets(outputs: Tensor, y: Tensor, likelihood: Likelihood) -> None:
    """Refuse targets (N, ...) that do not fit outputs (any number, C), or (any number, T, C) for T of them."""
    if outputs.dim() not in (2, 3) or (outputs.dim() == 3 and likelihood != "categorical"):
        raise UsageError(f"the network must return outputs of shape (N, C), got {tuple(outputs.shape)}")
    count = outputs.shape[-1]
    if likelihood != "categorical" or (y.is_floating_point() and y.shape[1:] == outputs.shape[1:] and y.dim() == 2):
        if y.shape[1:] != outputs.shape[1:]:
            raise UsageError(f"targets must have shape (N, {count}) like the outputs, got {tuple(y.shape)}")
        if likelihood != "gaussian":
            check_probabilities(y.detach().cpu().numpy(), likelihood)
        return
    steps = tuple(outputs.shape[1:-1])
    if y.is_floating_point() or y.is_complex() or y.shape[1:] != steps:
        shape = f"(N, {steps[0]})" if steps else "(N,)"
        raise UsageError(
            f"labels must be whole numbers of shape {shape}, got {y.dtype} of shape {tuple(y.shape)}; "
            "real targets need likelihood='gaussian'"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= count:
        raise UsageError(f"labels must lie in 0 to {count - 1} for {count} outputs, got {low if low < 0 else high}")


def check_passes(outputs: Tensor, likelihood: Likelihood, kind: CurvatureKind, top: int) -> None:
    """Refuse to send the roots of long sequences back one by one."""
    count = passes(outputs, likelihood, kind, top)
    if outputs.dim() == 3 and count > MOST_PASSES:
        steps, classes = outputs.shape[1:]
        raise NotApplicable(
            f"curvature kind {kind!r} takes {count:,} backward passes for each sequence of {steps} tokens out of "
            f"{classes}, more than {MOST_PASSES}; choose kind: rademacher or kind: mc, which take one"
        )
