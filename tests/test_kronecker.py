"""Kronecker curvature against dense matrices, factors summed up by module hooks, exact Gaussian evidence, laplace-torch."""

import math
import warnings

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.units.prunable import trainable
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.closed_forms.curvature_matrix import Diagonal
from bayesprune.methods.closed_forms.kronecker_product import Kronecker, KroneckerProduct
from bayesprune.methods.curvature import diagonals as curvature
from bayesprune.methods.curvature import kronecker
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.kronecker import kfac, predicted_bytes
from bayesprune.methods.curvature.output_vectors import output_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import LastState
from oracles import FAMILIES, batch, flat, jacobians, tiny_conv_net
from torch import nn
from torch.nn import functional as F

F64 = torch.float64


def psd(n, rank=None, seed=0):
    root = torch.randn(n, rank or n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T


def precisions(n, spread, seed=0):
    return (spread * torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(seed))).exp()


def no_prior(curvature_):
    return curvature_.precision(torch.zeros(sum(curvature_.sizes), dtype=F64))


# ---------------------------------------------------------------------- one product, against dense matrices


def dense_precision(left, right, delta):
    return torch.kron(left, right) + torch.diag(delta)


def in_eigenbasis(left, right, delta):
    """Diagonal of Q' (B ⊗ A + D) Q, with Q the dense eigenvectors."""
    q = torch.kron(torch.linalg.eigh(left)[1], torch.linalg.eigh(right)[1])
    return (q.T @ dense_precision(left, right, delta) @ q).diagonal(), q


def test_one_precision_per_tensor_is_exact():
    left, right, delta = psd(4), psd(5, rank=3), torch.full((20,), 0.7, dtype=F64)
    product = KroneckerProduct.of(left[None], right[None])
    dense = dense_precision(left, right, delta)
    ratio = torch.linalg.slogdet(dense)[1] - delta.log().sum()
    torch.testing.assert_close(product.log_det_ratio(delta), ratio)
    torch.testing.assert_close(product.precision(delta), dense.diagonal())
    torch.testing.assert_close(product.determined(delta), 1 - delta * torch.linalg.inv(dense).diagonal())
    torch.testing.assert_close(product.precision(0 * delta), torch.kron(left, right).diagonal())


def test_different_precisions_follow_the_formula_and_bound_the_determinant():
    left, right, delta = psd(4), psd(5, rank=3), precisions(20, 2.0)
    product = KroneckerProduct.of(left[None], right[None])
    values, q = in_eigenbasis(left, right, delta)
    dense = dense_precision(left, right, delta)
    torch.testing.assert_close(product.log_det_ratio(delta), values.log().sum() - delta.log().sum())
    torch.testing.assert_close(product.precision(delta), (q @ torch.diag(values) @ q.T).diagonal())
    assert product.log_det_ratio(delta) > torch.linalg.slogdet(dense)[1] - delta.log().sum()
    torch.testing.assert_close(product.precision(delta).sum(), dense.trace())
    assert not torch.allclose(product.precision(delta), dense.diagonal(), rtol=0.01)  # smoothed twice


def test_diagonal_factors_are_exact_whatever_the_prior():
    left, right, delta = precisions(4, 1.0, 1).diag(), precisions(5, 1.0, 2).diag(), precisions(20, 3.0)
    product = KroneckerProduct.of(left[None], right[None])
    exact = Diagonal(torch.kron(left, right).diagonal())
    for method in ("log_det_ratio", "determined", "precision"):
        torch.testing.assert_close(getattr(product, method)(delta), getattr(exact, method)(delta))


def test_groups_are_blocks_side_by_side():
    pairs, delta = [(psd(2, seed=s), psd(3, seed=s + 9)) for s in range(3)], precisions(18, 1.0)
    whole = KroneckerProduct.of(*(torch.stack(factors) for factors in zip(*pairs, strict=True)))
    parts = [KroneckerProduct.of(left[None], right[None]) for left, right in pairs]
    split = list(zip(parts, delta.split(6), strict=True))
    torch.testing.assert_close(whole.log_det_ratio(delta), sum(p.log_det_ratio(d) for p, d in split))
    torch.testing.assert_close(whole.determined(delta), torch.cat([p.determined(d) for p, d in split]))


