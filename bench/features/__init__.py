"""Which input features matter."""
