"""Units that a network has, declared or found by tracing one forward pass."""