SHAPES = [(3, 4), (3, 1)]  # a weight and its bias


def free_precisions(structure):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "scalar": [()],
        "layerwise": [(), ()],
        "unitwise": [(3, 1), (1, 4), (3, 1)],
        "parameterwise": SHAPES,
    }[structure]
    return [torch.randn(s, dtype=F64, generator=generator).requires_grad_() for s in shapes]


def expanded(free, structure):
    if structure == "scalar":
        return [free[0], free[0]]
    return [free[0] + free[1], free[2]] if structure == "unitwise" else free


@pytest.mark.parametrize("structure", ["scalar", "layerwise", "unitwise", "parameterwise"])
def test_gradient_equals_autograd_through_dense_matrices(structure):
    """∂/∂ log δ of log det(H + D) - log det D is -γ, tied precisions adding up."""
    factors = [(psd(3), psd(4, rank=2)), (psd(3, seed=5), torch.ones(1, 1, dtype=F64))]
    free = free_precisions(structure)
    deltas = [d.exp().expand(s).flatten() for d, s in zip(expanded(free, structure), SHAPES, strict=True)]
    ratio = sum(in_eigenbasis(*f, d)[0].log().sum() - d.log().sum() for f, d in zip(factors, deltas, strict=True))
    expected = torch.autograd.grad(ratio, free, retain_graph=True)
    blocks = {str(i): KroneckerProduct.of(left[None], right[None]) for i, (left, right) in enumerate(factors)}
    found = Kronecker(blocks, (12, 3))
    delta = torch.cat(deltas)
    torch.testing.assert_close(found.log_det_ratio(delta.detach()), ratio.detach())
    gamma = found.determined(delta.detach())
    collected = torch.autograd.grad(delta.log(), free, -gamma)
    for mine, oracle in zip(collected, expected, strict=True):
        torch.testing.assert_close(mine, oracle)
    torch.testing.assert_close(gamma.sum(), scale_derivative(found, delta.detach()))


def scale_derivative(found, delta, step=1e-5):
    """d/d log c of log det(cH + D), by central differences: what the observation noise needs."""
    up, down = (found.scaled(math.exp(s)).log_det_ratio(delta) for s in (step, -step))
    return (up - down) / (2 * step)


def test_tiny_curvatures_and_huge_precisions_keep_their_digits():
    left, right = psd(4) * 1e-14, psd(5)
    delta = torch.full((20,), 1e6, dtype=F64)
    product, h = KroneckerProduct.of(left[None], right[None]), torch.kron(left, right).diagonal()
    torch.testing.assert_close(product.determined(delta), h / delta, rtol=1e-9, atol=0)
    torch.testing.assert_close(product.log_det_ratio(delta), (h / delta).sum(), rtol=1e-9, atol=0)
    extreme = torch.tensor([math.exp(-20), math.exp(30)], dtype=F64).repeat(10)
    for value in (product.log_det_ratio(extreme), product.determined(extreme), product.precision(extreme)):
        assert torch.isfinite(value).all()


def test_masks_reach_diagonal_blocks_only():
    blocks = {"w": KroneckerProduct.of(psd(2)[None], psd(2)[None]), "table": Diagonal(torch.ones(3, dtype=F64))}
    kept = torch.tensor([True, False, True, True, False, True, True])
    masked = Kronecker(blocks, (4, 3)).masked(kept)
    assert no_prior(masked)[4:].tolist() == [0, 1, 1]
    torch.testing.assert_close(no_prior(masked)[:4], no_prior(Kronecker(blocks, (4, 3)))[:4])


