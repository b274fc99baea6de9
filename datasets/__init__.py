"""Data sets: tensors in memory, three disjoint splits, an out-of-distribution partner, shifted copies."""

from .registry import Registry

registry: Registry = Registry("data set", __name__)
register = registry.register
