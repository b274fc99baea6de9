"""
Any method in your own loop
===========================

Augmentation, mixed precision, accumulation, clipping and schedules stay yours: a method is attached to a network, and
four calls are added to the loop. Here the noise of BMRS is learned while you train, and decides by itself what leaves.
"""

# %%
import bayesprune as bp
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)
train = torch.utils.data.TensorDataset(x[:1300], y[:1300])
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)

network = torch.nn.Sequential(
    torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
)

# %%
# Attach
# ------
# The method says what else there is to optimise: here the location and scale of the noise on every neuron.
method = bp.attach(network, "bmrs-u", example=x[:50], size=len(train), structured=True)
optimizer = torch.optim.AdamW([*network.parameters(), *method.parameters()], lr=2e-2)

# %%
# Train
# -----
# ``method.backward`` is ``loss.backward`` and the gradient of the divergence from the prior, once in every step. Your
# checkpoints hold ``method.state_dict()`` beside those of the network and of the optimiser.
losses = []
for _epoch in range(50):
    for batch, target in loader:
        loss = F.cross_entropy(network(batch), target)
        method.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step()
    method.after_epoch(loader)
    losses.append(loss.item())

plt.figure(figsize=(6, 2.5))
plt.semilogy(losses)
plt.gca().set(xlabel="epoch", ylabel="loss of the last batch (nats)")
plt.tight_layout()

# %%
# Finish
# ------
# ``"auto"`` asks the method for its own decision: a neuron leaves where the evidence does not fall without it. A number
# asks for a sparsity instead.
pruned = method.finish(sparsity="auto")
small = pruned.compact()
accuracy = (small(x[1300:]).argmax(1) == y[1300:]).float().mean()
print(pruned.summary())
print(f"{pruned.sparsity:.0%} of the neurons have left; accuracy {accuracy:.3f}")
print(small)
