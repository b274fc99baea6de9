"""The mission matrix, which is run by default: who is compared, on what, and that every cell makes sense."""

from collections import defaultdict

import pytest
from bayesprune.bench.cli import main
from bayesprune.bench.harness.planned import planned
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.bench.spec.shipped import DEFAULT
from bayesprune.methods.build import build
from click.testing import CliRunner

MISSION = {
    "spam-opd", "opd", "bmr", "bmr-laplace", "bmrs-n", "bmrs-u", "pip", "variational-dropout", "horseshoe", "magnitude", "grasp", "snip",
    "random",
}  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    return load_matrix(DEFAULT).cells()


def test_it_is_the_default():
    assert DEFAULT == "mission"
    assert "`mission`" in CliRunner().invoke(main, ["run", "--help"]).output


def test_it_compares_the_mission_on_four_families_by_weights_and_structure(cells):
    where = defaultdict(set)
    for cell in cells:
        where[cell.architecture.name, cell.units].add(cell.method.name)
    assert {family for family, _ in where} == {"mlp", "resnet", "vit", "mixer"}
    for family in ("mlp", "resnet", "vit", "mixer"):
        assert where[family, "weights"] | where[family, "groups"] == MISSION
        assert where[family, "weights"] >= MISSION - {"bmrs-n", "bmrs-u", "horseshoe"}
        assert where[family, "groups"] >= {
            "bmrs-n", "bmrs-u", "horseshoe", "bmr", "opd", "spam-opd", "magnitude", "random", "snip",
        }  # fmt: skip
    assert len({cell.seed for cell in cells}) >= 2
    for units in ("weights", "groups"):
        assert len({c.sparsity for c in cells if c.units == units} - {"auto"}) >= 2
        assert any(c.sparsity == "auto" for c in cells if c.units == units)


def test_it_follows_the_protocol_and_shows_its_curve(cells):
    assert {(c.training.schedule, c.finetune.lr) for c in cells} == {("cosine", None)}
    epochs = cells[0].training.epochs
    budgets = defaultdict(set)
    for cell in cells:
        budgets[cell.architecture.name, cell.units, cell.sparsity].add(cell.finetune.epochs)
    assert budgets.pop(("mlp", "weights", 0.95)) == {0, epochs // 4, epochs, 4 * epochs}
    assert set(map(frozenset, budgets.values())) == {frozenset({epochs})}


def test_magnitude_is_tuned_after_pruning(cells):
    (tuned,) = {c.method.label for c in cells if "tuned" in c.method.label}
    assert tuned == "magnitude(every=4, precision=tuned at pruned, when=during)"


def test_no_cell_is_left_to_be_skipped(cells):
    for cell in cells:
        pruner = build(cell.method.name, **cell.method.candidates[0].options)
        assert cell.sparsity != "auto" or pruner.decides
    one_seed = load_matrix(DEFAULT).model_copy(update={"seeds": [0]})
    assert planned(one_seed, (1, 1)).senseless == {}


def test_patterns_take_lists():
    def left(**pattern):
        matrix = Matrix(
            datasets=["digits"], architectures=["mlp"], methods=["magnitude", "opd", {"name": "opd", "when": "during"}],
            sparsity=[0.5, 0.9, "auto"], seeds=[0, 1, 2], exclude=[pattern],
        )  # fmt: skip
        return {(c.method.label, c.sparsity, c.seed) for c in matrix.cells()}

    everything = left(seed=2) | left(seed=[0, 1])
    assert len(everything) == 27
    assert everything - left(method=["magnitude", "opd(when=during)"], sparsity=[0.5, "auto"], seed=1) == {
        (m, s, 1) for m in ("magnitude", "opd(when=during)") for s in (0.5, "auto")
    }
    assert {m for m, _, _ in left(method="opd")} == {"magnitude"}
