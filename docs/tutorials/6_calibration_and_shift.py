"""
Calibration and shift under sparsity
====================================

Accuracy is not all that pruning costs: does a sparse network still know what it does not know? Every record holds the
calibration on the test split, before and after temperature scaling, and the accuracy on corrupted inputs.
"""

# %%
import tempfile
from pathlib import Path

import bayesprune as bp
import matplotlib.pyplot as plt

folder = Path(tempfile.mkdtemp())
matrix = folder / "shift.yaml"
_ = matrix.write_text("""
datasets: [digits]
architectures: [{name: mlp, widths: [64]}]
methods: [random, magnitude, opd]
sparsity: [0.5, 0.9, 0.98]
seeds: [0]
training: {epochs: 15, lr: 3.0e-3}
finetune: {epochs: 2}
shift: true
""")
bp.run(matrix, folder / "results", jobs=1)
frame = bp.results(folder / "results")

# %%
# Calibration
# -----------
# Expected calibration error in 15 bins. The temperature is fitted on the validation split.
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
for axis, column, title in zip(axes, ("ece", "ece_scaled"), ("as it is", "with a temperature"), strict=True):
    for name, rows in frame.groupby("method"):
        axis.plot(rows["sparsity_target"], rows[column], marker="o", label=name)
    axis.set(title=title, xlabel="share of weights removed")
axes[0].set_ylabel("calibration error")
axes[0].legend()
plt.tight_layout()

# %%
# Shift
# -----
# Mean accuracy over all corruptions and severities, and how well the top probability tells digits from other inputs.
frame.pivot_table(index="sparsity_target", columns="method", values=["shift_accuracy", "ood_auroc"]).round(3)

# %%
# Single corruptions are in ``shift``:
worst = frame.sort_values("sparsity_target").iloc[-1]
for name, value in list(worst["shift"].items())[:3]:
    print(name, value)
