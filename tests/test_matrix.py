"""Matrix files: what they expand to, and what they refuse, with file and line."""

import pytest
from bayesprune.bench.spec import shipped
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.shipped import shipped_matrices
from bayesprune.datasets.errors import UsageError

GOOD = """\
datasets: [digits]
architectures:
  - mlp
  - {name: resnet, depth: 14}
methods: [magnitude, {name: grasp, temperature: 1}]
sparsity: [0.5, auto]
seeds: [0, 1]
exclude:
  - {architecture: mlp, method: grasp}
"""


def written(tmp_path, text):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    return path


def test_the_product_less_what_is_excluded(tmp_path):
    cells = load_matrix(written(tmp_path, GOOD)).cells()
    assert len(cells) == 2 * 2 * 2 * 2 - 4
    assert len({r.key for r in cells}) == len(cells)
    assert {r.method.label for r in cells} == {"magnitude", "grasp(temperature=1)"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("digits", "digit", "unknown data set 'digit'; did you mean 'digits'"),
        ("- mlp\n", "- mpl\n", "unknown architecture 'mpl'; did you mean 'mlp'"),
        ("magnitude", "magnitudes", "unknown method 'magnitudes'; did you mean 'magnitude'"),
        ("depth", "dept", "unknown option of architecture 'resnet' 'dept'; did you mean 'depth'"),
        ("temperature", "temprature", "did you mean 'temperature'"),
        ("temperature: 1", "temperature: warm", "temperature='warm'"),
        ("seeds:", "seed:", r"m.yaml:7: unknown key 'seed'; did you mean 'seeds'"),
        ("0.5", "1.0", r"m.yaml:6: sparsity.0: a sparsity is a number in \[0, 1\) or auto \(got 1.0\)"),
        ("0.5", "-0.1", r"m.yaml:6: .*\(got -0.1\)"),
        ("[0.5, auto]", "[]", "m.yaml:6: sparsity: the list is empty; name at least one"),
        ("[0, 1]", "[]", "m.yaml:7: seeds: the list is empty"),
        ("[0, 1]", "[-1]", "m.yaml:7: seeds.0"),
        (
            "{architecture: mlp,",
            "{architectur: mlp,",
            "m.yaml:9: unknown key 'architectur'; did you mean 'architecture'",
        ),
        ("datasets: [digits]\n", "", "the key 'datasets' is missing"),
        ("[digits]", "[digits", "m.yaml:[12]: not valid YAML"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]", "m.yaml:8: the key 'seeds' is given twice"),
        ("  - mlp\n", "  - 3\n", "m.yaml:3: architectures.0: give a name"),
        (
            "seeds: [0, 1]",
            "seeds: [0, 1]\ntraining: {epoch: 3}",
            "m.yaml:8: unknown key 'epoch'; did you mean 'epochs'",
        ),
        ("seeds: [0, 1]", "seeds: [0, 1]\ntraining: {lr: -1}", "m.yaml:8: training.lr"),
    ],
)
def test_mistakes_are_refused_with_their_place(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(UsageError, match=message):
        load_matrix(written(tmp_path, GOOD.replace(old, new, 1))).cells()


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "\t{"])
def test_what_is_no_matrix_at_all_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match=r"m\.yaml"):
        load_matrix(written(tmp_path, text))


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_matrix(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="did you mean 'smoke'"):
        load_matrix("smok")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_matrix(tmp_path / "b.yaml")


def test_excluding_everything_is_refused(tmp_path):
    with pytest.raises(UsageError, match="leaves no cell"):
        load_matrix(written(tmp_path, GOOD.replace("{architecture: mlp, method: grasp}", "{dataset: digits}"))).cells()


@pytest.mark.parametrize("name", shipped_matrices())
def test_shipped_matrices_are_valid_and_described(name):
    assert load_matrix(name).cells()
    assert shipped_matrices()[name]


@pytest.mark.parametrize(
    ("comment", "sentence"),
    [
        ("# One line.\n", "One line."),
        ("# A sentence that goes\n# on. And another.\n", "A sentence that goes on."),
        ("# As in Wright et al. 2024, on digits. 200 epochs.\n", "As in Wright et al. 2024, on digits."),
        ("# Of 3.5 hours. `auto` decides.\ndatasets: [digits]  # not this.\n", "Of 3.5 hours."),
    ],
)
def test_a_matrix_is_listed_with_the_first_sentence_of_its_comment(tmp_path, monkeypatch, comment, sentence):
    monkeypatch.setattr(shipped, "MATRICES", tmp_path)
    (tmp_path / "mine.yaml").write_text(comment)
    assert shipped_matrices() == {"mine": sentence}


def cell(**more):
    return Run(**{"dataset": Choice(name="digits"), "architecture": Choice(name="mlp"), "method": Choice(name="magnitude"),
                  "sparsity": 0.5, "seed": 0} | more)  # fmt: skip


def test_keys_leave_defaults_out_so_that_old_results_stay_valid():
    """The key of a plain cell is pinned: if this changes, every stored result is orphaned."""
    assert cell().canonical() == {
        "dataset": {"name": "digits"},
        "architecture": {"name": "mlp"},
        "method": {"name": "magnitude"},
        "sparsity": 0.5,
        "seed": 0,
    }
    assert cell().key == cell(threads=1, units="weights").key
    assert cell().key == "9dd8e56a57be601cd7d0616248d37bfae8bbda840fc836f2ce6ca1b7bdbb370c"
    assert len({cell().key, cell(seed=1).key, cell(sparsity=0.6).key, cell(units="groups").key}) == 4


def test_how_data_arrives_does_not_change_a_key():
    assert cell(dataset=Choice(name="mnist", options={"download": True})).key == cell(dataset=Choice(name="mnist")).key


def test_options_at_their_default_do_not_change_a_key(tmp_path):
    plain = Matrix(datasets=["digits"], architectures=["mlp"], methods=["grasp"], sparsity=[0.5], seeds=[0])
    explicit = plain.model_copy(update={"methods": [Choice(name="grasp", options={"temperature": 200})]})
    assert [r.key for r in plain.cells()] == [r.key for r in explicit.cells()]
