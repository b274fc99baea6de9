"""Laplace approximations: MAP training, the evidence, and the priors that it fits."""
