"""Labels that hold or not, and probabilities of classes: losses, curvature, evidence, metrics, data sets."""

import json

import bayesprune as bp
import numpy as np
import pytest
import torch
from bayesprune.bench.evaluation import binary_metrics, metrics
from bayesprune.bench.evaluation.evaluate import brief, evaluate, validation_nll
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.assemble import assemble
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import _partition, load
from bayesprune.datasets.own import from_arrays
from bayesprune.datasets.source import Source, checked
from bayesprune.methods.closed_forms.likelihood import mean_loss, summed_loss
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.estimate import curvature_of
from bayesprune.methods.curvature.output_vectors import output_vectors
from bayesprune.methods.curvature.whole import dense
from bayesprune.methods.laplace.evidence import evidence_at
from bayesprune.methods.laplace.map import MAP
from oracles import flat, jacobians
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss
from torch import nn
from torch.func import functional_call, hessian


def network(outputs: int, inputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def examples(outputs: int, n: int = 9, inputs: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, inputs, generator=generator, dtype=torch.float64)
    return x, (torch.rand(n, outputs, generator=generator) > 0.4).double()


class ZeroAndLogit(nn.Module):
    """The same binary classifier with two outputs, 0 and the logit: a categorical one."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        z = self.inner(x).reshape(-1, 1)
        return torch.cat([torch.zeros_like(z), z], 1)


# ---------------------------------------------------------------------- curvature


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_whole_curvature_of_a_linear_network_is_the_hessian(outputs):
    layer, (x, y) = nn.Linear(4, outputs).double(), examples(outputs)

    def loss(vector):
        weight, bias = vector[: 4 * outputs].view(outputs, 4), vector[4 * outputs :]
        logits = functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")

    exact = hessian(loss)(flat(p.detach() for p in layer.parameters()))
    torch.testing.assert_close(dense(layer, Split(x, y, "bernoulli")).h, exact)
    torch.testing.assert_close(flat(diagonal(layer, x, y, "bernoulli").values()), exact.diagonal())


def explicit(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Σ_n J_n' diag(p (1 - p)) J_n, one autograd call per entry of J."""
    J, p = jacobians(net, x)[0], net(x).detach().sigmoid()
    return torch.einsum("ncp,nc,ncq->pq", J, p * (1 - p), J)


def test_diagonal_and_whole_against_explicit_jacobians():
    net, (x, y) = network(3), examples(3)
    whole = explicit(net, x)
    torch.testing.assert_close(dense(net, Split(x, y, "bernoulli")).h, whole)
    for kind, top in (("ggn", 1), ("topk", 3)):
        found = diagonal(net, x, y, "bernoulli", kind, torch.Generator().manual_seed(0), top)
        torch.testing.assert_close(flat(found.values()), whole.diagonal())


def test_the_empirical_fisher_is_of_squared_gradients():
    net, (x, y) = network(3), examples(3)
    found = diagonal(net, x, y, "bernoulli", "ef")
    squares = [torch.zeros_like(p) for p in net.parameters()]
    for one, target in zip(x, y, strict=True):
        loss = nn.functional.binary_cross_entropy_with_logits(net(one), target, reduction="sum")
        for total, g in zip(squares, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            total += g.square()
    torch.testing.assert_close(flat(found.values()), flat(squares))


@pytest.mark.parametrize("kind", ["rademacher", "mc", "topk"])
def test_sampled_kinds_are_unbiased(kind):
    logits = torch.tensor([[-3.0, 0.2, 1.5], [0.0, 6.0, -0.7]], dtype=torch.float64)
    many = logits.repeat_interleave(60_000, 0)
    generator = torch.Generator().manual_seed(0)
    v = output_vectors(many, torch.zeros_like(many), "bernoulli", kind, generator, top=1)
    found = torch.einsum("nkc,nkd->ncd", v, v).view(2, -1, 3, 3).mean(1)
    p = logits.sigmoid()
    torch.testing.assert_close(found, torch.diag_embed(p * (1 - p)), rtol=0, atol=5e-3)


def test_topk_sends_the_least_certain_output_alone():
    logits = torch.tensor([[-9.0, 8.0, 0.1]], dtype=torch.float64)
    v = output_vectors(logits, torch.zeros(1, 3), "bernoulli", "topk", torch.Generator().manual_seed(0), top=1)
    assert v.shape == (1, 2, 3)
    assert v[0, 0].nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("structure", ["diag", "kfac", "full"])
@pytest.mark.parametrize("kind", ["ggn", "ef"])
def test_one_logit_is_the_categorical_network_of_outputs_zero_and_logit(structure, kind):
    net, (x, y) = network(1), examples(1)
    two, generator = ZeroAndLogit(net), torch.Generator().manual_seed(0)
    ours = evidence_at(net, Split(x, y, "bernoulli"), structure, kind, generator)
    theirs = evidence_at(two, Split(x, y[:, 0].long()), structure, kind, generator)
    delta = torch.full((sum(p.numel() for p in net.parameters()),), 0.7, dtype=torch.float64)
    noise = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(ours.value(delta, noise), theirs.value(delta, noise))
    torch.testing.assert_close(ours.curvature.precision(delta), theirs.curvature.precision(delta))
    assert ours.count is None


def test_outputs_of_shape_n_are_those_of_one_logit():
    net, (x, y) = network(1), examples(1)
    thin = nn.Sequential(net, nn.Flatten(0))
    delta = torch.ones(sum(p.numel() for p in net.parameters()), dtype=torch.float64)
    for structure in ("diag", "kfac", "full"):
        ours, theirs = (curvature_of(n, Split(x, y, "bernoulli"), structure, "ggn", None) for n in (thin, net))
        torch.testing.assert_close(ours.precision(delta), theirs.precision(delta))
    torch.testing.assert_close(mean_loss(thin(x), y, "bernoulli"), mean_loss(net(x), y, "bernoulli"))


def test_what_no_handler_follows_is_differentiated_example_by_example():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([0.3, -0.8, 0.5, 1.1], dtype=torch.float64))

        def forward(self, x):
            return (x * self.scale.exp().cumsum(0)).sum(1)  # (N,), by an operation that is not intercepted

    net, (x, y) = Odd(), examples(1)
    p = net(x).detach().sigmoid()
    J = torch.stack([torch.autograd.grad(net(one[None])[0], net.scale)[0] for one in x])
    found = diagonal(net, x, y, "bernoulli")["scale"]
    torch.testing.assert_close(found, ((p * (1 - p))[:, None] * J.square()).sum(0))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.full((9, 3), 1.5), "must be numbers from 0 to 1; example 0"),
        (torch.zeros(9, 2), r"shape \(N, 3\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y, message):
    with pytest.raises(UsageError, match=message):
        diagonal(network(3), examples(3)[0], y.double(), "bernoulli")


# ---------------------------------------------------------------------- probabilities of classes


def test_the_gauss_newton_matrix_does_not_depend_on_soft_labels_but_the_empirical_fisher_does():
    net, (x, _) = network(3), examples(3)
    soft = torch.rand(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)
    hard = soft.argmax(1)
    for name, exact in diagonal(net, x, hard).items():
        torch.testing.assert_close(diagonal(net, x, soft, "categorical")[name], exact)
    found = diagonal(net, x, soft, "categorical", "ef")
    squares = [torch.zeros_like(p) for p in net.parameters()]
    for one, target in zip(x, soft, strict=True):
        loss = -(target * net(one).log_softmax(0)).sum()
        for total, g in zip(squares, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            total += g.square()
    torch.testing.assert_close(flat(found.values()), flat(squares))
    torch.testing.assert_close(
        summed_loss(net, Split(x, soft, "categorical")), -(soft * net(x).log_softmax(1)).sum().detach()
    )
    with pytest.raises(UsageError, match="sum to one; example 0"):
        diagonal(net, x, soft * 2, "categorical")


def test_one_hot_probabilities_have_the_metrics_of_labels():
    logits = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 4
    hard = metrics.categorical(logits, y)
    soft = metrics.categorical(logits, nn.functional.one_hot(y, 4).float())
    assert soft == pytest.approx(hard)


# ---------------------------------------------------------------------- metrics


def test_metrics_against_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 3, dtype=torch.float64, generator=generator).mul(2).round(decimals=1)  # with ties
    y = (torch.rand(200, 3, generator=generator) > 0.6).double()
    found, p = binary_metrics.bernoulli(logits, y), logits.sigmoid().numpy()
    each = [(y[:, k].numpy(), p[:, k]) for k in range(3)]
    assert found["labels"]["average_precision"] == pytest.approx([average_precision_score(*pair) for pair in each])
    assert found["labels"]["brier"] == pytest.approx([brier_score_loss(*pair) for pair in each])
    assert found["nll"] == pytest.approx(sum(log_loss(*pair) for pair in each))
    assert found["average_precision"] == pytest.approx(average_precision_score(y.numpy(), p, average="macro"))
    assert found["accuracy"] == pytest.approx(((p > 0.5) == y.numpy()).mean())
    assert found["exact_match"] == pytest.approx(((p > 0.5) == y.numpy()).all(1).mean())


def test_calibration_against_torchmetrics():
    from torchmetrics.functional.classification import binary_calibration_error

    generator = torch.Generator().manual_seed(3)
    p, y = torch.rand(300, dtype=torch.float64, generator=generator), torch.randint(0, 2, (300,), generator=generator)
    theirs = binary_calibration_error(p, y, n_bins=15)
    assert binary_metrics.calibration_error(p, y.double()).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_a_label_that_never_holds_has_no_average_precision():
    logits, y = torch.randn(20, 2, dtype=torch.float64), torch.zeros(20, 2)
    y[:7, 0] = 1
    found = binary_metrics.bernoulli(logits, y)
    assert found["labels"]["average_precision"][1] is None
    assert found["average_precision"] == found["labels"]["average_precision"][0]
    assert "average_precision" not in binary_metrics.bernoulli(logits[:, 1:], y[:, 1:])
    json.dumps(found, allow_nan=False)


def test_one_logit_is_judged_as_two_outputs_are():
    z = torch.randn(100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(100) % 3 == 0).long()
    two, other = torch.cat([torch.zeros_like(z), z], 1), z.flip(0)
    ours, theirs = binary_metrics.bernoulli(z, y[:, None].double()), metrics.categorical(two, y)
    assert ours["accuracy"] == theirs["accuracy"]
    assert ours["nll"] == pytest.approx(theirs["nll"])
    assert 2 * ours["brier"] == pytest.approx(theirs["brier"])
    assert metrics.ood_auroc(z, other, binary_metrics.log_confidence) == pytest.approx(
        metrics.ood_auroc(two, torch.cat([torch.zeros_like(other), other], 1))
    )
    draws = torch.stack([z, other, 2 * z])
    mean = torch.stack([binary_metrics.log_probabilities(d) for d in draws]).logsumexp(0)
    torch.testing.assert_close(binary_metrics.logits_of(mean).sigmoid(), draws.sigmoid().mean(0))


# ---------------------------------------------------------------------- data sets


def tags(n=120):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6))
    return x, (x[:, :3] + 0.3 * rng.normal(size=(n, 3)) > 0).astype(int)


