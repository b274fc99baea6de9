"""Gene expression: tens of samples of thousands of genes, tumours or a yield to be told from them.

Colon and SRBCT are published as intensities and enter as their logarithms, as is usual; the others are logarithms, and
some of them standardised, as they are published.

Paper: alon1999broad, golub1999molecular, alizadeh2000distinct, ross2000systematic, singh2002gene,
    khan2001classification, buhlmann2014high
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from . import register
from .errors import UsageError, unknown
from .files import data_root, read_npz
from .source import Source

FOLDER = "gene_expression"


@dataclass(frozen=True)
class Published:
    """The file of a set (without suffix), the R package and the object that hold it, and what its labels stand for.

    Without `classes` labels are names; a `yields` set has real targets; `intensities` are not logarithms yet.
    """

    file: str
    package: str
    holder: str
    classes: tuple[str, ...] | None = None
    yields: bool = False
    intensities: bool = False


SETS: Mapping[str, Published] = {
    "colon": Published("colon_alon", "plsgenomics", "Colon", ("normal", "tumour"), intensities=True),
    "leukemia": Published("leukemia_golub", "plsgenomics", "leukemia", ("ALL", "AML")),
    "lymphoma": Published("lymphoma_alizadeh", "spls", "lymphoma", ("DLBCL", "FL", "CLL")),
    "nci60": Published("nci60", "ElemStatLearn", "nci"),
    "prostate": Published("prostate_singh", "spls", "prostate", ("normal", "tumour")),
    "riboflavin": Published("riboflavin", "hdi", "riboflavin", yields=True),
    "srbct": Published("srbct_khan", "plsgenomics", "SRBCT", ("EWS", "BL", "NB", "RMS"), intensities=True),
}


@register("gene-expression/<name>")
def gene_expression(*, name: str, fewest: PositiveInt = 3) -> Source:
    """Expression of 2 000 to 6 830 genes: colon, leukemia, lymphoma, nci60, prostate, srbct; riboflavin: regression.

    Classes of less than `fewest` examples are left out (of nci60 six of 14, with 7 of 64 examples): three splits, each
    with an example of every class, need three.
    """
    if name not in SETS:
        raise unknown("gene expression set", name, SETS)
    known, full, path = SETS[name], f"gene-expression/{name}", data_root() / FOLDER / f"{SETS[name].file}.npz"
    if not path.exists():
        raise _absent(full, known, path)
    x, y, *genes = read_npz(full, path, ("X", "y", "genes"), ("X", "y"))
    features = _names(full, path, genes[0], x) if genes else None
    if known.intensities:
        x = _logarithms(full, path, x)
    if known.yields:
        return Source(x=x, y=y.reshape(len(y), -1), likelihood="gaussian", features=features)
    if x.shape[:1] == y.shape:  # else the checks of every source say what is wrong
        enough = _in_classes_of(full, y, fewest)
        x, y = x[enough], y[enough]
    return Source(x=x, y=y, classes=known.classes, features=features)


def _in_classes_of(name: str, y: np.ndarray, fewest: int) -> np.ndarray:
    """Which examples are of a class with at least this many of them, boolean (N,)."""
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    enough = counts[codes.reshape(-1)] >= fewest
    if len(y) and not enough.any():
        raise UsageError(f"data set {name!r} has no class of {fewest} examples; its largest has {counts.max()}")
    return enough


def _logarithms(name: str, path: Path, x: np.ndarray) -> np.ndarray:
    if x.size and not x.min() > 0:
        raise UsageError(f"data set {name!r}: {path} must hold positive intensities in X, whose logarithm is taken")
    return np.log(x)


def _names(name: str, path: Path, genes: np.ndarray, x: np.ndarray) -> tuple[str, ...]:
    """One name for each gene; those that occur more than once are numbered."""
    if genes.shape != x.shape[1:]:
        raise UsageError(f"data set {name!r}: {path} names genes {genes.shape} for the columns of X {x.shape}")
    found, seen = [], {}
    for gene in map(str, genes):
        seen[gene] = seen.get(gene, 0) + 1
        found.append(f"{gene} ({seen[gene]})" if seen[gene] > 1 else gene)
    return tuple(found)


def _absent(name: str, known: Published, path: Path) -> UsageError:
    return UsageError(
        f"data set {name!r} is not in {data_root()}: {FOLDER}/{path.name} is missing; it comes from the R package "
        f"{known.package} (data({known.holder})): save its expressions as X, samples by genes, and its "
        f"{'yields' if known.yields else 'classes'} as y by `numpy.savez`, or let BAYESPRUNE_DATA name the folder that "
        "holds it"
    )
