"""Vectors whose outer products sum, or sum in expectation, to the curvature of the loss in the outputs.

They are the roots, or gradients at observed or drawn targets, that a likelihood has (`closed_forms.likelihood`). What
is ignored among the targets has vectors of zeros.

A sequence of T targets has outputs (T, C) and a Hessian of one block for each token. Vectors with independent draws
for every token are sent back for all tokens at once, which keeps them unbiased, since the products of different
tokens vanish in expectation; roots that are sent one by one are sent token by token, T times as many.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...datasets.errors import NotApplicable, UsageError
from ...datasets.split import IGNORED, AnyLikelihood
from ..closed_forms.likelihood import output_model
from ..closed_forms.output_model import no_curvature

CurvatureKind = Literal["ggn", "mc", "rademacher", "topk", "ef"]
DRAWING: tuple[CurvatureKind, ...] = ("mc", "rademacher", "topk")
MOST_PASSES = 512  # backward passes for each sequence of targets


def output_vectors(
    outputs: Tensor,
    y: Tensor,
    likelihood: AnyLikelihood,
    kind: CurvatureKind,
    generator: torch.Generator | None = None,
    top: int = 1,
) -> Tensor:
    """Vectors of shape (N, K, C) for outputs (N, C), (N, K, T, C) for (N, T, C); `combined` with fresh draws."""
    return combined(outputs, y, likelihood, kind, draws(outputs.shape, likelihood, kind, generator), top)


def draws(
    shape: tuple[int, ...], likelihood: AnyLikelihood, kind: CurvatureKind, generator: torch.Generator | None
) -> Tensor:
    """What `kind` draws for outputs of that shape, (N, ...): uniform or normal numbers, signs, or nothing."""
    if kind not in DRAWING:
        return torch.empty(*shape[:-1], 0)
    if generator is None:
        raise UsageError(f"curvature kind {kind!r} draws at random: pass a generator")
    if kind == "mc":
        return output_model(likelihood).draws(shape, generator)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1


def combined(
    outputs: Tensor, y: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind, drawn: Tensor, top: int = 1
) -> Tensor:
    """Vectors of shape (N, K, C), K = 1 except for "ggn" and for "topk", which has `top` + 1.

    Of sequences of targets (N, T), with outputs (N, T, C), the shape is (N, K, T, C), and K the larger by a factor T
    for what is not sent together.
    """
    if outputs.dim() == 3:
        return _of_tokens(outputs, y, likelihood, kind, drawn, top)
    vectors = _of_rows(outputs, y, likelihood, kind, drawn, top)
    if not y.is_floating_point() and bool((ignored := y == IGNORED).any()):
        vectors[ignored] = 0
    return vectors


def _of_rows(
    outputs: Tensor, y: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind, drawn: Tensor, top: int
) -> Tensor:
    model = output_model(likelihood)
    if kind in ("mc", "ef"):
        return (model.drawn_gradient(outputs, drawn) if kind == "mc" else model.gradient(outputs, y)).unsqueeze(1)
    alone = sent_alone(outputs, likelihood, kind, top)
    together = alone < _rank(outputs, likelihood)
    return model.roots(outputs, _weights(outputs, likelihood, alone, drawn, together))


def _rank(outputs: Tensor, likelihood: AnyLikelihood) -> int:
    return outputs.shape[-1] - output_model(likelihood).skipped


def sent_alone(outputs: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind, top: int = 1) -> int:
    """How many roots of the Hessian in one target's outputs are vectors by themselves."""
    rank = _rank(outputs, likelihood)
    return min(rank, {"ggn": rank, "topk": top}.get(kind, 0))


def passes(outputs: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind, top: int = 1) -> int:
    """Backward passes for each example, K, for outputs (N, C) or (N, T, C)."""
    alone = sent_alone(outputs, likelihood, kind, top)
    together = kind != "ggn" and (kind != "topk" or alone < _rank(outputs, likelihood))
    return alone * outputs[0, ..., 0].numel() + together


def _of_tokens(
    outputs: Tensor, y: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind, drawn: Tensor, top: int
) -> Tensor:
    """Vectors (N, K, T, C) for outputs (N, T, C): see above, what is sent alone is so token by token."""
    if callable(likelihood):  # a loss of sequences may be no sum over their tokens
        return output_model(likelihood).gradient(outputs, y).unsqueeze(1)
    flat = combined(outputs.flatten(0, 1), y.flatten(0, 1), likelihood, kind, drawn.flatten(0, 1), top)
    vectors = flat.unflatten(0, outputs.shape[:2])
    alone, together = vectors.tensor_split([sent_alone(outputs, likelihood, kind, top)], 2)
    steps = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    spread = alone.unsqueeze(3) * steps[:, None, :, None]
    return torch.cat([spread.flatten(1, 2), together.transpose(1, 2)], 1)


def _weights(outputs: Tensor, likelihood: AnyLikelihood, alone: int, drawn: Tensor, together: bool) -> Tensor:
    """Which roots make up which vector, (N, K, C): the most probable ones by themselves, the others with signs."""
    if not alone:
        return drawn.to(outputs).unsqueeze(1)
    model = output_model(likelihood)
    order = model.worth(outputs).argsort(dim=1, descending=True, stable=True)
    single = one_hot(order[:, model.skipped : alone + model.skipped], outputs.shape[1]).to(outputs)
    if not together:
        return single
    return torch.cat([single, ((1 - single.sum(1)) * drawn.to(outputs)).unsqueeze(1)], 1)


# ---------------------------------------------------------------------- what cannot be


def check_request(likelihood: AnyLikelihood, kind: str, generator: torch.Generator | None, top: int) -> None:
    """Refuse what no network could answer, before any work."""
    model = output_model(likelihood)
    if kind not in get_args(CurvatureKind):
        raise UsageError(f"curvature kind must be one of {', '.join(get_args(CurvatureKind))}, got {kind!r}")
    if not model.has_roots and kind != "ef":
        raise no_curvature(model.name)
    if kind in DRAWING and generator is None:
        raise UsageError(f"curvature kind {kind!r} draws at random: pass a generator")
    if isinstance(top, bool) or not isinstance(top, int) or top < 0:
        raise UsageError(f"top must be a whole number of classes >= 0, got {top!r}")


def check_targets(outputs: Tensor, y: Tensor, likelihood: AnyLikelihood) -> None:
    """Refuse targets (N, ...) that do not fit outputs (any number, C), or (any number, T, C) for T of them."""
    model = output_model(likelihood)
    if outputs.dim() not in (2, 3) or (outputs.dim() == 3 and not model.sequences):
        raise UsageError(f"the network must return outputs of shape (N, C), got {tuple(outputs.shape)}")
    model.check(outputs, y)


def check_passes(outputs: Tensor, likelihood: AnyLikelihood, kind: CurvatureKind, top: int) -> None:
    """Refuse to send the roots of long sequences back one by one."""
    count = passes(outputs, likelihood, kind, top)
    if outputs.dim() == 3 and count > MOST_PASSES:
        steps, classes = outputs.shape[1:]
        raise NotApplicable(
            f"curvature kind {kind!r} takes {count:,} backward passes for each sequence of {steps} tokens out of "
            f"{classes}, more than {MOST_PASSES}; choose kind: rademacher or kind: mc, which take one"
        )
