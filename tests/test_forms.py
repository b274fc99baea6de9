"""Networks and batches of any form: the user's own forward, Hugging Face's dicts, several inputs, outputs of all kinds."""

import copy
import warnings

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.running.forms import Form, adapt_, in_form, own_class, release_
from bayesprune.architectures.saved.export import export
from bayesprune.bench.face.gathering import gathered
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.split import IGNORED
from bayesprune.datasets.stream import Stream
from bayesprune.methods.closed_forms.likelihood import mean_loss
from bayesprune.methods.curvature.diagonals import diagonal, diagonal_of
from torch import nn
from torch.utils.data import DataLoader

N = 24


class Two(nn.Module):
    """Two inputs and a mask, by name; gives a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, u, v, keep):
        hidden = (self.first(u) + self.second(v)).relu() * keep[:, None]
        return {"scores": self.last(hidden), "hidden": hidden}


class Joined(nn.Module):
    """The same network, with one input and one output."""

    def __init__(self, two):
        super().__init__()
        self.first, self.second, self.last = two.first, two.second, two.last

    def forward(self, x):
        return Two.forward(self, x[:, :6], x[:, 6:10], x[:, 10])["scores"]


def batch():
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(N, 6, generator=generator), torch.randn(N, 4, generator=generator)
    return {"u": u, "v": v, "keep": (torch.arange(N) % 5 > 0).float(), "answer": torch.arange(N) % 3, "id": ["a"] * N}


def batches(size=8):
    whole = batch()
    return [{name: part[i : i + size] for name, part in whole.items()} for i in range(0, N, size)]


def forward(network, b):
    return network(b["u"], v=b["v"], keep=b["keep"])["scores"], b["answer"]


class Loader:
    def __iter__(self):
        return iter(batches())


# ---------------------------------------------------------------------- forward=


@pytest.mark.parametrize(
    "data", [batches(), Loader(), DataLoader(batches(), batch_size=None)], ids=["list", "loader", "DataLoader"]
)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("magnitude", {}),
        ("opd", {}),
        ("opd-kfac", {}),
        ("snip", {}),
        ("grasp", {}),
        ("spam-opd", {}),
        ("bmr-laplace", {}),
    ],
)
def test_any_forward_gives_what_the_plain_network_gives(data, method, options):
    network, whole = Two(), batch()
    x = torch.cat([whole["u"], whole["v"], whole["keep"][:, None]], 1)
    found = bp.prune(network, data, method, 0.5, forward=forward, **options)
    expected = bp.prune(Joined(Two()), (x, whole["answer"]), method, 0.5, **options)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-7)
    assert type(found.network) is Two
    assert list(found.network.state_dict()) == list(network.state_dict())


def test_structures_are_cut_certified_saved_and_trained(tmp_path):
    network, whole = Two(), batch()
    pruned = bp.prune(network, Loader(), "opd", 0.5, forward=forward, structured=True, finetune=2)
    small, inputs = pruned.compact(), (whole["u"], whole["v"], whole["keep"])
    assert type(small) is Two
    assert small.first.weight.shape[0] == 4
    torch.testing.assert_close(small(*inputs)["scores"], pruned.network(*inputs)["scores"], atol=1e-5, rtol=0)
    assert pruned.certificate.difference < 1e-5
    assert "certified" in pruned.summary()
    assert [s.batch for s in pruned.speedups((1, 4))] == [1, 4]
    pruned.save(tmp_path / "two.safetensors")
    again = bp.load(tmp_path / "two.safetensors", Two())
    assert torch.equal(again(*inputs)["scores"], small.eval()(*inputs)["scores"])
    assert type(network) is Two
    assert "forward" not in vars(network)


def test_a_budget_of_operations_counts_those_of_the_form():
    pruned = bp.prune(Two(), Loader(), "opd", 0.3, forward=forward, structured=True, budget={"of": "flops"})
    assert 0 < pruned.sparsity < 1


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (
            lambda n, b: n(b["u"], b["v"], b["keep"]),
            r"must return two tensors \(outputs, targets\), not a dict of 'scores'",
        ),
        (lambda n, b: forward(n, b)[0], "must return two tensors"),
        (lambda n, b: tuple(t[b["keep"] > 0] for t in forward(n, b)), r"has no row for each of the 6 examples"),
        (
            lambda n, b: (forward(n, b)[0][:2], b["answer"]),
            "same examples, got shapes .* label what does not count -100",
        ),
        (lambda n, b: (forward(n, b)[0], b["answers"]), "answers"),
        (lambda n, b: (forward(n, b)[0], b["answer"] + 1), "label 3 in y does not fit a network of 3 outputs"),
    ],
)
def test_a_forward_that_does_not_fit_is_refused(give, message):
    with pytest.raises((UsageError, KeyError), match=message):
        bp.prune(Two(), Loader(), "opd", 0.5, forward=give)


def test_batches_that_change_their_names_are_refused():
    odd = [batches()[0], {**batches()[1], "more": torch.zeros(8)}]

    class Odd:
        def __iter__(self):
            return iter(odd)

    with pytest.raises(UsageError, match="batch 1 of data has another form than the first one"):
        bp.prune(Two(), Odd(), "opd", 0.5, forward=forward)


def test_arrays_with_a_forward_are_one_batch():
    whole = batch()
    x, y = whole["u"], whole["answer"]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    expected = bp.prune(network, (x, y), "opd", 0.5).scores
    for data in ((x, y), Split(x, y)):
        found = bp.prune(network, data, "opd", 0.5, forward=lambda n, b: (n(b[0]), b[1])).scores
        torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------------- without a forward


class Gives(nn.Module):
    def __init__(self, give):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.give = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), give

    def forward(self, x):
        return self.give(self.net(x))


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda z: {"logits": z, "hidden": z[:, :2]}, None),
        (lambda z: {"scores": z}, "outputs taken: 'scores' of a dict"),
        (lambda z: (z, z[:, :1]), "outputs taken: number 0 of a tuple of 2"),
        (lambda z: [None, z], "outputs taken: number 1 of a list of 2"),
    ],
)
def test_dicts_and_tuples_of_outputs(give, said):
    whole = batch()
    data = whole["u"], whole["answer"]
    found = bp.prune(Gives(give), data, "opd", 0.5, structured=True, finetune=1)
    expected = bp.prune(Gives(lambda z: z), data, "opd", 0.5, structured=True, finetune=1)
    assert torch.equal(found.scores, expected.scores)
    assert type(found.compact()(data[0])) is type(give(torch.zeros(1, 3)))
    assert (said in found.summary()) if said else ("outputs taken" not in found.summary())


def test_a_dict_of_names_and_labels_needs_no_forward():
    class Named(Two):
        def forward(self, u, v, keep):
            return super().forward(u, v, keep)["scores"]

    data = [{**b, "labels": b["answer"]} for b in batches()]
    found = bp.prune(Named(), data, "opd", 0.5).scores
    assert torch.equal(found, bp.prune(Two(), batches(), "opd", 0.5, forward=forward).scores)
    together = {**batch(), "labels": batch()["answer"]}
    torch.testing.assert_close(bp.prune(Named(), together, "opd", 0.5).scores, found)


def test_forms_come_and_go():
    network, form = Two(), Form(forward)
    x = batches()[0]
    with in_form(form, network):
        assert network(x).shape == (8, 3)
        assert isinstance(network, Two)
        assert type(network).__name__ == "Two"
        twin = copy.deepcopy(network)
        assert torch.equal(twin(x), network(x))
    assert type(network) is Two
    assert own_class(twin) is Two
    assert type(release_(twin)) is Two
    assert adapt_(network, None) is network
    with pytest.raises(RuntimeError), in_form(form, network):
        raise RuntimeError
    assert type(network) is Two


def test_a_form_is_exported_with_its_names():
    class Named(Two):
        def forward(self, u, v, keep):
            return super().forward(u, v, keep)["scores"]

    whole = batch()
    inputs = {name: whole[name] for name in ("u", "v", "keep")}
    program = export(Named(), inputs)
    few = {name: value[:3] for name, value in inputs.items()}
    torch.testing.assert_close(program.module()(few), Named().eval()(**few))


# ---------------------------------------------------------------------- Hugging Face


def text(vocabulary=30, count=12, length=6):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, vocabulary, (count, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, 4:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def classified():
    return {**text(), "labels": torch.arange(12) % 3}


def tokens():
    found = text()
    return {**found, "labels": found["input_ids"].masked_fill(found["attention_mask"] == 0, IGNORED)}


def images(side):
    return {"pixel_values": torch.randn(12, 3, side, side, generator=torch.Generator().manual_seed(3)),
            "labels": torch.arange(12) % 3}  # fmt: skip


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    bert = {**small, "vocab_size": 30, "max_position_embeddings": 16, "num_labels": 3}
    llama = {**small, "vocab_size": 30, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": None}
    kinds = {
        "bert": ("BertForSequenceClassification", "BertConfig", bert),
        "bert-tokens": ("BertForTokenClassification", "BertConfig", {**bert, "num_labels": 30}),
        "bert-mlm": ("BertForMaskedLM", "BertConfig", bert),
        "vit": ("ViTForImageClassification", "ViTConfig", {**small, "image_size": 8, "patch_size": 4, "num_labels": 3}),
        "swin": ("SwinForImageClassification", "SwinConfig", {
            "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
            "window_size": 4, "num_labels": 3,
        }),
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", {
            "vocab_size": 30, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, **ends,
        }),
        "llama": ("LlamaForCausalLM", "LlamaConfig", {**llama, "max_position_embeddings": 16, **ends}),
    }  # fmt: skip
    model, config, options = kinds[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, model)(getattr(transformers, config)(**options)).eval()


DATA = {"bert": classified, "bert-tokens": tokens, "bert-mlm": tokens, "vit": lambda: images(8),
        "swin": lambda: images(16), "gpt2": tokens, "llama": tokens}  # fmt: skip


def in_batches(data, size=4):
    count = len(data["labels"])
    return [{name: value[i : i + size] for name, value in data.items()} for i in range(0, count, size)]


@pytest.mark.parametrize("name", DATA)
def test_the_loss_of_hugging_face_s_networks_is_their_own(name):
    network, data = hugging_face(name), DATA[name]()
    split = gathered([data], network=network)
    with torch.no_grad():
        expected = network(**data).loss
        outputs = adapt_(copy.deepcopy(network), Form())(split.x)
    torch.testing.assert_close(mean_loss(outputs, split.y, "categorical"), expected)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_curvature_with_padding_is_that_of_explicit_jacobians(name):
    network, data = hugging_face(name).double(), DATA[name]()
    few = gathered([{key: value[:3] for key, value in data.items()}], network=network)
    adapted = adapt_(copy.deepcopy(network), Form())
    for kind in ("ggn", "ef"):
        found = diagonal_of(adapted, few, kind)
        key = next(
            k for k in found if k.endswith(("0.mlp.c_fc.weight", "0.mlp.up_proj.weight", "0.intermediate.dense.weight"))
        )
        parameter = adapted.get_parameter(key)
        expected = torch.zeros_like(parameter)
        for i in range(3):
            one = few[i : i + 1]
            rows = adapted(one.x).reshape(-1, 30 if name != "bert" else 3)
            labels = one.y.reshape(-1)
            told = labels != IGNORED
            p = rows.softmax(1).detach()
            if kind == "ef":
                loss = nn.functional.cross_entropy(rows[told], labels[told], reduction="sum")
                expected += torch.autograd.grad(loss, parameter)[0].square()
                continue
            for r in told.nonzero().flatten():
                jacobian = torch.stack(
                    [torch.autograd.grad(f, parameter, retain_graph=True)[0].flatten() for f in rows[r]]
                )
                information = p[r].diag() - p[r, :, None] * p[r]
                expected += (jacobian * (information @ jacobian)).sum(0).view_as(expected)
        exact = 1e-8 if name != "llama" else 1e-6  # its norms compute in single precision
        torch.testing.assert_close(found[key], expected, rtol=exact, atol=1e-4 * exact)


@pytest.mark.parametrize(
    "name",
    [
        "bert",
        "vit",
        "gpt2",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("bert-tokens", "bert-mlm", "swin", "llama")),
    ],
)
def test_hugging_face_s_networks_become_smaller(name, tmp_path):
    network, data = hugging_face(name), DATA[name]()
    pruned = bp.prune(network, in_batches(data), "opd", 0.5, structured=True, finetune=1, kind="rademacher")
    small = pruned.compact()
    assert type(small) is type(network)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        found, expected = (net.eval()(**data) for net in (small, pruned.network))
    told = data["attention_mask"].bool() if "attention_mask" in data and found.logits.dim() == 3 else slice(None)
    torch.testing.assert_close(found.logits[told], expected.logits[told], atol=1e-5, rtol=0)
    pruned.save(tmp_path / "n.safetensors")
    with torch.no_grad():
        again = bp.load(tmp_path / "n.safetensors", hugging_face(name))(**data)
    assert torch.equal(again.logits, found.logits)


def test_a_stream_of_batches_of_various_lengths():
    network = hugging_face("bert")
    data = in_batches(classified())
    data[1] = {name: value[:, :4] if value.dim() == 2 else value for name, value in data[1].items()}

    class Various:
        def __iter__(self):
            return iter(data)

    expected: dict = {}
    adapted = adapt_(copy.deepcopy(network), Form())
    for each in data:
        part = gathered([each], network=network)
        for name, value in diagonal(adapted, part.x, part.y).items():
            expected[name] = expected.get(name, 0) + value
    stream = gathered(Various(), network=network)
    assert isinstance(stream, Stream)
    for name, value in diagonal_of(adapted, stream).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-10)
    few = stream[:10]
    assert few.x["input_ids"].shape == (10, 6)
    assert few.x["attention_mask"][4:8, 4:].sum() == 0
    found, listed = (bp.prune(network, d, "snip", 0.5, structured=True, finetune=1) for d in (Various(), data))
    assert found.compact()(**data[1]).logits.shape == (4, 3)
    assert listed.compact()(**data[1]).logits.shape == (4, 3)


def test_the_problem_that_a_configuration_states_is_the_likelihood():
    network, data = hugging_face("bert"), classified()
    network.config.problem_type = "multi_label_classification"
    data["labels"] = nn.functional.one_hot(data["labels"], 3).float()
    pruned = bp.prune(network, in_batches(data), "opd", 0.5)
    assert pruned.notes["likelihood"] == "bernoulli"
