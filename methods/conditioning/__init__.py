"""The reduced posterior on networks: what units are conditioned on, what that costs, and where survivors go."""
