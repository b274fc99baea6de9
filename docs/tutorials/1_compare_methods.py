"""
Compare methods
===============

Which of four methods keeps the most accuracy on handwritten digits, as more and more weights leave? A matrix says what
is compared; every combination becomes a cell, and every cell a record.
"""

# %%
# The matrix
# ----------
# Two seeds are too few to claim anything, and enough to see how it works.
import tempfile
from pathlib import Path

import bayesprune as bp
import matplotlib.pyplot as plt

folder = Path(tempfile.mkdtemp())
matrix = folder / "first.yaml"
_ = matrix.write_text("""
datasets: [digits]
architectures: [{name: mlp, widths: [64]}]
methods: [random, magnitude, snip, opd]
sparsity: [0.8, 0.9, 0.95, 0.98]
seeds: [0, 1]
training: {epochs: 15, lr: 3.0e-3}
finetune: {epochs: 2}
shift: false
""")

# %%
# Running it takes one line. It can be interrupted at any time: the same call goes on with what is missing. In a script
# of your own put it under ``if __name__ == "__main__":``, as it starts processes.
bp.run(matrix, folder / "results", jobs=1)
frame = bp.results(folder / "results")
frame[["method", "sparsity", "seed", "accuracy", "dense_accuracy", "seconds_score"]].head()

# %%
# What came out
# -------------
# Dense networks are shared: methods that score a trained network all score the same one.
means = frame.pivot_table(index="sparsity_target", columns="method", values="accuracy")
axes = (100 * means).plot(marker="o", xlabel="share of weights removed", ylabel="accuracy (%)", figsize=(6, 3.5))
axes.axhline(100 * frame["dense_accuracy"].mean(), color="black", linestyle="--", label="dense")
axes.legend()
plt.tight_layout()

# %%
# The report has this figure with intervals, and ranks, costs, calibration and every failure beside it:
#
# .. code-block:: text
#
#    bayesprune report results --out report
