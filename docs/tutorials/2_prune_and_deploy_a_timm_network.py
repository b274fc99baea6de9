"""
Prune and deploy a timm network
===============================

A vision transformer of timm loses half of its attention heads and hidden units, becomes physically smaller, and is
written to one file that any process can load.
"""

# %%
# A network, and data
# -------------------
# Small enough for a tutorial; a pretrained network of any size is used in the same way.
import tempfile
from pathlib import Path

import bayesprune as bp
import timm
import torch
from sklearn.datasets import load_digits

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
y = torch.tensor(digits.target)
x, y, x_test, y_test = x[:1300], y[:1300], x[1300:], y[1300:]

vit = timm.create_model(
    "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=3, num_heads=4
)

# %%
# Train, prune, fine-tune
# -----------------------
# ``bp.fit`` trains it, ranks whole structures by optimal posterior damage, removes half of them and trains on. For a
# network that is trained already, ``bp.prune`` does the rest alone. ``kind="rademacher"`` estimates the curvature with
# one backward pass instead of one for each class.
pruned = bp.fit(
    vit,
    (x, y),
    "opd",
    0.5,
    epochs=12,
    finetune=4,
    structured=True,
    kind="rademacher",
    training=bp.Training(lr=2e-3),
    progress=False,
)
print(pruned.summary())

# %%
# The smaller network computes what the masked one does; otherwise it would not have been returned.
small = pruned.compact().eval()
with torch.no_grad():
    accuracy = (small(x_test).argmax(1) == y_test).float().mean()
    difference = (small(x_test) - pruned.network.eval()(x_test)).abs().max()
print(f"accuracy {accuracy:.3f}, largest difference {difference:.1e}")

# %%
# Is it faster?
# -------------
# Masks alone never are. Latencies of the dense, the masked and the compact network are measured in turn; a ratio whose
# interval holds 1 is called no faster.
for speedup in pruned.speedups(batches=(64,)):
    print(f"batch {speedup.batch}: {speedup.ratio:.2f} times, {speedup.verdict}")

# %%
# Deploy it
# ---------
# The file holds tensors and a plan; loading it runs no code that it names.
path = Path(tempfile.mkdtemp()) / "small.safetensors"
pruned.save(path)
again = bp.load(path, vit).eval()
print(f"{path.stat().st_size / 1024:.0f} KiB,", "equal" if torch.equal(again(x_test), small(x_test)) else "different")
