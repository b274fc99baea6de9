"""Laplace posteriors to and from laplace-torch (Daxberger et al., "Laplace Redux", NeurIPS 2021, arXiv 2106.14806).

Both hold H, the curvature of the summed negative log likelihood, and the prior precisions apart. There the precision
of the posterior is H / (σ² T) + D, with the observation noise σ and a temperature T; here the factor is part of the
curvature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError, unknown
from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Curvature, Dense, Diagonal
from ..closed_forms.flat import flat
from ..closed_forms.kronecker_product import Kronecker, KroneckerProduct
from ..closed_forms.likelihood import output_model
from ..closed_forms.posteriors import Laplace
from ..curvature.estimate import curvature_of
from ..curvature.output_vectors import CurvatureKind

Structure = Literal["diag", "kron", "full"]
OURS = {"diag": "diag", "kron": "kfac", "full": "full"}
TASKS = {"categorical": "classification", "gaussian": "regression"}
GONE = 1e12  # prior precision of a weight that has left: it is 0 for certain
CLOSE = 1e-4  # how far, relative to the largest weight, the mean may be from the network's weights


def posterior_from(approximation: Any, network: nn.Module) -> Laplace:
    """The posterior of a fitted `laplace.Laplace` over all weights, diagonal, Kronecker or full, at this network.

    Raises:
        UsageError: what is no such posterior, is not fitted, or is of another network.
    """
    structure = _structure(approximation)
    parameters = trainable(network)
    theirs = {n: tuple(p.shape) for n, p in approximation.model.named_parameters() if p.requires_grad}
    ours = {name: tuple(p.shape) for name, p in parameters.items()}
    if list(theirs.items()) != list(ours.items()):
        name = sorted(name for name, _ in theirs.items() ^ ours.items())[0]
        raise UsageError(
            f"the posterior is of another network: {name!r} is {theirs.get(name, 'missing')} there and "
            f"{ours.get(name, 'missing')} here"
        )
    mean, here = approximation.mean.detach().double().to(flat(parameters)), flat(parameters)
    if float((mean - here).abs().max()) > CLOSE * float(here.abs().max()):
        raise UsageError("the posterior is at other weights than the network's: fit it to the network as it is")
    prior = approximation.prior_precision_diag.detach().double().flatten().to(here.device).expand_as(here)
    noise, temperature = torch.as_tensor(approximation.sigma_noise).double(), float(approximation.temperature)
    factor = float(1 / (noise.square() * temperature))
    curvature = _CURVATURES[structure](approximation, parameters)
    return Laplace.at(parameters, curvature.scaled(factor), prior.clone(), noise.to(here), temperature)


def _structure(approximation: Any) -> Structure:
    kind = type(approximation).__name__
    known: dict[str, Structure] = {"DiagLaplace": "diag", "KronLaplace": "kron", "FullLaplace": "full"}
    structure = known.get(kind)
    if structure is None:
        raise UsageError(
            f"posterior is a {kind}: give a Laplace of laplace-torch with subset_of_weights='all' and "
            "hessian_structure='diag', 'kron' or 'full'"
        )
    if not approximation.n_data:
        raise UsageError("the posterior is not fitted yet: call its fit(loader) first")
    return structure


def _diagonal(approximation: Any, parameters: Mapping[str, nn.Parameter]) -> Curvature:
    return Diagonal(approximation.H.detach().double())


def _full(approximation: Any, parameters: Mapping[str, nn.Parameter]) -> Curvature:
    return Dense(approximation.H.detach().double())


def _kronecker(approximation: Any, parameters: Mapping[str, nn.Parameter]) -> Curvature:
    """One factor is the block of the tensor, two are those of its rows and of what a row reads."""
    factors = approximation.H_facs.kfacs
    if len(factors) != len(parameters):
        raise UsageError(f"the posterior has factors of {len(factors)} tensors, the network has {len(parameters)}")
    blocks = {name: _block(name, parts) for name, parts in zip(parameters, factors, strict=True)}
    return Kronecker(blocks, tuple(p.numel() for p in parameters.values()))


def _block(name: str, factors: Any) -> Curvature:
    parts = [factor.detach().double() for factor in factors]
    if len(parts) == 1 and parts[0].dim() == 1:
        return Diagonal(parts[0])
    if len(parts) == 1:
        parts.append(torch.ones(1, 1, dtype=torch.double, device=parts[0].device))
    if len(parts) != 2:
        raise UsageError(f"the posterior has {len(parts)} factors for {name!r}, where one or two are known")
    left, right = (part.diag() if part.dim() == 1 else part for part in parts)
    return KroneckerProduct.of(left.unsqueeze(0), right.unsqueeze(0))


_CURVATURES = {"diag": _diagonal, "kron": _kronecker, "full": _full}


# ---------------------------------------------------------------------- to laplace-torch


def laplace_of(
    network: nn.Module, data: Examples, structure: Structure = "kron", kind: CurvatureKind = "ggn",
    prior_precision: float = 1.0, kept: Mapping[str, Tensor] | None = None, seed: int = 0,
) -> Any:  # fmt: skip
    """A fitted `laplace.Laplace` of laplace-torch at `network`, with our curvature, for predictions there.

    Args:
        network: at its mode; pruned or not. It becomes the model of the result.
        data: the training examples.
        structure: "diag", "kron" or "full".
        kind: of the curvature, see `curvature`.
        prior_precision: δ of every weight.
        kept: boolean masks by parameter name: what has left is 0 for certain. Not of "kron", where single entries
            cannot leave a product: cut structures out, and give the compact network.
        seed: of the kinds that draw.

    Raises:
        UsageError: an unknown structure, a likelihood that laplace-torch has not, masks with "kron", groups of a
            convolution in "kron".
    """
    from laplace import Laplace as Approximation

    if structure not in OURS:
        raise unknown("structure", structure, tuple(OURS))
    name = output_model(data.likelihood).name
    if name not in TASKS:
        raise UsageError(f"laplace-torch knows classes and real targets, and not the {name} likelihood")
    masks = {name: mask for name, mask in (kept or {}).items() if not bool(mask.all())}
    if masks and structure == "kron":
        raise UsageError(
            "single weights cannot leave a Kronecker product: choose structure='diag' or 'full', or prune structures"
        )
    parameters, generator = trainable(network), torch.Generator().manual_seed(seed)
    curvature = curvature_of(network, data, OURS[structure], kind, generator)  # pyright: ignore[reportArgumentType]
    task: Any = TASKS[name]
    found: Any = Approximation(network, task, subset_of_weights="all", hessian_structure=structure)
    dtype = next(iter(parameters.values())).dtype
    _PUT[structure](found, curvature, dtype)
    found.mean = flat(parameters).to(dtype)
    found.n_data, found.n_outputs = data.terms, _outputs(network, data)
    network.output_size = found.n_outputs  # pyright: ignore[reportArgumentType]  (as laplace-torch's fit does)
    found.loss, found.prior_precision = 0.0, prior_precision
    if masks:
        delta = {n: torch.full_like(p.detach(), prior_precision) for n, p in parameters.items()}
        for name, mask in masks.items():
            delta[name][~mask.to(delta[name].device)] = GONE
        found.prior_precision = flat(delta).to(dtype)
    return found


@torch.no_grad()
def _outputs(network: nn.Module, data: Examples) -> int:
    return network(data[:1].x).shape[-1]


def _put_diagonal(found: Any, curvature: Any, dtype: torch.dtype) -> None:
    found.H = curvature.h.to(dtype)


def _put_full(found: Any, curvature: Any, dtype: torch.dtype) -> None:
    found.H = curvature.h.to(dtype)


def _put_kronecker(found: Any, curvature: Any, dtype: torch.dtype) -> None:
    from laplace.utils.matrix import Kron

    factors = []
    for name, block in curvature.blocks.items():
        if isinstance(block, Diagonal):
            factors.append([block.h.to(dtype)])
            continue
        left, right = block.factors
        if len(left) > 1:
            raise UsageError(
                f"{name!r} has groups, of which laplace-torch's factors know nothing: use structure='diag'"
            )
        is_vector = right.shape[-1] == 1
        factors.append([(left[0] * right[0]).to(dtype)] if is_vector else [left[0].to(dtype), right[0].to(dtype)])
    found.H_facs = Kron(factors)
    found.H = found.H_facs.decompose(damping=found.damping)


_PUT = {"diag": _put_diagonal, "kron": _put_kronecker, "full": _put_full}