def test_whole_numbers_of_several_columns_are_labels_of_their_own():
    source = checked("tags", from_arrays("tags", tags()))
    assert (source.likelihood, source.classes, source.y.dtype) == ("bernoulli", ("0", "1", "2"), np.float32)


@pytest.mark.parametrize(
    ("y", "likelihood", "kind"),
    [
        (tags()[1].astype(float), None, "gaussian"),  # as ever: real and two-dimensional
        (tags()[1].astype(float), "bernoulli", "bernoulli"),
        (tags()[1].astype(bool), None, "bernoulli"),
        (tags()[1][:, 0], None, "categorical"),  # as ever
        (tags()[1][:, 0], "bernoulli", "bernoulli"),
        (np.full((120, 3), 1 / 3), None, "gaussian"),  # as ever
        (np.full((120, 3), 1 / 3), "categorical", "categorical"),
    ],
)
def test_old_data_sets_keep_their_likelihood_and_others_may_say_it(y, likelihood, kind):
    assert from_arrays("d", (tags()[0], y), likelihood=likelihood).likelihood == kind


def test_the_digest_of_a_data_set_does_not_depend_on_what_it_did_not_use(tmp_path):
    x, y = tags()
    np.savez(tmp_path / "a.npz", x=x, y=y[:, 0])
    assert load(f"npz:{tmp_path}/a.npz").digest == load(f"npz:{tmp_path}/a.npz", likelihood="categorical").digest


