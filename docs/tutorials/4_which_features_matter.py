"""
Which features matter
=====================

Pruning the inputs of a network is selecting features. Under a spike-and-slab prior every weight has a probability that
it is in the model, and so has every feature. Of a function it is known what it reads, so the answer can be checked.
"""

# %%
# A function of few features among many
# -------------------------------------
import bayesprune as bp
import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)
x = rng.standard_normal((2000, 30)).astype(np.float32)
y = (2 * x[:, 0] * x[:, 1] + np.tanh(2 * x[:, 2]) + x[:, 3] ** 2 + 0.3 * rng.standard_normal(2000)).astype(np.float32)
names = [f"x{i}" for i in range(30)]

# %%
# Select
# ------
# Some small perceptrons are trained, each under a seed of its own; what is selected often is stable.
selected = bp.select_features(x, y, "pip-gates", names=names, inclusion=0.01, seeds=2)
print(selected.summary())

# %%
# What was found
# --------------
probability = selected.probability.numpy()
order = np.argsort(-probability)[:12]
figure, axes = plt.subplots(figsize=(6, 3))
axes.bar([names[i] for i in order], probability[order], color=["#D55E00" if i < 4 else "#7A7A7A" for i in order])
axes.axhline(0.5, color="black", linewidth=0.8)
axes.set(ylabel="probability of inclusion", title="orange: what the function reads")
plt.tight_layout()
