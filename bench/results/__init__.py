"""Results on disk, and as tables."""