sides = st.integers(1, 5)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(0, 99), st.floats(0, 12), st.floats(-30, 15))
def test_bounds_hold_for_any_factors_and_precisions(out, inputs, seed, spread, log_scale):
    rank = 1 + seed % 3
    left, right = psd(out, rank, seed) * math.exp(log_scale), psd(inputs, rank, seed + 1)
    product, delta = KroneckerProduct.of(left[None], right[None]), precisions(out * inputs, spread, seed)
    scaled = delta.rsqrt()[:, None] * torch.kron(left, right) * delta.rsqrt()
    values = torch.linalg.eigvalsh(scaled).clamp_min(0)
    exact = values.log1p().sum()  # log det(I + D^-½ H D^-½)
    rounding = 1e-14 * len(values) * (1 + values.max())
    ratio, gamma = product.log_det_ratio(delta), product.determined(delta)
    assert ratio >= 0
    assert ratio >= exact - rounding  # Hadamard
    assert (gamma <= 1 + 1e-9).all()
    assert -1e-6 <= gamma.sum() <= out * inputs + 1e-6
    same = torch.full_like(delta, delta[0].item())
    assert (product.determined(same) >= -1e-12).all()
    assert (product.determined(same) <= 1 + 1e-12).all()


# ---------------------------------------------------------------------- factors of networks, against module hooks


def hooked(network):
    """Inputs of linear and convolutional modules, and their output gradients per backward pass, by module hooks."""
    inputs, gradients = {}, {}

    def keep(name):
        def hook(module, given, output):
            inputs.setdefault(name, []).append(given[0].detach())
            output.register_hook(lambda g: gradients.setdefault(name, []).append(g))

        return hook

    matrices = nn.Linear | nn.Conv2d
    modules = {n: m for n, m in network.named_modules() if isinstance(m, matrices) and m.weight.requires_grad}
    handles = [m.register_forward_hook(keep(n)) for n, m in modules.items()]
    return modules, inputs, gradients, handles


def explicit_factors(network, x, vectors):
    """B and A of every module and group, one example at a time."""
    modules, inputs, gradients, handles = hooked(network)
    output = network(x)
    for k in range(vectors.shape[1]):
        torch.autograd.grad(
            output, list(trainable(network).values()), vectors[:, k], retain_graph=True, allow_unused=True
        )
    for handle in handles:
        handle.remove()
    return {n: module_factors(m, inputs[n][0], gradients[n]) for n, m in modules.items()}


def module_factors(module, given, gradients):
    if isinstance(module, nn.Linear):
        a, gs, groups = given.flatten(0, -2), [g.flatten(0, -2) for g in gradients], 1
    else:
        a = F.unfold(given, module.kernel_size, module.dilation, module.padding, module.stride)
        a, gs, groups = a.mT.flatten(0, 1), [g.flatten(2).mT.flatten(0, 1) for g in gradients], module.groups
    b = [
        sum(torch.einsum("mo,mp->op", part, part) for part in parts)
        for parts in zip(*(g.chunk(groups, 1) for g in gs), strict=True)
    ]
    return b, [torch.einsum("mi,mj->ij", part, part) / len(a) for part in a.chunk(groups, 1)]


def spectrum_ratio(b, a, delta):
    values = torch.outer(torch.linalg.eigvalsh(b).clamp_min(0), torch.linalg.eigvalsh(a).clamp_min(0))
    return (values / delta).log1p().sum()


def check_against_hooks(network, x, y):
    network.eval()
    found = kfac(network, x, y)
    vectors = output_vectors(network(x).detach(), y, "categorical", "ggn", None)
    for name, (bs, a_s) in explicit_factors(network, x, vectors).items():
        block, weight = found.blocks[f"{name}.weight"], network.get_parameter(f"{name}.weight")
        diagonals = torch.cat([torch.kron(b.diagonal(), a.diagonal()) for b, a in zip(bs, a_s, strict=True)])
        mine = block.precision(torch.zeros(weight.numel(), dtype=F64))
        torch.testing.assert_close(mine, diagonals, rtol=1e-7, atol=1e-12, msg=name)
        ratio = sum(spectrum_ratio(b, a, 0.1) for b, a in zip(bs, a_s, strict=True))
        mine = block.log_det_ratio(torch.full((weight.numel(),), 0.1, dtype=F64))
        torch.testing.assert_close(mine, ratio, rtol=1e-8, atol=1e-10, msg=name)
    return found