@pytest.mark.parametrize(
    ("y", "likelihood", "message"),
    [
        (np.full((120, 3), 0.5), "categorical", "sum to one; example 0"),
        (tags()[1] * 2.0, "bernoulli", "numbers from 0 to 1; example"),
        (np.ones((120, 2)), "bernoulli", "label '0' has one value only"),
    ],
)
def test_bad_targets_of_a_data_set_are_refused(y, likelihood, message):
    with pytest.raises(UsageError, match=message):
        checked("d", Source(x=tags()[0], y=y, likelihood=likelihood))


@pytest.fixture
def tagged(tmp_path):
    x, y = tags()
    np.savez(tmp_path / "tags.npz", x=x, y=y)
    return f"npz:{tmp_path}/tags.npz"


def test_a_network_is_evaluated_label_by_label(tagged):
    data = load(tagged)
    assert (data.likelihood, data.outputs, data.train.likelihood) == ("bernoulli", 3, "bernoulli")
    net = nn.Linear(6, 3)
    values, outputs = evaluate(net, data)
    assert {"accuracy", "nll", "brier", "ece", "average_precision", "exact_match", "labels", "nll_scaled", "ood_auroc",
            "shift_accuracy"} <= values.keys()  # fmt: skip
    assert values["nll"] == pytest.approx(mean_loss(net(data.test.x), data.test.y, "bernoulli").item(), rel=1e-5)
    assert outputs.shape == data.test.y.shape
    assert brief(net, data)["average_precision"] == values["average_precision"]
    assert validation_nll(net, data) == pytest.approx(
        mean_loss(net(data.validation.x), data.validation.y, "bernoulli").item(), rel=1e-5
    )


