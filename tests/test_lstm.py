"""LSTM for tokens: the recursion written out, groups, compaction, curvature of sequences, the harness."""

import itertools
import json
import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.lstm import LSTM
from bayesprune.architectures.saved.bundle import load as load_bundle
from bayesprune.architectures.saved.bundle import save
from bayesprune.architectures.saved.export import export
from bayesprune.architectures.saved.plan import Architecture
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.prunable import prunable, trainable
from bayesprune.bench.evaluation import evaluate as evaluation
from bayesprune.bench.evaluation.flops import flops
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.spec.matrix import load_matrix
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.closed_forms.likelihood import mean_loss, summed_loss
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.output_vectors import combined, draws, passes
from bayesprune.methods.curvature.squared_gradients import _add_formed_squares, _add_squares
from bayesprune.methods.gradients.uses import Lookup
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.scores.scratch import balanced_batch
from torch import nn

T, V = 5, 9
KINDS = [
    {"hidden": 6, "embedding": 4},
    {"hidden": 6, "embedding": 4, "layers": 2, "words": True},
    {"hidden": 5, "embedding": 0, "words": True},
    {"hidden": 5, "embedding": 0, "layers": 3},
]


def network_of(outputs=V, shape=(T, V), **options):
    """A network in float64 with no weight that is zero, except for the biases that are frozen there."""
    network = build("lstm", shape, outputs, seed=0, **options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def tokens(n, padded=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, V, (n, T), generator=generator)
    for row, left in enumerate(torch.randint(0, T, (n,), generator=generator) if padded else ()):
        x[row, : int(left)] = 0
    return x


def written_out(network, x, vectors):
    """States (N, T, hidden) of the last layer by the equations, one step at a time; padding copies (h, c)."""
    states = vectors
    for layer in network.recurrent:
        w_x, w_h, b = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0 + layer.bias_hh_l0
        h = c = torch.zeros(len(x), w_h.shape[1], dtype=torch.float64)
        outputs = []
        for t in range(x.shape[1]):
            i, f, g, o = (states[:, t] @ w_x.T + h @ w_h.T + b).chunk(4, 1)
            here = (x[:, t] != 0).unsqueeze(1)
            c = torch.where(here, f.sigmoid() * c + i.sigmoid() * g.tanh(), c)
            h = torch.where(here, o.sigmoid() * c.tanh(), h)
            outputs.append(h)
        states = torch.stack(outputs, 1)
    return states


def vectors_of(network, x):
    weight = getattr(network.inputs, "weight", torch.eye(V, dtype=torch.float64))
    return weight[x]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_recursion_with_padding_that_copies_the_state(options):
    x = tokens(12, padded=True)
    network = network_of(2, **options)
    states = written_out(network, x, vectors_of(network, x))
    torch.testing.assert_close(network(x), network.readout(states[:, -1]), rtol=0, atol=1e-14)
    model = network_of(V, **options)
    x = tokens(12)
    expected = model.readout(written_out(model, x, vectors_of(model, x)))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-14)


def test_what_the_builder_chooses():
    model, classifier = (build("lstm", (T, V), outputs, seed=0) for outputs in (V, 2))
    assert isinstance(model, LSTM)
    assert (model.read, classifier.read) == ("all", "last")
    assert build("lstm", (T, V), V, seed=0, read="last")(tokens(3)).shape == (3, V)
    assert set(prunable(model)) == {
        "inputs.weight", "recurrent.0.weight_ih_l0", "recurrent.0.weight_hh_l0", "readout.weight"
    }  # fmt: skip
    layer = model.recurrent[0]
    assert not layer.bias_hh_l0.requires_grad
    assert not layer.bias_hh_l0.any()
    assert [b.unique().tolist() for b in layer.bias_ih_l0.chunk(4)] == [[0.0], [1.0], [0.0], [0.0]]
    for gate in layer.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(128), rtol=0, atol=1e-5)


