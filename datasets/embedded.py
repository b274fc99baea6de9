"""The small sets that scikit-learn carries: no network, no files.

Paper: pedregosa2011scikit
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import register
from .source import Source


@register("digits")
def digits() -> Source:
    """Handwritten digits, 1797 grey images of 8 x 8, 10 classes (UCI; scikit-learn)."""
    pixels, labels = _digits()
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Source(x=images, y=labels.copy(), classes=tuple("0123456789"))


@cache  # scikit-learn reads text anew at each call
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return bunch.data, bunch.target


@register("breast-cancer")
def breast_cancer() -> Source:
    """Breast cancer Wisconsin, 569 rows of 30 features, 2 classes (UCI; scikit-learn)."""
    from sklearn.datasets import load_breast_cancer

    return _table(load_breast_cancer())


@register("wine")
def wine() -> Source:
    """Wine recognition, 178 rows of 13 features, 3 classes (UCI; scikit-learn)."""
    from sklearn.datasets import load_wine

    return _table(load_wine())


@register("diabetes")
def diabetes() -> Source:
    """Diabetes progression, 442 rows of 10 features, regression (Efron et al., 2004; scikit-learn).

    Paper: efron2004least, pedregosa2011scikit
    """
    from sklearn.datasets import load_diabetes

    bunch: Any = load_diabetes(scaled=False)
    features = tuple(bunch.feature_names)
    return Source(x=bunch.data, y=bunch.target[:, None], likelihood="gaussian", features=features)


def _table(bunch: Any) -> Source:
    names = tuple(str(name) for name in bunch.target_names)
    return Source(x=bunch.data, y=bunch.target, classes=names, features=tuple(bunch.feature_names))
