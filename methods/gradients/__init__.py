"""Per-example gradients from one backward pass."""
