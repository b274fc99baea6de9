"""The curvature of the loss: its diagonal, its Kronecker factors, and the whole matrix of a small network.

A new structure is a file here that forms a `closed_forms.curvature_matrix.Curvature`, and a line in `estimate`.
"""

from .diagonals import diagonal, diagonal_of

__all__ = ["diagonal", "diagonal_of"]
