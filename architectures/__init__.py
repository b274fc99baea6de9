"""Network architectures, and beside each forward pass the groups of units it can lose."""

from ..datasets.registry import Registry

registry: Registry = Registry("architecture", __name__)
register = registry.register