def test_rows_of_an_image_are_a_sequence():
    network = build("lstm", (3, 4, 5), 7, seed=0, hidden=6).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    rows = torch.stack([torch.stack([image[:, row].flatten() for row in range(4)]) for image in x])
    torch.testing.assert_close(network(x), network.readout(network.recurrent[0](rows)[0][:, -1]))


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("mlp", (T, V), {}, "'mlp' cannot read sequences of tokens .* use 'lstm'"),
        ("lenet-300-100", (T, V), {}, "cannot read sequences of tokens"),
        ("resnet", (T, V), {}, "needs images .* use 'lstm' for sequences of tokens"),
        ("vit", (T, V), {}, "needs images"),
        ("resnet", (7,), {}, "use 'mlp' for tables"),
        ("lstm", (7,), {}, "needs sequences of tokens or images, .* use 'mlp' for tables"),
        ("lstm", (1, 8, 8), {"words": True}, "are for sequences of tokens"),
        ("lstm", (1, 8, 8), {"read": "all"}, "are for sequences of tokens"),
        ("lstm", (T, V), {"hidden": 0}, "hidden=0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(name, shape, options, message):
    with pytest.raises(UsageError, match=message):
        build(name, shape, 3, seed=0, **options)


# ---------------------------------------------------------------------- groups and compaction


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("outputs", [V, 2])
def test_twenty_random_masks_can_be_cut_out(options, outputs):
    network = network_of(outputs, **options)
    units, x = group_units(network), tokens(16, padded=outputs != V)
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        kept = [torch.rand(n, generator=generator) < 0.5 for n in units.layer_sizes]
        for part in kept:
            part[torch.randint(len(part), (1,), generator=generator)] = True
        mask, masked = Mask(units, torch.cat(kept)), network_of(outputs, **options)
        mask.apply_(masked)
        small = compact(masked, mask, x)
        assert certify(masked, small, x, 1e-12).difference <= 1e-12
        sizes = [int(part.sum()) for part in kept]
        assert [layer.hidden_size for layer in small.recurrent] == sizes[-len(small.recurrent) :]
        assert all(type(layer) is nn.LSTM for layer in small.recurrent)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())


def test_a_neuron_that_left_has_a_state_of_zero_and_one_that_has_no_weights_to_itself_has_not():
    """Rows and biases of all four gates go with it; zero gates alone leave a constant of the bias (spec B.7)."""
    network, x = network_of(V, hidden=6, embedding=4), tokens(8)
    units = group_units(network)
    kept = torch.ones(units.n, dtype=torch.bool)
    kept[4 + 2] = False
    Mask(units, kept).apply_(network)
    states = network._states(x)
    assert not states[..., 2].any()
    assert (states[..., [0, 1, 3, 4, 5]] != 0).all()
    other = network_of(V, hidden=6, embedding=4)
    with torch.no_grad():
        for part in ("weight_ih_l0", "weight_hh_l0"):
            other.recurrent[0].get_parameter(part).view(4, 6, -1)[:, 2] = 0
    state = other._states(x)[..., 2]
    assert (state != 0).all()
    torch.testing.assert_close(state, state[:1].expand_as(state))
    assert state[0].unique().numel() == T, "the same for all cases, though not in time"


def test_words_that_left_are_read_as_zeros_and_the_others_as_before():
    network = network_of(2, hidden=6, embedding=4, words=True)
    units = group_units(network)
    assert units.layer_names[0] == "inputs words"
    kept = torch.ones(units.n, dtype=torch.bool)
    kept[[0, 3, 7]] = False
    mask = Mask(units, kept)
    mask.apply_(network)
    small = compact(network, mask)
    assert small.inputs.present.tolist() == [1, 2, 4, 5, 6, 8]
    assert small.inputs.weight.shape == (6, 4)
    every = torch.arange(V).unsqueeze(0)
    assert torch.equal(small.inputs(every), network.inputs(every))
    assert not small.inputs(torch.tensor([[0, 3, 7]])).any()
    assert certify(network, small, tokens(32, padded=True)).difference == 0


