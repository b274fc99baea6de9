"""Which units leave, and when."""
