"""Per-example gradients by one backward pass."""
