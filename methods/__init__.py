"""Pruning methods: how a network is trained, what a unit is worth, when units are removed."""

from ..datasets.registry import Registry

registry: Registry = Registry("method", __name__, entry_points="bayesprune.pruners")
