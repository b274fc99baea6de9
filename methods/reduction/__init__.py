"""Bayesian model reduction: what leaves because the evidence is better off without it."""

# Nats of |ΔF| below which it is the optimiser's noise that decides; here, where reports can read it without torch.
TIE = 0.15
