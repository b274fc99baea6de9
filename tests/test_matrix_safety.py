"""Matrix files that mislead, overflow or never end: one line each, at once."""

import json
import random
import time

import numpy as np
import pytest
import torch
import yaml
from bayesprune.bench.harness.run_matrix import set_others_aside
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.bench.spec.option_text import parsed
from bayesprune.bench.spec.settings import Training
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build
from forgery import mutated
from test_store import record

GOOD = {
    "datasets": ["digits"], "architectures": ["mlp", {"name": "resnet", "depth": 8}], "methods": ["magnitude", "opd"],
    "sparsity": [0.5, 0.9], "seeds": [0, 1], "training": {"epochs": 2}, "finetune": {"epochs": 1},
}  # fmt: skip
BOMB = "x: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"x{i}: &a{i} [{', '.join(['*a' + (str(i - 1) if i else '')] * 10)}]" for i in range(12)
)


def refused(path, text):
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(UsageError) as error:
        load_matrix(path).cells()
    assert time.process_time() - start < 5
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 1000
    assert str(path) in said
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "anchors stand for more"),
        ("a: &x [*x]", "contains itself"),
        ("a: &x {b: *x}", "contains itself"),
        ("[" * 5000, "levels deep"),
        ("{a: " * 5000, "levels deep"),
        ("- " * 5000, "levels deep"),
        ("<<: &m {a: 1, <<: *m}", "contains itself"),
        ("seeds: [" + "1," * 300_000 + "]", "more than 200,000 values"),
        ("#" * (1 << 21), "longer than"),
        ("a: !!python/object/apply:os.system [ls]", "constructor"),
        ("seeds: [!!int x]", "not valid YAML"),
        ("seeds: [" + "9" * 5000 + "]", "too large"),
        ("seeds: [1:30]", "two ways"),
        ("a: !!set {b}", "constructor"),
        ("seeds: [0x" + "f" * 100 + "]", "too large"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_grows_recurses_or_names_code(text, said, tmp_path):
    assert said in refused(tmp_path / "m.yaml", text)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seeds", "[yes]", "seeds"),
        ("seeds", "[true]", "true or false"),
        ("seeds", "[on]", "seeds"),
        ("seeds", "[010]", "two ways"),
        ("seeds", "[9223372036854775808]", "too large"),
        ("seeds", "[999999999999999999]", None),
        ("seeds", "[-1]", "seeds"),
        ("training", "{epochs: yes}", "epochs"),
        ("training", "{epochs: true}", "true or false"),
        ("training", "{lr: true}", "true or false"),
        ("training", "{lr: .nan}", "lr"),
        ("training", "{epochs: 100000000000000}", "epochs"),
        ("training", "{batch_size: 100000000000}", "batch_size"),
        ("training", "{momentum: false}", "true or false"),
        ("threads", "100000", "threads"),
        ("threads", "yes", "threads"),
        ("sparsity", "[true]", "sparsity"),
        ("sparsity", "[.nan]", "sparsity"),
        ("sparsity", "[1.0e+999]", "sparsity"),
        ("methods", "[{name: opd, precision: .inf}]", "finite"),
        ("methods", "[{name: opd, precision: 2020-01-01}]", "precision"),
        ("architectures", "[{name: mlp, widths: [.nan]}]", "widths"),
        ("finetune", "{epochs: no}", "epochs"),
    ],
)
def test_values_mean_what_they_look_like(key, value, said, tmp_path):
    content = {**GOOD}
    content.pop(key, None)
    text = f"{yaml.safe_dump(content)}\n{key}: {value}\n"
    if said is None:
        (tmp_path / "m.yaml").write_text(text)
        assert load_matrix(tmp_path / "m.yaml").cells()
    else:
        assert said in refused(tmp_path / "m.yaml", text)


@pytest.mark.parametrize(("word", "value"), [("no", False), ("off", False), ("false", False), ("yes", True)])
def test_words_still_switch_what_is_a_switch(word, value, tmp_path):
    (tmp_path / "m.yaml").write_text(f"{yaml.safe_dump(GOOD)}\nshift: {word}\n")
    assert load_matrix(tmp_path / "m.yaml").shift is value