def check_the_rest(network, x, y, found):
    """Whatever is no matrix has the exact diagonal; everything is finite and positive semi-definite."""
    assert list(found.blocks) == list(trainable(network))
    exact = diagonal(network, x, y)
    for name, p in trainable(network).items():
        block, none = found.blocks[name], torch.zeros(p.numel(), dtype=F64)
        if p.dim() < 2 or isinstance(block, Diagonal):
            torch.testing.assert_close(block.precision(none), exact[name].flatten(), rtol=1e-7, atol=1e-12, msg=name)
    delta = precisions(sum(found.sizes), 1.0)
    assert (no_prior(found) >= 0).all()
    assert found.log_det_ratio(delta) >= 0
    gamma = found.determined(delta)
    assert torch.isfinite(gamma).all()
    assert 0 < gamma.sum() < len(gamma)


def shaken(network):
    """No zeros of an initialisation may hide a mistake."""
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype)
    return network


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_every_family_against_sums_over_positions(family, options):
    network = shaken(build(family, (1, 8, 8), 3, seed=0, **options).double())
    x, y = batch(3, (1, 8, 8), 3)
    check_the_rest(network, x, y, check_against_hooks(network, x, y))


@pytest.mark.parametrize(
    "model", ["timm/convnext_atto", "timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224", "torchvision/resnet18"]
)
def test_networks_of_other_libraries(model):
    """Grouped and pointwise convolutions, attention, layer scales, BatchNorm."""
    network = thinner(build(model, (3, 32, 32), 2, seed=0).double().eval())
    x, y = batch(2, (3, 32, 32), 2)
    found = check_against_hooks(network, x, y) if model == "timm/mobilenetv3_small_050" else kfac(network, x, y)
    check_the_rest(network, x, y, found)


def thinner(network):
    """Wide weights stand still, so that the test is quick."""
    for p in network.parameters():
        p.requires_grad_(p.numel() < 50_000)
    return network


def test_grouped_convolutions_have_a_pair_per_group_however_patches_are_split(monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 3)).double()
    x, y = batch(5, (4, 5, 5), 3)
    whole = check_against_hooks(network, x, y)
    assert whole.blocks["0.weight"].h.shape == (2, 3, 18)
    monkeypatch.setattr(kronecker, "PATCHES", 1)
    torch.testing.assert_close(no_prior(kfac(network, x, y)), no_prior(whole))


no_warning_of_empty_weights = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