def test_a_unit_owns_its_weights_and_no_others():
    network = network_of(V, hidden=6, embedding=4, layers=2)
    units = group_units(network)
    assert units.layer_sizes == (4, 6, 6)
    kept = torch.ones(units.n, dtype=torch.bool)
    kept[4 + 1] = False
    masks = units.scatter(kept)
    own = [1, 7, 13, 19]
    assert sorted((~masks["recurrent.0.weight_ih_l0"]).any(1).nonzero().flatten().tolist()) == own
    assert (~masks["recurrent.0.weight_hh_l0"]).sum() == 4 * 6 + 24 - 4
    assert (~masks["recurrent.0.bias_ih_l0"]).nonzero().flatten().tolist() == own
    assert (~masks["recurrent.1.weight_ih_l0"]).all(0).nonzero().flatten().tolist() == [1]
    assert masks["recurrent.1.weight_hh_l0"].all()
    assert masks["readout.weight"].all()


@pytest.mark.parametrize("options", [*KINDS, {"shape": (1, T, 4), "outputs": 3}], ids=str)
def test_bundle_and_program_of_the_compact_network(options, tmp_path):
    options = dict(options)
    shape, outputs = options.pop("shape", (T, V)), options.pop("outputs", V)
    network = build("lstm", shape, outputs, seed=0, **options)
    x = tokens(4) if len(shape) == 2 else torch.randn(4, *shape)
    units = group_units(network)
    mask = Mask(units, torch.arange(units.n) % 3 != 1)
    mask.apply_(network)
    small = compact(network, mask, x)
    save(tmp_path / "small.safetensors", small, architecture=Architecture("lstm", shape, outputs, options))
    again = load_bundle(tmp_path / "small.safetensors")
    small.eval()
    assert torch.equal(again(x), small(x))
    program = export(small, x).module()
    assert torch.equal(program(x[:3]), small(x[:3])), "other batch sizes than that of the example"
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad), "as trainable as before"


# ---------------------------------------------------------------------- loss and curvature


def test_losses_are_means_over_tokens():
    network, y = network_of(V, hidden=3, embedding=2), tokens(6, seed=3)
    x = tokens(6)
    outputs = network(x)
    each = -outputs.log_softmax(2).gather(2, y.unsqueeze(2)).squeeze(2)
    split = Split(x, y)
    assert split.terms == 30
    torch.testing.assert_close(mean_loss(outputs, y), each.mean())
    torch.testing.assert_close(summed_loss(network, split, batch=4), each.sum())
    assert len(balanced_batch(split, 4, torch.Generator().manual_seed(0))) == 4


@pytest.mark.parametrize(("y", "scale"), [(tokens(8, seed=1), 1 / 40), (torch.arange(8) % 2, 1 / 8)])
def test_the_penalty_counts_tokens_for_a_language_model_and_documents_for_a_classifier(y, scale):
    """Mixing them up is an error of the length of a sequence (spec B.7.5)."""
    seen = []

    class Watched(MAP):
        def penalizer(self, network, scale):
            seen.append(scale)
            return super().penalizer(network, scale)

    network = build("lstm", (T, V), V if y.dim() == 2 else 2, seed=0, hidden=3, embedding=2)
    inference = Watched(1.0)
    inference.attach(network, weight_units(network), Split(tokens(8), y))
    train(network, Split(tokens(8), y), inference, Training(), 1, torch.Generator().manual_seed(0))
    assert seen == [pytest.approx(scale)]


def explicit(network, x):
    """Jacobians (N, T, C, P) and Hessians of the loss in the outputs (N, T, C, C)."""
    parameters, rows = list(trainable(network).values()), []
    outputs = network(x)
    for output in outputs.flatten():
        grads = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    p = outputs.detach().softmax(-1)
    return torch.stack(rows).view(*outputs.shape, -1), torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2), p


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors.values()])