def test_options_on_a_command_line_are_read_in_the_same_way():
    assert parsed(["depth=8", "norm=no", "widths=[1, 2]"]) == {"depth": 8, "norm": "no", "widths": [1, 2]}
    for text in ("depth=010", "a=" + "[" * 100, "a=&x [*x]", "depth", "=3"):
        with pytest.raises(UsageError):
            parsed([text])


def test_minus_nought_is_nought(tmp_path):
    plain, signed = (Matrix(**GOOD | {"sparsity": s}).cells() for s in ([0.0], [-0.0, 0.0]))
    assert [r.key for r in plain] == [r.key for r in signed]


def test_cells_that_look_alike_do_not_push_each_other_out(tmp_path):
    """Two methods whose labels are equal though their options are not."""
    from bayesprune.bench.harness.cell import names

    cells = Matrix(**GOOD | {"methods": [{"name": "opd", "precision": 2.0}]}).cells()[:1]
    twin = cells[0].model_copy(update={"shift": False})
    assert names(twin) == names(cells[0])
    assert twin.key != cells[0].key
    store = Store(tmp_path / "r")
    for r in (*cells, twin):
        store.write_record(record(r.key) | names(r))
    set_others_aside([*cells, twin], store)
    assert store.keys() == {cells[0].key, twin.key}
    set_others_aside(cells, store)
    assert store.keys() == {cells[0].key}


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor, np.array], ids=lambda make: make.__name__)
def test_numbers_of_numpy_and_torch_are_as_good_as_others(number):
    def plain(value):
        return json.loads(json.dumps(value))

    content = {
        "methods": [{"name": "opd", "precision": number(2.0)}, {"name": "magnitude", "rounds": np.int64(2)}],
        "architectures": [{"name": "mlp", "widths": [np.int64(8), torch.tensor(4)]}], "seeds": [np.int64(3)],
        "sparsity": [number(0.5)], "training": {"epochs": np.int32(2), "lr": number(0.5)}, "threads": torch.tensor(1),
    }  # fmt: skip
    same = {
        "methods": [{"name": "opd", "precision": 2.0}, {"name": "magnitude", "rounds": 2}],
        "architectures": [{"name": "mlp", "widths": [8, 4]}], "seeds": [3], "sparsity": [0.5],
        "training": {"epochs": 2, "lr": 0.5}, "threads": 1,
    }  # fmt: skip
    cells, expected = Matrix(**GOOD | content).cells(), Matrix(**GOOD | same).cells()
    assert [r.key for r in cells] == [r.key for r in expected]
    plain([r.model_dump(mode="json") for r in cells])
    assert Training(lr=number(0.25)).lr == 0.25
    assert build("opd", precision=number(3.0)).inference().precision == 3.0


@pytest.mark.parametrize("rounds", [100, pytest.param(2500, marks=pytest.mark.slow)])
def test_mutated_matrices_are_read_or_refused_in_one_line(rounds, tmp_path):
    rng = random.Random(0)
    path, seen = tmp_path / "m.yaml", set()
    text = yaml.safe_dump(GOOD)
    for _ in range(rounds):
        if rng.random() < 0.5:
            written = json.dumps(mutated(GOOD, rng))
        else:
            i = rng.randrange(len(text))
            junk = rng.choice(
                [
                    "",
                    "\t",
                    "*a ",
                    "&a ",
                    "[",
                    "{",
                    ": ",
                    "- ",
                    "!!int ",
                    "010",
                    "1:2",
                    "'",
                    "\\",
                    "\x07",
                    "9" * 400,
                    "<<: ",
                ]
            )
            written = text[:i] + junk + text[i + rng.randrange(4) :]
        path.write_text(written, "utf-8", "surrogatepass")
        start = time.process_time()
        try:
            load_matrix(path).cells()
            seen.add("read")
        except UsageError as error:
            seen.add("refused" if "\n" not in str(error) else str(error))
        assert time.process_time() - start < 5, written
    assert seen == {"read", "refused"}