class Odd(nn.Module):
    """Tied, grouped and strided weights, an embedding, and operations that nobody foresaw."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.tied = nn.Linear(6, 6, bias=False)
        self.power = nn.Parameter(torch.rand(6))
        self.unused = nn.Parameter(torch.rand(2, 2))
        self.empty = nn.Linear(0, 2, bias=False)
        self.head = nn.Linear(6 + 4, 3)

    def forward(self, x):
        tokens = self.table(self.words(x))
        tokens = self.tied(self.tied(tokens).tanh()) + tokens.abs() ** self.power
        return self.head(torch.cat([tokens.mean(1), self.convolution(x).mean((2, 3))], 1))

    @staticmethod
    def words(x):
        return (x.flatten(1)[:, :7] * 3).round().long().abs() % 5


@no_warning_of_empty_weights
def test_tied_grouped_unused_empty_and_unforeseen_parameters():
    torch.manual_seed(0)
    network = Odd().double()
    x, y = batch(5, (2, 5, 5), 3)
    found = kfac(network, x, y)
    assert [n for n, b in found.blocks.items() if isinstance(b, Diagonal)] == ["power", "unused", "empty.weight"]
    assert (no_prior(found) >= 0).all()
    exact = diagonal(network, x, y)
    torch.testing.assert_close(found.blocks["power"].h, exact["power"])
    assert found.blocks["unused"].h.tolist() == [0.0] * 4
    assert torch.isfinite(found.determined(precisions(sum(found.sizes), 1.0))).all()


def test_a_table_that_is_also_the_output_layer_keeps_its_exact_diagonal():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 3, dtype=F64)

        def forward(self, words):
            return F.linear(self.table(words).mean(1), self.table.weight)

    torch.manual_seed(0)
    network, words = Tied(), torch.randint(0, 4, (6, 5))
    y = torch.randint(0, 4, (6,))
    found = kfac(network, words, y).blocks["table.weight"]
    assert isinstance(found, Diagonal)
    torch.testing.assert_close(found.h, diagonal(network, words, y)["table.weight"].flatten())


def test_tied_weights_count_every_use_as_positions():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False, dtype=F64)
    network = nn.Sequential(layer, nn.Tanh(), layer)
    x, y = batch(6, (4,))
    hidden = layer(x).tanh()
    vectors = output_vectors(network(x).detach(), y, "categorical", "ggn", None)
    late = vectors.flatten(0, 1)
    early = torch.einsum("nkc,ch,nh->nkh", vectors, layer.weight, 1 - hidden.square()).flatten(0, 1)
    b = late.T @ late + early.T @ early
    a = (x.T @ x + hidden.T @ hidden) / 12
    found = no_prior(kfac(network, x, y))
    torch.testing.assert_close(found, torch.kron(b.diagonal(), a.diagonal()).detach())


def test_an_embedding_is_counts_times_gradients():
    torch.manual_seed(0)
    table = nn.Embedding(7, 3, dtype=F64)
    network = nn.Sequential(table, nn.Flatten(), nn.Linear(6, 4, dtype=F64))
    words = torch.randint(0, 6, (5, 2), generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 4, (5,))
    vectors = output_vectors(network(words).detach(), y, "categorical", "ggn", None)
    g = (vectors @ network[2].weight.detach()).unflatten(2, (2, 3)).flatten(0, 2)
    counts = torch.bincount(words.flatten(), minlength=7).to(F64)
    block, delta = kfac(network, words, y).blocks["0.weight"], precisions(21, 1.0)
    mine = block.precision(torch.zeros(21, dtype=F64))
    torch.testing.assert_close(mine, torch.kron(counts / counts.sum(), g.square().sum(0)))
    rows = [KroneckerProduct.of((c / counts.sum()).view(1, 1, 1), (g.T @ g)[None]) for c in counts]
    apart = sum(row.log_det_ratio(d) for row, d in zip(rows, delta.split(3), strict=True))
    torch.testing.assert_close(block.log_det_ratio(delta), apart)
    assert mine[-3:].tolist() == [0, 0, 0]  # a word that never occurs


class Reader(LastState):
    """The last state of an LSTM, and what its gates are made of written out."""

    def written_out(self, x):
        """Outputs, the gates' pre-activations (T, N, 16) and the states before them (T, N, 4)."""
        h = c = x.new_zeros(len(x), 4)
        gates, states = [], []
        for step in x.unbind(1):
            states.append(h)
            gates.append(F.linear(step, self.lstm.weight_ih_l0) + F.linear(h, self.lstm.weight_hh_l0))
            gates[-1] = gates[-1] + self.lstm.bias_ih_l0 + self.lstm.bias_hh_l0
            i, f, g, o = gates[-1].chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h), gates, states


def test_a_recurrent_network_has_its_times_as_positions():
    torch.manual_seed(0)
    network = Reader().double()
    x, y = batch(4, (5, 3), 3)
    found = check_against_hooks(network, x, y)
    check_the_rest(network, x, y, found)
    outputs, gates, states = network.written_out(x)
    vectors = output_vectors(outputs.detach(), y, "categorical", "ggn", None)
    g = torch.cat([torch.cat(torch.autograd.grad(outputs, gates, v, retain_graph=True)) for v in vectors.unbind(1)])
    for name, a in (("weight_ih_l0", x.flatten(0, 1)), ("weight_hh_l0", torch.cat(states))):
        block = found.blocks[f"lstm.{name}"]
        expected = torch.kron(g.square().sum(0), a.square().mean(0)).detach()
        torch.testing.assert_close(block.precision(torch.zeros(len(expected), dtype=F64)), expected)


