"""Eigenvectors where divide and conquer gives up."""

import pytest
import torch
from bayesprune.methods.closed_forms.eigen import eigh


@pytest.mark.parametrize("shape", [(6, 6), (2, 5, 5)])
@pytest.mark.parametrize("rank", [2, 5])
def test_the_other_algorithm_finds_the_same(monkeypatch, shape, rank):
    root = torch.randn(*shape[:-1], rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = root @ root.mT
    expected, _ = eigh(matrix)

    def fails(*_):
        raise torch.linalg.LinAlgError("did not converge")  # pyright: ignore[reportPrivateImportUsage]

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    values, vectors = eigh(matrix)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mT, matrix)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(shape[-1], dtype=torch.float64).expand(shape))
    with pytest.raises(ArithmeticError, match="not finite"):
        eigh(matrix.fill_(torch.nan))
