"""Mathematics in closed form, over tensors: posteriors, divergences, evidences; no networks inside."""
