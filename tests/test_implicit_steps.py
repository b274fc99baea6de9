"""The prior's part of a step, taken implicitly: equal modes, stable for every precision, bound in the suite's loops."""

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.units.vector import Units
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.adabelief import AdaBelief
from bayesprune.bench.training.loop import train
from bayesprune.datasets.examples import Split
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.laplace.implicit import pull_
from bayesprune.methods.spam import TEMPERATURE, ImplicitSpaM, SpaM
from torch import nn

F64 = torch.float64
OPTIMIZERS = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.0),
    "fused": lambda p, lr: torch.optim.Adam(p, lr, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "adabelief": AdaBelief,
}
H, M = torch.tensor([1.0, 4.0, 0.5, 2.0], dtype=F64), torch.tensor([1.0, -2.0, 0.3, 0.0], dtype=F64)


def descended(make, pulls, implicit, steps=1500, lr=0.05, falling=True):
    """Where ½ Σ h (θ - m)² + ½ Σ λ θ² leads from 1, under a rate that falls to 0 if it may; and the last 50 places."""
    theta = nn.Parameter(torch.ones(4, dtype=F64))
    optimizer, places = make([theta], lr), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps) if falling else lr
        theta.grad = H * (theta.detach() - M) + (0 if implicit else pulls * theta.detach())
        optimizer.step()
        if implicit:
            pull_(optimizer, {theta: pulls})
        places.append(theta.detach().clone())
    return places[-1], torch.stack(places[-50:])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_implicit_and_explicit_steps_end_at_the_same_mode(name):
    pulls = torch.tensor([0.0, 1.0, 3.0, 5.0], dtype=F64)
    mode = H * M / (H + pulls)
    for implicit in (False, True):
        found, _ = descended(OPTIMIZERS[name], pulls, implicit)
        torch.testing.assert_close(found, mode, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pull", [10.0, 1000.0])
def test_an_implicit_step_resolves_what_an_explicit_one_does_not(pull):
    """Gradients of 0.01, then a precision that wants weights at 0: Adam leaves them at its rate, five epochs later."""

    def trembling(implicit, rate=1e-3):
        noise = torch.Generator().manual_seed(0)
        theta = nn.Parameter(torch.full((200,), 0.1, dtype=F64))
        optimizer, places = torch.optim.Adam([theta], rate), []
        for step in range(685):
            pulls = torch.full((200,), 0.0 if step < 600 else pull, dtype=F64)
            theta.grad = 0.01 * torch.randn(200, generator=noise, dtype=F64)
            theta.grad += 0 if implicit else pulls * theta.detach()
            optimizer.step()
            if implicit:
                pull_(optimizer, {theta: pulls})
            places.append(theta.detach().clone())
        return torch.stack(places[-20:]).square().mean().sqrt().item() / rate

    assert trembling(False) > 1
    assert trembling(True) < 3 / pull


def test_gradient_descent_is_stable_beyond_twice_the_inverse_rate():
    pulls = torch.full((4,), 1e4, dtype=F64)
    explicit, _ = descended(OPTIMIZERS["sgd"], pulls, False, steps=50, falling=False)
    implicit, _ = descended(OPTIMIZERS["sgd"], pulls, True, steps=50, falling=False)
    assert not explicit.abs().max() < 1e6
    torch.testing.assert_close(implicit, H * M / (H + pulls), rtol=1e-2, atol=1e-12)


def test_what_has_no_gradient_or_no_pull_stays():
    still, free = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([still, free], 0.1)
    free.grad = torch.zeros(2)
    pull_(optimizer, {still: torch.ones(2)})
    assert torch.equal(still, torch.ones(2))
    assert torch.equal(free, torch.ones(2))


# ---------------------------------------------------------------------- in training


def linear():
    torch.manual_seed(0)
    x, y = torch.randn(24, 3, dtype=F64), torch.randint(2, (24,))
    network = nn.Linear(3, 2, dtype=F64)
    return network, Split(x, y)


def test_the_loop_takes_the_steps_of_plain_code():
    """Two batches of all examples: Adam on the mean loss, then the pull of the precisions, over N."""
    network, split = linear()
    expected = nn.Linear(3, 2, dtype=F64)
    expected.load_state_dict(network.state_dict())
    inference = ImplicitSpaM(temperature=0.5)
    inference.attach(network, Units(()), split)
    inference.hyper.precisions.free.copy_(torch.randn(8, dtype=F64) * 3)
    deltas = inference.hyper.precision().split([6, 2])
    train(network, split, inference, Training(epochs=2, batch_size=24, lr=0.01), 2, torch.Generator().manual_seed(1))

    mean, square = (
        [torch.zeros(2, 3, dtype=F64), torch.zeros(2, dtype=F64)],
        [torch.zeros(2, 3, dtype=F64), torch.zeros(2, dtype=F64)],
    )
    for step in (1, 2):
        loss = nn.functional.cross_entropy(expected(split.x), split.y)
        for i, g in enumerate(torch.autograd.grad(loss, list(expected.parameters()))):
            mean[i], square[i] = 0.9 * mean[i] + 0.1 * g, 0.999 * square[i] + 0.001 * g**2
            scale = (square[i] / (1 - 0.999**step)).sqrt() + 1e-8
            theta = list(expected.parameters())[i].data
            theta -= 0.01 * mean[i] / (1 - 0.9**step) / scale
            theta *= scale / (scale + 0.01 * 0.5 * deltas[i].view_as(theta) / 24)
    torch.testing.assert_close(list(network.parameters()), list(expected.parameters()), rtol=1e-6, atol=1e-8)


def test_an_optimiser_of_the_users_own_gets_the_gradient():
    network, split = linear()
    network = network.float()
    data = (split.x.float(), split.y)
    for joined in (False, True):
        method = bp.attach(network, "spam-opd", data=data)
        if joined:
            method.optimizer(1e-3, 10)
        method.backward(0 * network(data[0]).sum())
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        expected = TEMPERATURE / 24 * torch.cat([p.detach().flatten() for p in network.parameters()])
        torch.testing.assert_close(gradient, torch.zeros(8) if joined else expected)
        network.zero_grad()
        method.finish(0.5)


@pytest.mark.parametrize("name", ["spam-opd", "bmr-spam"])
def test_the_preset_trains_as_the_authors_do(name):
    own, authors = build_pruner(name).inference(), build_pruner(name, preset="authors").inference()
    assert type(own) is ImplicitSpaM
    assert own.temperature == TEMPERATURE
    assert type(authors) is SpaM
    assert authors.temperature == 1
    assert build_pruner(name, preset="authors", temperature=0.2).inference().temperature == 0.2
    assert own.revisions() == authors.revisions() == {}
