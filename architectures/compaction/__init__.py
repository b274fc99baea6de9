"""Removed units cut out of the tensors, and the proof that the smaller network computes the same."""