@pytest.mark.parametrize("options", [{"hidden": 3, "embedding": 2}, {"hidden": 2, "embedding": 0, "layers": 2}])
def test_ggn_and_empirical_fisher_of_a_language_model_against_explicit_jacobians(options):
    network = network_of(4, shape=(3, 4), **options)
    x, y = (torch.randint(1, 4, (4, 3), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    jacobian, hessian, p = explicit(network, x)
    expected = torch.einsum("ntcp,ntcd,ntdp->p", jacobian, hessian, jacobian)
    torch.testing.assert_close(flat(diagonal(network, x, y)), expected, rtol=1e-12, atol=1e-12)
    every_root = diagonal(network, x, y, kind="topk", generator=torch.Generator().manual_seed(0), top=3)
    torch.testing.assert_close(flat(every_root), expected, rtol=1e-12, atol=1e-12)
    surprise = nn.functional.one_hot(y, 4) - p
    gradients = torch.einsum("ntcp,ntc->np", jacobian, surprise)
    torch.testing.assert_close(flat(diagonal(network, x, y, kind="ef")), gradients.square().sum(0))


def outer(vectors):
    """Σ_k v_k v_k' over tokens and classes together, (N, TC, TC)."""
    flattened = vectors.flatten(2)
    return flattened.mT @ flattened


@pytest.mark.parametrize(("kind", "top"), [("rademacher", 0), ("topk", 1), ("mc", 0)])
def test_drawn_vectors_are_unbiased_by_enumeration(kind, top):
    """The mean of v v' over every draw there is, weighted, is block diagonal with the Hessians of the tokens."""
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(2)
    expected = torch.block_diag(*(torch.diag(q) - torch.outer(q, q) for q in p[0]))
    y = torch.zeros(1, 2, dtype=torch.long)
    if kind == "mc":  # a number in the middle of each class's interval, with the class's probability
        ends = p.cumsum(2)
        every = list(itertools.product(range(3), repeat=2))
        drawn = [torch.stack([(ends - p / 2)[0, t, c] for t, c in enumerate(cs)]).view(1, 2, 1) for cs in every]
        weights = [math.prod(float(p[0, t, c]) for t, c in enumerate(cs)) for cs in every]
    else:
        drawn = [torch.tensor(signs).view(1, 2, 3) for signs in itertools.product((-1, 1), repeat=6)]
        weights = [1 / 64] * 64
    found = sum(
        w * outer(combined(logits, y, "categorical", kind, d, top))[0] for w, d in zip(weights, drawn, strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert draws((1, 2, 3), "categorical", kind, torch.Generator().manual_seed(0)).shape == drawn[0].shape
    assert combined(logits, y, "categorical", kind, drawn[0], top).shape[1] == passes(logits, "categorical", kind, top)


def test_long_sequences_of_exact_curvature_and_bad_targets_are_refused():
    network = build("lstm", (60, 20), 20, seed=0, hidden=3, embedding=2)
    x = torch.randint(1, 20, (2, 60))
    with pytest.raises(NotApplicable, match=r"1,140 backward passes .* choose kind: rademacher"):
        diagonal(network, x, x)
    with pytest.raises(UsageError, match=r"whole numbers of shape \(N, 60\)"):
        diagonal(network, x, torch.zeros(2, dtype=torch.long))
    with pytest.raises(UsageError, match="labels must lie in 0 to 19"):
        diagonal(network, x, x + 20)


def test_squares_of_looked_up_rows_equal_those_that_are_formed():
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 5, (6, 4), generator=generator)
    g = torch.randn(6, 4, 3, generator=generator, dtype=torch.float64)
    found, formed = (torch.zeros(5, 3, dtype=torch.float64) for _ in range(2))
    _add_squares(found, [Lookup(index, g, 5)])
    _add_formed_squares(formed, [Lookup(index, g, 5)])
    torch.testing.assert_close(found, formed, rtol=1e-13, atol=1e-13)


# ---------------------------------------------------------------------- evaluation and the harness


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


class Uniform(nn.Module):
    """Every token is as likely as any other."""

    def __init__(self, count):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(count))

    def forward(self, x):
        return self.logits.expand(*x.shape, -1)


def test_metrics_of_a_language_model_are_per_token(text, monkeypatch):
    data = load(f"text:{text}", length=20)
    values, outputs = evaluation.evaluate(Uniform(data.outputs), data)
    assert values["bpc"] == pytest.approx(math.log2(data.outputs))
    assert values["perplexity"] == pytest.approx(data.outputs)
    assert values["test_terms"] == data.test.terms
    assert set(values["shift"]) == {f"{kind}/{s}" for kind in ("swapped", "unknown") for s in range(1, 6)}
    assert outputs.shape == (len(data.test), 20, data.outputs)
    monkeypatch.setattr(evaluation, "KEPT", 3 * 20 * data.outputs)
    monkeypatch.setattr(evaluation, "EVALUATED", 5 * 20 * data.outputs)
    values, outputs = evaluation.evaluate(Uniform(data.outputs), data, shift=False)
    assert (values["test_terms"], len(outputs)) == (5 * 20, 3)


def test_validation_nll_of_tokens_and_of_real_targets(text):
    data = load(f"text:{text}", length=20)
    assert evaluation.validation_nll(Uniform(data.outputs), data) == pytest.approx(math.log(data.outputs))
    rows = load("diabetes")
    network = build("mlp", rows.input_shape, rows.outputs, seed=0)
    residual = (network(rows.validation.x).double() - rows.validation.y).detach() * rows.target_std
    variance = residual.square().mean().item()
    expected = 0.5 * math.log(2 * math.pi * variance) + 0.5
    assert evaluation.validation_nll(network, rows) == pytest.approx(expected, rel=1e-5)


def test_operations_of_the_recurrent_layers_are_counted():
    network = build("lstm", (T, V), V, seed=0, hidden=6, embedding=4)
    expected = 2 * T * (4 * 6 * (6 + 4) + 6 * V)
    assert flops(network, tokens(2))["flops_dense"] == expected
    with torch.no_grad():
        network.recurrent[0].weight_hh_l0.zero_()
    assert flops(network, tokens(2))["flops_nonzero"] < expected
    assert torch.backends.mkldnn.enabled


def test_a_matrix_of_a_language_model(text, tmp_path):
    matrix = tmp_path / "text.yaml"
    matrix.write_text(f"""
datasets: [{{name: "text:{text}", length: 20}}]
architectures: [{{name: lstm, hidden: 16, embedding: 8}}]
methods: [magnitude, random, snip, grasp, opd, {{name: opd, kind: rademacher}}, {{name: bmr-laplace, kind: mc}}]
units: [weights, groups]
sparsity: [0.5]
seeds: [0]
training: {{epochs: 8, lr: 2.0e-2, batch_size: 8}}
finetune: {{epochs: 1}}
""")
    harness.run(load_matrix(str(matrix)), tmp_path / "results", jobs=1, device="cpu")
    records = [json.loads(p.read_text())["record"] for p in (tmp_path / "results" / "cells").glob("*.json")]
    assert len(records) == 14
    skipped = [r for r in records if r["status"] == "skipped"]
    assert [r["method"] for r in skipped] == ["opd", "opd"]
    assert all("choose kind: rademacher" in r["reason"] for r in skipped)
    for record in (r for r in records if r not in skipped):
        assert record["status"] == "done", record["reason"]
        assert record["dense_bpc"] < 0.8 * math.log2(28), "it learned the text"
        assert record["bpc"] == pytest.approx(record["nll"] / math.log(2))
        if record["units"] == "groups":
            assert record["certificate"] <= 1e-5
            assert record["flops_compact"] < record["flops_dense"]
