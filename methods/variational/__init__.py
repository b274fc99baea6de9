"""Variational inference over weights, their scales and their gates."""
