"""Data as users bring them: loaders, tables of pandas, missing labels, targets of every kind, several inputs."""

import random
import subprocess
import sys

import bayesprune as bp
import numpy as np
import pandas as pd
import pytest
import torch
from bayesprune.bench.features.table import table
from bayesprune.bench.spec.settings import Training
from bayesprune.datasets.arrays import plain
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.datasets.own import channels_first, from_arrays
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset, WeightedRandomSampler


def examples(n=80):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def perceptron(outputs=3, *last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs), *last)


# ---------------------------------------------------------------------- the seed governs loaders


class Noisy(Dataset):
    """Augments with three sources of randomness."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        noise = torch.randn(6) + float(np.random.randn()) + random.random()  # noqa: NPY002
        return examples()[0][i] + noise, examples()[1][i]


LOADERS = {
    "shuffled": lambda: DataLoader(TensorDataset(*examples()), 16, shuffle=True),
    "own generator": lambda: DataLoader(TensorDataset(*examples()), 16, shuffle=True, generator=torch.Generator()),
    "own sampler": lambda: DataLoader(Noisy(), 16, sampler=RandomSampler(Noisy(), generator=torch.Generator())),
    "weighted": lambda: DataLoader(Noisy(), 16, sampler=WeightedRandomSampler([1.0, 2.0] * 20, 30)),
    "augmenting": lambda: DataLoader(Noisy(), 16),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(("method", "options"), [("magnitude", {"finetune": 1}), ("snip", {"examples": 32})])
def test_one_seed_gives_one_network_whatever_a_loader_draws(kind, method, options):
    loader = LOADERS[kind]()
    first, second = (bp.prune(perceptron(), loader, method, 0.5, seed=3, **options).network for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = bp.prune(perceptron(), loader, method, 0.5, seed=4, **options).network
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_what_others_draw_afterwards_is_not_touched():
    def drawn():
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    def begin():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002

    network, loader = perceptron(), LOADERS["own generator"]()
    state = loader.generator.get_state()
    begin()
    expected = drawn()
    begin()
    bp.prune(network, loader, "magnitude", 0.5)
    assert drawn() == expected
    assert torch.equal(loader.generator.get_state(), state)


# ---------------------------------------------------------------------- what targets are


def answers(kind):
    yes = examples()[0][:, 0] > 0
    return {"int": yes.long(), "bool": yes, "real": yes.float(), "column": yes.long()[:, None],
            "numpy": yes.numpy().astype(np.int8), "pandas": pd.Series(yes.numpy()).astype("boolean")}[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["int", "bool", "real", "column", "numpy", "pandas"])
@pytest.mark.parametrize("last", [(), (nn.Flatten(0),)], ids=["(N, 1)", "(N,)"])
def test_one_logit_is_a_bernoulli_likelihood(kind, last):
    network = perceptron(1)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            z = self.net(x)
            return torch.cat([torch.zeros_like(z), z], 1)

    x, labels = examples()[0], answers("int")
    pruned = bp.prune(perceptron(1, *last), (x, answers(kind)), "opd", 0.5)
    assert pruned.notes["likelihood"] == "bernoulli"
    torch.testing.assert_close(pruned.scores, bp.prune(Two(), (x, labels), "opd", 0.5).scores)


def test_fine_tuning_one_logit_keeps_the_classifier():
    x, y = examples(300)[0], (examples(300)[0][:, 0] > 0.3).float()
    network = perceptron(1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(x)[:, 0], y).backward()
        optimizer.step()
    pruned = bp.prune(network, (x, y), "magnitude", 0.5, finetune=20, training=Training(lr=1e-2)).network.eval()
    assert ((pruned(x)[:, 0] > 0) == (y > 0.5)).double().mean() > 0.95


def columns():
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(80, 3, generator=generator) > 0.4).long()


def soft():
    return torch.rand(80, 3, generator=torch.Generator().manual_seed(6)).softmax(1)


@pytest.mark.parametrize(
    ("y", "told", "likelihood"),
    [
        (columns(), None, "bernoulli"),
        (columns().bool(), None, "bernoulli"),
        (columns().float(), None, "bernoulli"),
        (0.9 * columns() + 0.05, "bernoulli", "bernoulli"),
        (columns().float(), "gaussian", "gaussian"),
        (soft(), None, "categorical"),
        (soft().double().numpy(), None, "categorical"),
        (soft(), "gaussian", "gaussian"),
        (torch.randn(80, 3), None, "gaussian"),
        (examples()[1][:, None], None, "categorical"),
        (examples()[1].float(), "categorical", "categorical"),
        (nn.functional.one_hot(examples()[1]), "categorical", "categorical"),
        (nn.functional.one_hot(examples()[1]).float(), "bernoulli", "bernoulli"),
    ],
)
def test_targets_say_their_likelihood_or_are_told(y, told, likelihood):
    pruned = bp.prune(perceptron(), (examples()[0], y), "opd", 0.5, likelihood=told, finetune=1)
    assert pruned.notes["likelihood"] == likelihood


@pytest.mark.parametrize("kind", ["smoothed", "mixed", "a teacher's"])
def test_opd_of_soft_labels_is_that_of_labels(kind):
    x, y = examples()
    hot, share = nn.functional.one_hot(y, 3).float(), torch.rand(80, 1)
    probabilities = {"smoothed": 0.9 * hot + 0.1 / 3, "mixed": share * hot + (1 - share) * hot.roll(1, 0),
                     "a teacher's": perceptron()(x).softmax(1)}[kind]  # fmt: skip
    expected = bp.prune(perceptron(), (x, y), "opd", 0.5).scores
    assert torch.equal(bp.prune(perceptron(), (x, probabilities), "opd", 0.5).scores, expected)


def test_a_split_of_real_zeros_and_ones_is_regression_as_ever():
    pruned = bp.prune(perceptron(), Split(examples()[0], columns().float()), "opd", 0.5)
    assert pruned.notes["likelihood"] == "gaussian"


@pytest.mark.parametrize(
    ("network", "y", "options", "message"),
    [
        (perceptron(), nn.functional.one_hot(examples()[1]).float(), {}, "one-hot; give labels 0..2 .*='categorical'"),
        (perceptron(1), examples()[1], {}, "label 2 .* one output, which is for labels 0 and 1"),
        (perceptron(), 2.0 * soft(), {"likelihood": "categorical"}, "sum to one; example 0"),
        (perceptron(), 2.0 * columns(), {"likelihood": "bernoulli"}, "numbers from 0 to 1; example"),
        (perceptron(2), columns(), {"likelihood": "bernoulli"}, r"has shape \(80, 3\) but the network has 2 outputs"),
        (perceptron(), examples()[1], {"likelihood": "poisson"}, "unknown likelihood 'poisson'"),
        (perceptron(), np.array(["a", "b"] * 40), {}, "words, such as 'a'; give numbers: the class"),
    ],
)
def test_targets_that_do_not_fit_are_refused(network, y, options, message):
    with pytest.raises(UsageError, match=message):
        bp.prune(network, (examples()[0], y), "magnitude", 0.5, **options)


# ---------------------------------------------------------------------- networks that end in probabilities


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = perceptron()

    def forward(self, x):
        e = self.net(x).exp()
        return e / e.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("network", "y", "last"),
    [
        (perceptron(3, nn.Softmax(1)), examples()[1], "softmax"),
        (ByHand(), examples()[1], "softmax"),
        (perceptron(3, nn.Softmax(1)), soft(), "softmax"),
        (perceptron(3, nn.Softmax(1)).half(), examples()[1], "softmax"),
        (perceptron(1, nn.Sigmoid()), answers("int"), "sigmoid"),
        (perceptron(1, nn.Sigmoid(), nn.Flatten(0)), answers("real"), "sigmoid"),
        (perceptron(3, nn.Sigmoid()), columns(), "sigmoid"),
        (perceptron(3, nn.Hardsigmoid()), columns(), "sigmoid"),
    ],
)
def test_probabilities_where_logits_belong_are_refused(network, y, last):
    with pytest.raises(UsageError, match=f"give logits, leave the {last} out"):
        bp.prune(network, (examples()[0], y), "opd", 0.5)


def test_log_probabilities_are_logits():
    x, y = examples()
    ours, theirs = (bp.prune(perceptron(3, *last), (x, y), "opd", 0.7) for last in ((nn.LogSoftmax(1),), ()))
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-7)


def test_logits_that_happen_to_lie_in_the_unit_interval_are_not_probabilities():
    network = perceptron(1)
    nn.init.zeros_(network[2].weight)
    nn.init.constant_(network[2].bias, 0.3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pruned = bp.prune(network, (examples()[0], answers("int")), "magnitude", 0.5)
    assert pruned.notes["likelihood"] == "bernoulli"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_softmax_before_regression_is_somebody_s_business():
    bp.prune(perceptron(3, nn.Softmax(1)), (examples()[0], torch.rand(80, 3)), "opd", 0.5)


# ---------------------------------------------------------------------- several inputs and outputs


class Outputs(nn.Module):
    def __init__(self, give):
        super().__init__()
        self.net, self.give = perceptron(), give

    def forward(self, x, other=None):
        return self.give(self.net(x))


U, V, Y = torch.randn(80, 6), torch.randn(80, 4), torch.arange(80) % 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([((U, V), Y)], "inputs of a batch are 2 tensors, not one: one tensor is needed"),
        ([((U, U), Y)], "inputs of a batch are 2 tensors, not one"),
        ([([U, V, U], Y)], "inputs of a batch are 3 tensors, not one"),
        ([(U, (Y, Y))], "targets of a batch are 2 tensors"),
        ([(U, V, Y)], "batches of data hold 3 things, not x and y: .* wrap the network"),
        ((U, V, Y), "data holds 3 arrays, not x and y"),
        ([{"u": U, "labels": Y}], "dicts of 'u', 'labels', not .* wrap the network"),
        ([({"u": U, "v": V}, Y)], "inputs of a batch are a dict of 'u', 'v'"),
        ({"u": U, "y": Y}, "data is a dict of 'u', 'y', not of x and y"),
    ],
)
def test_several_inputs_are_refused_with_the_way_out(data, message):
    with pytest.raises(UsageError, match=message):
        bp.prune(perceptron(), data, "magnitude", 0.5)


def test_a_dict_of_x_and_y_and_lists_of_examples_are_data():
    x, y = examples()
    expected = bp.prune(perceptron(), (x, y), "opd", 0.5).scores
    for data in ({"x": x, "y": y}, [(list(x), y)], [(x, list(y))]):
        assert torch.equal(bp.prune(perceptron(), data, "opd", 0.5).scores, expected)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda z: {"one": z, "other": z}, r"gives a dict of 'one', 'other': wrap it .* self.network\(x\)\['one'\]"),
        (lambda z: (None, 2), r"gives a tuple of 2: wrap it .* returns self.network\(x\)\[0\]"),
        (lambda z: None, "gives a NoneType: wrap it"),
    ],
)
def test_outputs_that_are_no_tensor_are_refused_with_the_way_out(give, message):
    with pytest.raises(UsageError, match=message):
        bp.prune(Outputs(give), (U, Y), "magnitude", 0.5)


def test_options_of_numpy_can_be_saved(tmp_path):
    options = {"precision": np.float64(2), "rounds": np.int64(2), "finetune": np.int32(1), "seed": np.int64(1)}
    budget = {"at_least": np.int64(1)}
    pruned = bp.prune(perceptron(), examples(), "opd", np.float32(0.5), structured=True, budget=budget, **options)
    pruned.save(tmp_path / "n.safetensors")
    assert pruned.notes["options"] == {"precision": 2.0, "rounds": 2}
    assert {type(v) for v in pruned.notes["options"].values()} == {float, int}


def test_an_unknown_wish_for_batch_norm_is_refused():
    with pytest.raises(UsageError, match="unknown batch_norm 'train'"):
        bp.prune(perceptron(), examples(), "snip", 0.5, batch_norm="train")


# ---------------------------------------------------------------------- tables and labels of pandas


ROWS = np.random.default_rng(0).normal(size=(80, 4))
WORDS = np.where(ROWS[:, 0] > 0, "yes", "no").astype(object)
ZEROS = (ROWS[:, 0] > 0).astype(int).astype(object)


def holed(values, what):
    values = values.copy()
    values[[3, 7, 9]] = what
    return values


MISSING = {
    "words, nan": holed(WORDS, np.nan),
    "words, None": holed(WORDS, None),
    "words, NA": holed(WORDS, pd.NA),
    "words, NaT": holed(WORDS, pd.NaT),
    "list": list(holed(WORDS, None)),
    "words that were nan": holed(WORDS, np.nan).astype(str),
    "string": pd.Series(holed(WORDS, None), dtype="string"),
    "category": pd.Series(holed(WORDS, np.nan), dtype="category"),
    "category of numbers": pd.Series(holed(ZEROS, np.nan), dtype="category"),
    "booleans": holed((ROWS[:, 0] > 0).astype(object), None),
    "zeros": holed(ZEROS, None),
    "floats": holed(ZEROS.astype(float), np.nan),
    "Int64": pd.Series(holed(ZEROS, None), dtype="Int64"),
    "boolean": pd.Series(holed((ROWS[:, 0] > 0).astype(object), None), dtype="boolean"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_label_is_refused_by_its_row(kind):
    with pytest.raises(UsageError, match=r"example 3\b"):
        table(ROWS, MISSING[kind])
    with pytest.raises(UsageError, match=r"example 3\b"):
        bp.select_features(ROWS, MISSING[kind], "magnitude", k=1, seeds=1)


@pytest.mark.parametrize(
    ("y", "outputs", "kind"),
    [
        (pd.Series(WORDS, dtype="category"), 2, torch.int64),
        (pd.Series(WORDS, dtype="string"), 2, torch.int64),
        (pd.Series(ZEROS, dtype="Int64"), 2, torch.int64),
        (ZEROS, 2, torch.int64),  # numbers that come as objects are numbers
        (ROWS[:, 1].astype(object), 1, torch.float32),
        (pd.Series(ROWS[:, 1], dtype="Float64"), 1, torch.float32),
    ],
)
def test_columns_of_every_type_are_read(y, outputs, kind):
    found = table(ROWS, y)
    assert (found.outputs, found.split.y.dtype) == (outputs, kind)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 1, "b"], "y must hold numbers, or words alone; example 1 is 1"),
        ([1, 2, "b"], "example 2 is 'b'"),
        ([1, {}, 3], "example 1 is {}"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "got datetime64"),
        ([1 + 2j], "got complex128"),
        ([[1, 2], [3]], "one shape per example"),
    ],
)
def test_what_is_neither_numbers_nor_words_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        plain("y", values)


def frame():
    values = pd.DataFrame(ROWS, columns=["age", "income", "bmi", "pulse"])
    values["income"] = pd.array((10 * ROWS[:, 1]).astype(int), dtype="Int64")
    values["pulse"] = ROWS[:, 3] > 0
    return values


def test_columns_of_a_table_are_the_names_of_its_features():
    found = table(frame(), WORDS)
    assert found.names == ("age", "income", "bmi", "pulse")
    assert table(frame(), WORDS, names=list("abcd")).names == tuple("abcd")
    assert table(pd.DataFrame(ROWS), WORDS).names == ("x1", "x2", "x3", "x4")
    assert from_arrays("d", (frame(), WORDS)).features == found.names
    y = np.where(ROWS[:, 2] > 0, "ill", "well")
    selected = bp.select_features(frame(), y, "magnitude", k=1, seeds=1, training=Training(epochs=40, lr=5e-3))
    assert selected.features == ("bmi",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(age=f["age"].where(f.index != 5)), r"NaN in x at example 5, column 0 \(age\)"),
        (lambda f: f.assign(income=f["income"].where(f.index != 5)), "column 'income', has nothing at example 5"),
        (lambda f: f.assign(age=WORDS), "encode words as numbers first"),
        (lambda f: f.rename(columns={"age": "bmi"}), "feature name 'bmi' is given twice"),
    ],
)
def test_gaps_and_words_in_a_table_are_refused_by_column(change, message):
    with pytest.raises(UsageError, match=message):
        table(change(frame()), WORDS)


def test_a_table_of_pandas_is_data_for_prune():
    x = pd.DataFrame(examples()[0].numpy()).astype({0: "Float32"})
    found = bp.prune(perceptron(), (x, pd.Series(examples()[1].numpy(), dtype="Int64")), "opd", 0.5)
    torch.testing.assert_close(found.scores, bp.prune(perceptron(), examples(), "opd", 0.5).scores)


# ---------------------------------------------------------------------- images and texts


@pytest.mark.parametrize("shape", [(16, 8, 8), (8, 8, 8), (3, 3, 3), (8, 8, 16), (40, 8, 10)])
def test_channels_that_may_be_first_or_last_are_asked_for(shape, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(40) % 2)
    with pytest.raises(UsageError, match="say which by the option channels: first or channels: last"):
        load(f"npz:{tmp_path}/a.npz")
    assert load(f"npz:{tmp_path}/a.npz", channels="first").input_shape == shape
    assert load(f"npz:{tmp_path}/a.npz", channels="last").input_shape == (shape[2], *shape[:2])


@pytest.mark.parametrize(
    ("shape", "channels"), [((3, 8, 8), 3), ((8, 8, 3), 3), ((1, 8, 6), 1), ((28, 28, 1), 1), ((6, 7, 8), 6)]
)
def test_channels_fewer_than_rows_and_columns_are_found(shape, channels):
    assert channels_first(np.ones((2, *shape))).shape[1] == channels


@pytest.mark.parametrize("kind", ["text", "sentences"])
def test_a_byte_order_mark_is_no_part_of_a_text(kind, tmp_path):
    rows = "\n".join(["good film really\t1", "bad film awful\t0"] * 30) + "\n"
    content = rows if kind == "sentences" else "the quick brown fox\njumps over\n" * 60
    found = []
    for name, mark in (("plain", b""), ("marked", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(mark + content.encode())
        found.append(load(f"{kind}:{tmp_path}/{name}", **({"length": 20} if kind == "text" else {})))
    assert found[0].vocabulary == found[1].vocabulary
    assert found[0].digest == found[1].digest


def test_a_byte_order_mark_is_no_part_of_a_table(tmp_path, monkeypatch):
    from bayesprune.datasets.uci import _numbers

    (tmp_path / "data.txt").write_bytes(b"\xef\xbb\xbf1 2\n3 4\n")
    assert _numbers("uci/x", tmp_path / "data.txt", 2).tolist() == [[1, 2], [3, 4]]


# ---------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (columns(), "taken as yes or no of every output by itself"),
        (soft(), "taken as probabilities of the classes"),
        (examples()[1], None),
        (torch.randn(80, 3), None),
    ],
)
def test_a_summary_says_what_targets_were_taken_for(y, said):
    summary = bp.prune(perceptron(), (examples()[0], y), "magnitude", 0.5).summary()
    assert said in summary if said else "taken as" not in summary


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (frame().assign(age=WORDS), ZEROS, "column 'age' holds words, others numbers"),
        (pd.DataFrame(ROWS), MISSING["Int64"], "targets of data has nothing at example 3"),
        (pd.DataFrame(ROWS), MISSING["words, nan"], "targets of data has nothing at example 3"),
        (frame().assign(income=frame()["income"].where(frame().index != 5)), ZEROS, "column 'income', has nothing at"),
    ],
)
def test_gaps_and_words_are_refused_by_prune_too(x, y, message):
    with pytest.raises(UsageError, match=message):
        bp.prune(nn.Linear(4, 2), (x, y), "magnitude", 0.5)


def test_scripts_find_modules_that_have_moved():
    """Those of before import from the former places; nothing heavy is loaded by that."""
    script = (
        "import sys, bayesprune.bench; assert 'torch' not in sys.modules\n"
        "from bayesprune.bench.evaluate import evaluate, flops\n"
        "from bayesprune.bench.table import table\n"
        "from bayesprune.bench.training import Training, train\n"
        "print(Training().epochs)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("30\n", "")