def test_blocks_of_vectors_are_exact():
    """Diagonal and determinant of a bias's and of a norm scale's block, from explicit Jacobians."""
    network = tiny_conv_net(batch_norm=True).eval()
    x, y = batch()
    j, names = jacobians(network, x)
    p = network(x).detach().softmax(1)
    hessian = torch.einsum("ncp,ncd,ndq->pq", j, torch.diag_embed(p) - p[:, :, None] * p[:, None], j)
    found, start = kfac(network, x, y), 0
    for name, size in zip(names, found.sizes, strict=True):
        block = hessian[start : start + size, start : start + size]
        start += size
        if network.get_parameter(name).dim() == 1:
            delta = torch.full((size,), 0.3, dtype=F64)
            exact = torch.linalg.slogdet(block / 0.3 + torch.eye(size, dtype=F64))[1]
            torch.testing.assert_close(found.blocks[name].log_det_ratio(delta), exact)


# ---------------------------------------------------------------------- evidence, invariances, laplace-torch


def test_evidence_of_one_linear_output_is_exact():
    """log N(y; 0, s² I + X D⁻¹ X')."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, dtype=F64, generator=generator)
    y = x @ torch.tensor([[1.0], [0.0], [2.0], [-3.0]], dtype=F64)
    y = y + 0.5 * torch.randn(30, 1, dtype=F64, generator=generator)
    delta, s = 0.8, 0.7
    covariance = s**2 * torch.eye(30, dtype=F64) + x @ x.T / delta
    exact = torch.distributions.MultivariateNormal(torch.zeros(30, dtype=F64), covariance).log_prob(y.squeeze(1))
    network = nn.Linear(4, 1, bias=False, dtype=F64)
    theta = torch.linalg.solve(x.T @ x / s**2 + delta * torch.eye(4, dtype=F64), x.T @ y / s**2)
    network.weight.data = theta.T
    tempered = kfac(network, x, y, "gaussian").scaled(1 / s**2)
    fit = -0.5 * (y - x @ theta).square().sum() / s**2 - 30 * math.log(s * math.sqrt(2 * math.pi))
    ratio = tempered.log_det_ratio(torch.full((4,), delta, dtype=F64))
    torch.testing.assert_close(fit - 0.5 * (ratio + delta * theta.square().sum()), exact)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip


def mlp():
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


def laplace_ratio(reference, delta):
    """log det(H + D) - log det D as laplace-torch has it."""
    reference.prior_precision = delta
    return reference.log_det_ratio


@pytest.mark.parametrize(("network", "shape"), [(mlp, (5,)), (lenet, (1, 10, 10))])
@pytest.mark.parametrize("kind", ["ggn", "ef"])
def test_laplace_torch_agrees(network, shape, kind):
    """All blocks but the biases of convolutions, for which it sums g g' over positions: ours are exact."""
    laplace = pytest.importorskip("laplace")
    from laplace.curvature import CurvlinopsEF, CurvlinopsGGN

    torch.manual_seed(0)
    network = network()
    x, y = torch.randn(20, *shape), torch.randint(0, 3, (20,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    backend = CurvlinopsGGN if kind == "ggn" else CurvlinopsEF
    reference = laplace.Laplace(network, "classification", "all", "kron", backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.fit(loader)
    found = kfac(network, x, y, kind=kind)
    layers = torch.linspace(0.3, 5.0, len(found.blocks))
    wholes = [torch.tensor(2.0), layers]
    if len(shape) == 1:
        for delta in wholes:
            mine = torch.cat([d.expand(n) for d, n in zip(delta.expand(len(found.sizes)), found.sizes, strict=True)])
            torch.testing.assert_close(
                found.log_det_ratio(mine.double()).float(), laplace_ratio(reference, delta), rtol=1e-4, atol=1e-4
            )
    for i, (name, block) in enumerate(found.blocks.items()):
        factors = [f.double() for f in reference.H_facs.kfacs[i]]
        dense = torch.kron(factors[0], factors[1] if len(factors) > 1 else torch.ones(1, 1, dtype=F64))
        exact = torch.linalg.eigvalsh(dense / layers[i]).clamp_min(0).log1p().sum()
        mine = block.log_det_ratio(torch.full((len(dense),), layers[i].item(), dtype=F64))
        conv_bias = len(shape) > 1 and name in ("0.bias", "3.bias")
        assert torch.isclose(mine, exact, rtol=1e-4) != conv_bias, name


def test_batches_and_order_do_not_matter(monkeypatch):
    network, (x, y) = tiny_conv_net(), batch(16)
    delta = precisions(sum(p.numel() for p in network.parameters()), 1.0)
    whole = kfac(network, x, y)
    order = torch.randperm(16)
    for size in (1, 5):
        monkeypatch.setattr(curvature, "BATCH", size)
        parts = kfac(network, x[order], y[order])
        torch.testing.assert_close(no_prior(parts), no_prior(whole), rtol=1e-11, atol=0)
        torch.testing.assert_close(parts.log_det_ratio(delta), whole.log_det_ratio(delta))


def test_duplicated_data_are_twice_the_curvature():
    network, (x, y) = tiny_conv_net(), batch(16)  # enough that no eigenvalue but the softmax's own is zero
    twice = kfac(network, x.repeat(2, 1, 1, 1), y.repeat(2))
    delta = precisions(sum(twice.sizes), 1.0)
    torch.testing.assert_close(twice.log_det_ratio(delta), kfac(network, x, y).scaled(2.0).log_det_ratio(delta))


def test_rescaling_relu_units_leaves_curvature_times_square_but_not_magnitude():
    torch.manual_seed(0)
    network = mlp().double()
    x, y = batch(20, (5,), 3)

    def saliency():
        theta = flat(p.detach() for p in network.parameters())
        found = (flat(diagonal(network, x, y).values()), no_prior(kfac(network, x, y)))
        return [h * theta.square() for h in found], theta.abs()

    before, magnitude = saliency()
    network[0].weight.data *= 7
    network[0].bias.data *= 7
    network[2].weight.data /= 7
    after, rescaled = saliency()
    for b, a in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-15)
    assert not torch.equal(magnitude.argsort(), rescaled.argsort())


@pytest.mark.parametrize("kind", ["mc", "rademacher"])
def test_random_kinds_are_unbiased(kind):
    network = nn.Linear(3, 4, dtype=F64)
    x, y = batch(4, (3,))
    many = kfac(network, x.repeat(8000, 1), y.repeat(8000), kind=kind, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(no_prior(many) / 8000, no_prior(kfac(network, x, y)), rtol=0.05, atol=1e-3)


def test_leaves_modes_and_gradients_alone_and_frozen_parameters_out():
    network, (x, y) = tiny_conv_net(True).train(), batch()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    network[0].weight.requires_grad_(False)
    found = kfac(network, x, y)
    assert "0.weight" not in found.blocks
    assert found.sizes == tuple(p.numel() for p in trainable(network).values())
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_bad_input_is_refused():
    network, (x, y) = tiny_conv_net(), batch()
    with pytest.raises(UsageError, match="at least one example"):
        kfac(network, x[:0], y[:0])
    with pytest.raises(UsageError, match="generator"):
        kfac(network, x, y, kind="mc")
    with pytest.raises(ArithmeticError, match="not finite"):
        kfac(network, x * float("inf"), y)
    with pytest.raises(UsageError, match="frozen"):
        kfac(network.requires_grad_(False), x, y)


@no_warning_of_empty_weights
def test_predicted_bytes_count_factors_and_eigenvectors():
    network = Odd()
    weights = (5 + 6**2) + 2 * (2**2 + 9**2) + (6**2 + 6**2) + (3**2 + 10**2)
    vectors = (6**2 + 1) + (3**2 + 1)
    assert predicted_bytes(network) == 16 * (weights + vectors + 4)
