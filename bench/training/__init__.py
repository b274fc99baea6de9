"""Training: the one loop, and the fits that cells share."""
