"""Slow and right: explicit Hessians, brute force, enumeration. Tests trust these more than the package."""

import torch
from torch import Tensor, nn
from torch.func import functional_call


def tiny_conv_net(batch_norm: bool = False) -> nn.Module:
    """A convolutional network small enough for an explicit Hessian (114 weights), in float64."""
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(3, dtype=torch.float64) if batch_norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, dtype=torch.float64),
        norm,
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 2, 3, padding=1, dtype=torch.float64),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 4, dtype=torch.float64),
    )


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in network.named_parameters() if p.dim() > 1}


def flat(tensors) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def flat_loss(network: nn.Module, loss):
    """`loss(outputs)` as a function of the flat vector of weights (not biases); also that vector."""
    weights = weights_of(network)
    rest = {n: p.detach() for n, p in network.named_parameters() if n not in weights}
    buffers = {n: b.clone() for n, b in network.named_buffers()}

    def function(vector: Tensor, x: Tensor) -> Tensor:
        parts = vector.split([w.numel() for w in weights.values()])
        named = {n: part.view_as(w) for (n, w), part in zip(weights.items(), parts, strict=True)}
        return loss(functional_call(network, {**named, **rest, **{n: b.clone() for n, b in buffers.items()}}, (x,)))

    return function, flat(weights.values())


def hessian_gradient(network: nn.Module, x: Tensor, loss) -> tuple[Tensor, Tensor]:
    """Gradient g and Hg over all weights, with the Hessian formed explicitly by double reverse mode."""
    function, at = flat_loss(network, loss)
    at = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at, x), at, create_graph=True)
    rows = [torch.autograd.grad(g, at, retain_graph=True)[0] for g in gradient]
    return gradient.detach(), torch.stack(rows) @ gradient.detach()


def jacobians(network: nn.Module, x: Tensor) -> tuple[Tensor, list[str]]:
    """Outputs' derivatives with respect to every parameter: (N, C, P), one autograd call per entry."""
    parameters = dict(network.named_parameters())
    rows = []
    for example in x:
        output = network(example.unsqueeze(0))[0]
        rows.append(
            torch.stack([flat(torch.autograd.grad(o, list(parameters.values()), retain_graph=True)) for o in output])
        )
    return torch.stack(rows), list(parameters)


# Every architecture family of the suite, with each of its norms.
FAMILIES = [
    ("mlp", {}),
    ("lenet5", {}),
    ("lenet5", {"activation": "tanh", "pooling": "average"}),
    ("resnet", {}),
    ("resnet", {"norm": "group"}),
    ("resnet", {"norm": "fixup"}),
    ("vit", {}),
    ("mixer", {}),
]


def batch(n=6, shape=(1, 4, 4), classes=4):
    """Inputs in float64 and labels, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=generator)


class Windows(nn.Module):
    """Its last layer is called on twice as many rows as there are examples."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 8), nn.Linear(8, 10)])

    def forward(self, x):
        x = self.layers[1](self.layers[0](x.flatten(1).unflatten(1, (2, 32)).flatten(0, 1)).relu())
        return x.unflatten(0, (-1, 2)).mean(1)
