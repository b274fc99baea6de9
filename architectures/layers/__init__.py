"""Layers: their axes, their sizes, and the kinds that this package adds to those of torch."""