def test_a_matrix_runs_on_labels_and_its_records_have_their_columns(tagged, tmp_path):
    spec = {
        "datasets": [tagged],
        "architectures": [{"name": "mlp", "widths": [8]}],
        "methods": ["spam-opd", "mean-field"],
        "sparsity": [0.5],
        "seeds": [0],
        "training": {"epochs": 2},
        "finetune": {"epochs": 1},
    }
    path = tmp_path / "m.yaml"
    path.write_text(json.dumps(spec))
    bp.run(path, tmp_path / "out")
    frame = bp.results(tmp_path / "out")
    assert (frame["status"] == "done").all(), frame["reason"].tolist()
    assert (frame["likelihood"] == "bernoulli").all()
    for column in ("accuracy", "nll", "ece", "average_precision", "dense_average_precision"):
        assert frame[column].between(0, 10).all()
    assert frame.loc[frame["method"].str.startswith("mean-field"), "mc_nll"].notna().all()


# ---------------------------------------------------------------------- in a matrix


def test_a_network_that_ends_in_probabilities_is_refused_before_a_matrix_runs(tagged, tmp_path, monkeypatch):
    (tmp_path / "mine_ends.py").write_text(
        "from torch import nn\ndef net(shape, outputs): return nn.Sequential(nn.Linear(*shape, outputs), nn.Sigmoid())\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = {"datasets": [tagged], "architectures": ["mine_ends:net"], "methods": ["magnitude"], "sparsity": [0.5],
            "seeds": [0]}  # fmt: skip
    (tmp_path / "m.yaml").write_text(json.dumps(spec))
    with pytest.raises(UsageError, match="leave the sigmoid out"):
        bp.run(tmp_path / "m.yaml", tmp_path / "out")


def test_features_are_selected_for_several_labels():
    x, y = tags()
    found = bp.select_features(x, y, "magnitude", k=3, seeds=1)
    assert set(found.features) == {"x1", "x2", "x3"}


def test_probabilities_of_classes_are_a_data_set():
    x, _ = tags()
    y = np.exp(2 * x[:, :3]) / np.exp(2 * x[:, :3]).sum(axis=1, keepdims=True)
    source = checked("soft", Source(x=x, y=y, likelihood="categorical"))
    data = assemble("soft", source, _partition("soft", source, 0, None), 0, None)
    assert (data.likelihood, data.outputs, data.train.terms) == ("categorical", 3, len(data.train))
    net = nn.Linear(6, 3)
    before = validation_nll(net, data)
    train(net, data.train, MAP(), Training(lr=1e-2), 100, torch.Generator().manual_seed(0))
    assert validation_nll(net, data) < before
    values, _ = evaluate(net, data)
    expected = -(data.test.y * net(data.test.x).log_softmax(1)).sum(1).mean().item()
    assert values["nll"] == pytest.approx(expected, rel=1e-5)
    assert values["accuracy"] > 0.8
