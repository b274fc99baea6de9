"""Bayesian model reduction: what leaves because the evidence is better off without it."""
