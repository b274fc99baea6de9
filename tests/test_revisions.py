"""Revisions are part of what a result is: of its key, of its fit's key, of its record; the first changes nothing."""

import hashlib
import json
from dataclasses import replace

import pytest
from bayesprune.architectures import registry as architectures
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.matrix import Matrix, load_matrix
from bayesprune.bench.spec.metrics import registry as metrics
from bayesprune.bench.training.fits import fit_key, inference_of
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.errors import PluginError
from bayesprune.methods import registry as methods
from bayesprune.methods.laplace.map import MAP

# Digests of all keys of shipped matrices, as they were before there were revisions; of methods that have the first.
FIRST_KEYS = {
    "smoke": "db236864c31f785d",
    "digits": "755a8ee69db8840e",
    "bmrs-digits": "411fb66c84788674",
    "structured-digits": "298b93d5dbe8fc04",
    "conditioning-digits": "732b194020339e3a",
    "lstm-text": "4f3681530a6925d3",
}


@pytest.mark.parametrize("name", FIRST_KEYS)
def test_cells_keep_the_keys_that_they_had_before_revisions(name):
    keys = sorted(cell.key for cell in load_matrix(name).cells() if "method" not in cell.revisions)
    assert hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16] == FIRST_KEYS[name]


def cells(*names):
    chosen = [{"name": "random", "like": "opd"} if name == "like" else name for name in names or ["opd"]]
    matrix = Matrix(
        datasets=["two-moons"], architectures=[{"name": "mlp", "widths": [8]}], methods=chosen, sparsity=[0.5], seeds=[0],
        training={"epochs": 2}, finetune={"epochs": 1}, shift=False,
    )  # fmt: skip
    return matrix.cells()


def identity(*names):
    return [(cell.key, fit_key(cell, inference_of(cell)), cell.data_key) for cell in cells(*names)]


@pytest.fixture
def revised(monkeypatch):
    """Raises the revision of a registered name, as a change of its decorator would."""

    def to_two(registry, name):
        entries = dict(registry._source_entries())
        entries[name] = replace(entries[name], revision=2)
        monkeypatch.setattr(registry, "_source_entries", lambda: entries)

    return to_two


@pytest.mark.parametrize(
    ("registry", "name", "moved"),
    [
        (methods, "opd", (True, False, False)),  # its networks are those of others, too
        (metrics, "ece", (True, True, False)),  # a fit holds the metrics of its dense control
        (architectures, "mlp", (True, True, False)),
        (datasets, "two-moons", (True, True, True)),
    ],
)
def test_a_revision_moves_the_keys_of_what_it_changes(revised, registry, name, moved):
    before = identity()[0]
    revised(registry, name)
    after = identity()[0]
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == moved
    kind = {"data set": "dataset"}.get(registry.kind, registry.kind)
    assert cells()[0].revisions == {kind: {name: 2}}


def test_a_revision_of_a_criterion_reaches_the_methods_that_are_named_after_it(revised):
    names = ("opd", "spam-opd", "like", "magnitude")
    before = identity(*names)
    revised(methods, "opd")
    after = identity(*names)
    assert [a[0] != b[0] for a, b in zip(before, after, strict=True)] == [True, True, True, False]
    assert [a[1:] for a in before] == [b[1:] for b in after]


def test_a_revision_of_an_inference_reaches_every_method_on_it_and_its_networks(monkeypatch):
    before = identity("opd", "magnitude", "mean-field")
    monkeypatch.setattr(MAP, "revision", 2)
    after = identity("opd", "magnitude", "mean-field")
    assert [a[0] != b[0] for a, b in zip(before, after, strict=True)] == [True, True, False]
    assert [a[1] != b[1] for a, b in zip(before, after, strict=True)] == [True, True, False]
    assert cells()[0].revisions == {"inference": {"MAP": 2}}
    assert type("Derived", (MAP,), {"revision": 3}).revisions() == {"Derived": 3, "MAP": 2}


PLUGIN = """
from bayesprune import MAP, Pruner, register

@register("revised-mine", revision={revision})
def build():
    '''Keeps what is large.'''
    return Pruner(MAP, lambda state: state.units.gather({{n: w.abs() for n, w in state.weights().items()}}))
"""


def test_a_plugin_has_a_revision_which_stands_in_its_records(tmp_path):
    plugin = tmp_path / "mine.py"
    folder = tmp_path / "results"
    for revision in (1, 2):
        plugin.write_text(PLUGIN.format(revision=revision))
        matrix = {
            "datasets": ["two-moons"], "architectures": [{"name": "mlp", "widths": [8]}], "methods": ["revised-mine"],
            "sparsity": [0.5], "seeds": [0], "training": {"epochs": 2}, "finetune": {"epochs": 1}, "shift": False,
        }  # fmt: skip
        table = run(Matrix(**matrix), folder, jobs=1, plugins=[plugin])
        assert methods.catalogue()["revised-mine"].revision == revision
    record = results(folder).iloc[0]
    assert record["status"] == "done"
    assert record["revisions"] == {"method": {"revised-mine": 2}}
    assert json.dumps({"method": {"revised-mine": 2}}).replace('"', '""') in table.read_text()
    assert len(list((folder / "superseded").glob("**/*.json"))) == 1  # that of the first revision
    assert len(list((folder / "fits").iterdir())) == 1  # which is that of the second, too


@pytest.mark.parametrize("revision", ["0", "1.5", "'2'", "True"])
def test_a_revision_that_is_no_whole_number_is_refused(tmp_path, revision):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(revision=revision))
    with pytest.raises(PluginError, match="of method 'revised-mine' is not valid: give a whole number >= 1"):
        methods.load_plugin(plugin)
