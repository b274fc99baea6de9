"""Which curvature, of ours and of laplace-torch, works for a network on this machine."""
