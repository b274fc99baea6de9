"""What runs the tasks of a matrix: one engine for each kind, and everything in which they differ."""
