"""Metrics by name. They are what records are made of, so that their revisions belong to the identity of every cell."""

from ...datasets.registry import Registry

registry: Registry = Registry("metric", "bayesprune.bench.evaluation")
register = registry.register
