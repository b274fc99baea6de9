"""Networks and masks that several test files use."""

import torch
from bayesprune.architectures.discovery.units_of import group_units
from bayesprune.architectures.units.mask import Mask
from torch import nn


def half_mask(network) -> Mask:
    """About half of the groups stay, of each layer the first at least."""
    units = group_units(network)
    kept = torch.rand(units.n, generator=torch.Generator().manual_seed(2)) < 0.5
    for layer in units.split(kept):
        layer[0] = True
    return Mask(units, kept)


def assert_folds(network, inference, x) -> None:
    """Once it is detached the network computes what it did in evaluation with any noise that is learned."""
    with torch.no_grad():
        inference.steps.normal_(generator=torch.Generator().manual_seed(1))
        hooked = network.eval()(x)
        inference.detach(network)
        torch.testing.assert_close(network(x), hooked, rtol=1e-4, atol=1e-5)


class LastState(nn.Module):
    """A linear layer on the last state of an LSTM: (N, T, 3) -> (N, 3)."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Conv1D(nn.Module):
    """Hugging Face's, written anew: tokens side by side, times a weight (inputs, outputs)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / nx**0.5), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)
