"""The harness end to end: cells, shared fits, resume, parallel runs, failures; in process and through the command."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from bayesprune.bench.harness import cell, workers
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.pruning import engine
from bayesprune.bench.pruning import schedules as pruning
from bayesprune.bench.results.frames import csv_text, results
from bayesprune.bench.spec.budget import Budget
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.bench.spec.run import Choice
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.bench.training import fits, loop
from bayesprune.datasets.errors import UsageError
from bayesprune.methods import registry as methods

DIGITS = {"name": "digits", "subset": 150}
MLP = {"name": "mlp", "widths": [16]}


def matrix(**more):
    content = {
        "datasets": [DIGITS],
        "architectures": [MLP],
        "methods": ["magnitude", "snip"],
        "sparsity": [0.5, 0.9],
        "seeds": [0, 1],
        "training": Training(epochs=2, lr=3e-3),
        "finetune": Finetune(epochs=1),
    }
    return Matrix(**content | more)


def yaml_of(tmp_path, m: Matrix):
    path = tmp_path / "matrix.yaml"
    content = m.model_dump(mode="json")
    for kind in ("datasets", "architectures", "methods"):
        content[kind] = [{"name": c["name"], **c["options"]} for c in content[kind]]
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def timeless(folder):
    """results.csv without the columns that measure time."""
    frame = pd.read_csv(folder / "results.csv")
    return frame[[c for c in frame.columns if not c.startswith("seconds")]].to_csv()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "results"
    harness.run(matrix(), folder, jobs=1)
    return folder


def test_every_cell_has_a_complete_record(reference):
    frame = results(reference)
    assert len(frame) == 8
    assert set(frame["status"]) == {"done"}
    for column in ("accuracy", "nll", "brier", "ece", "nll_scaled", "ece_scaled", "ood_auroc", "shift_accuracy", "shift_ece",
                   "dense_accuracy", "flops_ratio", "seconds_train", "seconds_score", "seconds_finetune", "passes_train",
                   "peak_bytes_train", "version_torch"):  # fmt: skip
        assert frame[column].notna().all(), column
    assert frame["accuracy"].between(0, 1).all()
    assert (frame["sparsity"] - frame["sparsity_target"]).abs().max() < 1e-3
    assert (frame["kept"] / frame["total"] - (1 - frame["sparsity"])).abs().max() < 1e-12
    assert len(list((reference / "logits").glob("*.safetensors"))) == 8


def test_the_cells_of_a_network_come_before_the_next_network(reference):
    """An interrupted run has rows to report, not only networks."""
    trained = sorted(path.stat().st_mtime_ns for path in (reference / "fits").iterdir())
    cells = results(reference).groupby("seed")["key"]
    written = [[(reference / "cells" / f"{key}.json").stat().st_mtime_ns for key in keys] for _, keys in cells]
    assert len(trained) == len(written) == 2
    assert max(written[0]) < trained[1]


def test_post_hoc_cells_share_one_training_and_passes_are_counted(reference):
    assert len(list((reference / "fits").glob("*.safetensors"))) == 2  # one per seed
    frame = results(reference)
    assert (
        frame.loc[frame.method == "magnitude", "passes_train"] == 2 * 2 * 150
    ).all()  # epochs x (forward, backward) x N
    assert (frame.loc[frame.method == "magnitude", "passes_finetune"] == 2 * 1 * 150).all()
    assert (frame.loc[frame.method == "snip", "passes_train"] == 2 * 2 * 150).all()
    assert (frame.loc[frame.method == "snip", "passes_finetune"] == 2 * 1 * 150).all()
    assert (frame.loc[frame.method == "snip", "passes_score"] == 2 * 128).all()
    assert (frame.loc[frame.method == "magnitude", "passes_score"] == 0).all()


def test_the_same_matrix_twice_is_bit_identical_and_seeds_differ(reference, tmp_path):
    harness.run(matrix(), tmp_path / "again", jobs=1)
    assert timeless(tmp_path / "again") == timeless(reference)
    frame = results(reference)
    by_seed = [
        set(frame.loc[frame.seed == s, "mask_digest"]) | set(frame.loc[frame.seed == s, "logits_digest"])
        for s in (0, 1)
    ]
    assert not by_seed[0] & by_seed[1]


def test_two_jobs_and_two_shards_give_the_same_rows(reference, tmp_path):
    harness.run(matrix(), tmp_path / "jobs", jobs=2)
    assert timeless(tmp_path / "jobs") == timeless(reference)
    for i in (1, 2):
        harness.run(matrix(), tmp_path / f"shard{i}", jobs=1, shard=(i, 2))
    merged = results(tmp_path / "shard1", tmp_path / "shard2")
    seconds = [c for c in merged.columns if c.startswith("seconds")]
    assert len(results(tmp_path / "shard1")) == len(results(tmp_path / "shard2")) == 4
    assert csv_text(merged.assign(**dict.fromkeys(seconds, 0.0))) == csv_text(
        results(reference).assign(**dict.fromkeys(seconds, 0.0))
    )


def test_lost_and_damaged_files_are_computed_again_with_the_same_result(reference, tmp_path, monkeypatch):
    folder = tmp_path / "results"
    harness.run(matrix(), folder, jobs=1)
    records = sorted((folder / "cells").glob("*.json"))
    records[0].unlink()
    records[1].write_bytes(records[1].read_bytes()[:200])
    fit = next((folder / "fits").glob("*.safetensors"))
    fit.write_bytes(fit.read_bytes()[:-8])
    executed = []
    real = cell.execute
    monkeypatch.setattr(cell, "execute", lambda run, *a: executed.append(run) or real(run, *a))
    harness.run(matrix(), folder, jobs=1)
    assert len(executed) == 2
    assert timeless(folder) == timeless(reference)
    assert len(list((folder / "set-aside").rglob("*.*"))) >= 1


def test_nothing_is_done_twice(reference, monkeypatch):
    monkeypatch.setattr(cell, "execute", lambda *a: pytest.fail("ran again"))
    monkeypatch.setattr(fits, "train", lambda *a: pytest.fail("trained again"))
    harness.run(matrix(), reference, jobs=1)


# ------------------------------------------------------------------ failures

BROKEN = """
import os
from functools import partial
from bayesprune import MAP, Pruner, register

def magnitude(state):
    return state.units.gather({n: w.abs() for n, w in state.weights().items()})

def fails(state):
    if os.path.exists(FLAG):
        return magnitude(state)
    raise ValueError("this method is broken")

@register("breaks")
def breaks():
    '''Raises until the flag file exists.'''
    return Pruner(MAP, fails)

@register("dies")
def dies():
    '''Takes its process down.'''
    return Pruner(MAP, lambda state: os._exit(7))

@register("peeks")
def peeks():
    '''Reads the test split.'''
    def score(state):
        from bayesprune.datasets.load import load
        load("digits").test
    return Pruner(MAP, score)
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "broken_methods.py"
    path.write_text(BROKEN.replace("FLAG", repr(str(tmp_path / "flag"))))
    return path


def test_a_failing_method_is_recorded_and_the_rest_goes_on_then_retried(tmp_path, plugin):
    methods.load_plugin(plugin)
    m = matrix(methods=["breaks", "peeks", "magnitude"], seeds=[0])
    harness.run(m, tmp_path / "r", jobs=1, plugins=[plugin])
    frame = results(tmp_path / "r").set_index("method")
    assert set(frame.loc["magnitude", "status"]) == {"done"}
    assert set(frame.loc["breaks", "status"]) == {"failed"}
    assert set(frame.loc["breaks", "reason"]) == {"ValueError: this method is broken"}
    assert "broken_methods.py" in frame.loc["breaks", "traceback"].iloc[0]
    assert frame.loc["peeks", "reason"].str.contains("TestSplitError").all()
    (tmp_path / "flag").touch()
    harness.run(m, tmp_path / "r", jobs=1, plugins=[plugin])
    assert set(results(tmp_path / "r").set_index("method").loc["breaks", "status"]) == {"failed"}
    harness.run(m, tmp_path / "r", jobs=1, plugins=[plugin], retry_failed=True)
    assert set(results(tmp_path / "r").set_index("method").loc["breaks", "status"]) == {"done"}


@pytest.mark.slow
def test_a_dying_worker_costs_only_its_own_cells(tmp_path, plugin):
    m = matrix(methods=["dies", "magnitude", "snip"], seeds=[0])
    methods.load_plugin(plugin)
    harness.run(m, tmp_path / "r", jobs=2, plugins=[plugin])
    frame = results(tmp_path / "r").set_index("method")
    assert set(frame.loc["dies", "status"]) == {"failed"}
    assert frame.loc["dies", "reason"].str.contains("died twice").all()
    assert set(frame.loc[["magnitude", "snip"], "status"]) == {"done"}


def test_a_diverging_training_is_recorded_as_failed(tmp_path):
    m = matrix(training=Training(epochs=3, optimizer="sgd", lr=1e6), seeds=[0])
    harness.run(m, tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r")
    assert set(frame["status"]) == {"failed"}
    assert frame["reason"].str.contains("DivergedError: the training loss became").all()
    assert "status" in (tmp_path / "r" / "results.csv").read_text()


def test_what_makes_no_sense_is_skipped_with_its_reason(tmp_path):
    m = matrix(methods=["magnitude"], sparsity=["auto"], seeds=[0])
    harness.run(m, tmp_path / "auto", jobs=1)
    (record,) = results(tmp_path / "auto").to_dict("records")
    assert record["status"] == "skipped"
    assert "no threshold of its own" in record["reason"]
    assert not list((tmp_path / "auto" / "fits").iterdir())  # nothing was trained for it
    linear = {"name": "mlp", "widths": []}
    m = matrix(architectures=[linear], units=["groups"], seeds=[0], sparsity=[0.5], methods=["magnitude"])
    harness.run(m, tmp_path / "one layer", jobs=1)
    (record,) = results(tmp_path / "one layer").to_dict("records")
    assert record["status"] == "skipped"
    assert "no group" in record["reason"]


def test_structure_leaves_for_real_also_in_networks_from_elsewhere(tmp_path):
    m = matrix(architectures=["timm/resnet10t", "lenet5"], units=["groups"], seeds=[0], sparsity=[0.5],
               methods=["magnitude"], budget=Budget(of="flops", round_to=4))  # fmt: skip
    harness.run(m, tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r")
    assert set(frame["status"]) == {"done"}, frame["reason"].tolist()
    assert (frame["certificate"] <= 1e-5).all()
    assert (frame["flops_compact"] <= 0.5 * frame["flops_dense"]).all()
    assert (frame["parameters_removed"] > 0).all()
    assert (frame["parameters_removed"] <= frame["parameters_masked"]).all()
    assert (frame["bytes_compact"] < frame["bytes_dense"]).all()
    assert (frame["speedup_compact_low"] <= frame["speedup_compact"]).all()
    assert [s["batch"] for s in frame["latency"][0]["compact"]] == [1, 16, 64]


NOTHING = """
import torch

class Pool(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10]

def build(shape, outputs):
    return Pool()
"""
NAN = "def data():\n    import torch\n    x = torch.randn(60, 5); x[7, 3] = float('nan')\n    return x, torch.arange(60) % 3\n"


def test_impossible_matrices_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nothing_prunable.py").write_text(NOTHING)
    (tmp_path / "nan_data.py").write_text(NAN)
    bad = {
        "nothing prunable": matrix(architectures=["nothing_prunable:build"]),
        "remove every one": matrix(sparsity=[0.99999]),
        "(?i)nan": matrix(datasets=["nan_data:data"]),
    }
    for message, m in bad.items():
        with pytest.raises(UsageError, match=message):
            harness.run(m, tmp_path / "r", jobs=1)
        assert not (tmp_path / "r").exists()
    with pytest.raises(UsageError, match="shard 3/2"):
        harness.run(matrix(), tmp_path / "r", shard=(3, 2))
    with pytest.raises(UsageError, match="device 'abacus'"):
        harness.run(matrix(), tmp_path / "r", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="try --device cpu"):
            harness.run(matrix(), tmp_path / "r", device="cuda:5")


# ------------------------------------------------------------------ kinds of cells


def test_structure_regression_tuning_and_schedules_run(tmp_path):
    methods = ["magnitude", {"name": "magnitude", "when": "during"}, {"name": "opd", "rounds": 2}]
    m = matrix(methods=[*methods, {"name": "magnitude", "precision": "tuned"}, {"name": "random", "like": "snip"}],
               units=["weights", "groups"], seeds=[0], sparsity=[0.5])  # fmt: skip
    harness.run(m, tmp_path / "kinds", jobs=1)
    frame = results(tmp_path / "kinds")
    assert set(frame["status"]) == {"done"}, frame["reason"].tolist()
    assert len(frame) == 10
    tuned = frame[frame.method == "magnitude(precision=tuned)"].iloc[0]
    assert "precision=" in tuned["inference"]
    assert tuned["passes_train"] == 5 * 2 * 2 * 150  # the whole grid was trained
    groups = frame[frame["units"] == "groups"]
    assert (groups["total"] == 16).all()
    assert (groups["kept"] == 8).all()

    m = matrix(datasets=["diabetes"], methods=["magnitude", "grasp", "opd"], seeds=[0], sparsity=[0.5])
    harness.run(m, tmp_path / "regression", jobs=1)
    frame = results(tmp_path / "regression")
    assert set(frame["status"]) == {"done"}, frame["reason"].tolist()
    assert frame["rmse"].between(1, 1000).all()
    assert frame["dense_rmse"].notna().all()
    assert frame["accuracy"].isna().all()


def test_online_pruning_gives_every_sparsity_in_one_run(tmp_path, monkeypatch):
    """Dhahri et al.: every ten epochs cut to s_e = 0.1 + 0.89 ⌊e/10⌋ / ⌊E/10⌋; what was cut may grow back."""
    assert [round(pruning.online_sparsity(e, 100), 3) for e in (10, 50, 59, 100)] == [0.189, 0.545, 0.545, 0.99]
    seen = []
    scored = engine.Engine.score
    monkeypatch.setattr(engine.Engine, "score", lambda self, *a: seen.append(a[2:]) or scored(self, *a))
    online = {"name": "spam-opd", "when": "online", "steps": 5}
    training = Training(epochs=20, lr=3e-3)
    m = matrix(methods=[online], seeds=[0], sparsity=[0.3, 0.5, 0.9], training=training)
    harness.run(m, tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r")
    assert set(frame["status"]) == {"done"}, frame["reason"].tolist()
    assert seen == [(10,), (20,)]  # one run for the three sparsities
    assert frame["sparsity"].tolist() == pytest.approx([0.3, 0.5, 0.9], abs=1e-3)
    assert frame["passes_train"].nunique() == 1
    short = matrix(methods=[online], seeds=[0], sparsity=[0.5])
    harness.run(short, tmp_path / "short", jobs=1)
    assert results(tmp_path / "short")["reason"].str.contains("every 10 epochs; train for at least as many").all()


def test_corruptions_can_be_left_out(tmp_path):
    harness.run(matrix(methods=["magnitude"], seeds=[0], sparsity=[0.5], shift=False), tmp_path / "r", jobs=1)
    (record,) = results(tmp_path / "r").to_dict("records")
    assert record["accuracy"] > 0
    assert not isinstance(record["shift"], dict)
    assert pd.isna(record["shift_accuracy"])


def test_two_of_four_runs_at_half_and_skips_the_rest(tmp_path):
    pattern = {"name": "opd", "allocation": "2:4"}
    m = matrix(methods=[pattern], seeds=[0], sparsity=[0.5, 0.9], units=["weights", "groups"])
    harness.run(m, tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r").set_index(["units", "sparsity_target"])
    assert frame.loc[("weights", 0.5), "status"] == "done"
    assert frame.loc[("weights", 0.5), "sparsity"] == 0.5
    assert frame["status"].value_counts().to_dict() == {"skipped": 3, "done": 1}
    assert "no sparsity 0.9" in frame.loc[("weights", 0.9), "reason"]
    assert "not on groups" in frame.loc[("groups", 0.5), "reason"]


def test_what_the_evidence_learned_is_in_the_record(tmp_path):
    m = matrix(methods=[{"name": "spam-opd", "frequency": 1}, "spam-magnitude", "magnitude"], seeds=[0], sparsity=[0.5])
    harness.run(m, tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r").set_index("method")
    learned = frame.loc["spam-opd(frequency=1)", "learned"]
    assert [row[0] for row in learned["trace"]] == [1, 2]
    assert learned["log_evidence"] == learned["trace"][-1][1]
    assert 0 < learned["effective_parameters"] < learned["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert list(learned["precisions"]) == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    assert all(row == sorted(row) for row in learned["precisions"].values())
    assert frame.loc["spam-magnitude", "learned"]["log_evidence"] is None  # trained for less than five epochs
    assert frame.loc["magnitude", "learned"] is None
    assert frame["criterion"].to_dict() == {
        "spam-opd(frequency=1)": "opd", "spam-magnitude": "magnitude", "magnitude": "magnitude",
    }  # fmt: skip


def test_a_random_mask_like_opd_has_its_densities_and_another_mask(tmp_path):
    harness.run(matrix(methods=["opd", {"name": "random", "like": "opd"}], seeds=[0]), tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r")
    opd, shuffled = (frame[frame.method == name] for name in ("opd", "random(like=opd)"))
    assert opd["layer_density"].tolist() == shuffled["layer_density"].tolist()
    assert opd["mask_digest"].tolist() != shuffled["mask_digest"].tolist()
    assert len(list((tmp_path / "r" / "fits").glob("*"))) == 1


# ------------------------------------------------------------------ plug-ins with an inference of their own

NOISY = """
from dataclasses import dataclass
from functools import partial
import torch
from bayesprune.methods.pruner import Inference, Pruner, register

@dataclass
class Noisy(Inference):
    rate: float = 0.1

    def attach(self, network, units, train):
        self.logs = {n: torch.nn.Parameter(torch.full((), -3.0)) for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
        self.hooks = [network.get_submodule(n).register_forward_hook(lambda m, i, o, p=p: o * p.exp().add(1)) for n, p in self.logs.items()]
        self.seen = torch.zeros(())

    def parameters(self):
        return self.logs.values()

    def penalty(self, network):
        return self.rate * sum(p.square() for p in self.logs.values())

    def update(self, network, train, epoch):
        self.seen = torch.tensor(float(epoch))

    def tensors(self):
        return {n.replace(".", "-"): p.detach() for n, p in self.logs.items()} | {"seen": self.seen}

    def load_tensors(self, tensors):
        for n, p in self.logs.items():
            p.data.copy_(tensors[n.replace(".", "-")])
        self.seen = tensors["seen"]

    def posterior(self, network, train):
        return {n: p.detach().exp() for n, p in self.logs.items()}

    def detach(self, network):
        for hook in self.hooks:
            hook.remove()
        assert self.seen == 3, self.seen  # two epochs of training and one of fine-tuning

def score(state):
    gain = state.posterior
    return state.units.gather({n: w.abs() * (1 + gain[n.removesuffix(".weight")]) for n, w in state.weights().items()})

@register("noisy")
def noisy(rate: float = 0.1):
    "Learns the noise of every layer."
    return Pruner(partial(Noisy, rate), score, keep_above=0.1)
"""


def test_an_inference_with_parameters_and_closure_hooks_survives_store_and_copies(tmp_path):
    path = tmp_path / "noisy_method.py"
    path.write_text(NOISY)
    methods.load_plugin(path)
    m = matrix(methods=["noisy", {"name": "noisy", "when": "before"}], seeds=[0], sparsity=[0.5, "auto"])
    harness.run(m, tmp_path / "r", jobs=1, plugins=[path])
    frame = results(tmp_path / "r")
    assert set(frame["status"]) == {"done"}, frame["traceback"].tolist()
    from bayesprune.bench.contract import TINY, check_on

    for verdict in check_on("noisy", TINY[0], "weights"):
        if verdict.promise != "runs from training to fine-tuning":  # there the epochs are others
            assert not verdict.problem, verdict
    run = m.cells()[0]
    data = workers.data_of(run)
    fit = fits.fitted(run, data, harness.Store(tmp_path / "r"), torch.device("cpu"))
    network, inference = fit.restore(data, torch.device("cpu"))
    network(data.train.x[:8]).sum().backward()
    assert all(p.grad is not None for p in inference.parameters())


INIT = "    def __init__(self, rate):\n        self.rate = rate\n"


def test_an_inference_that_is_no_dataclass_is_refused(tmp_path):
    (tmp_path / "plain_method.py").write_text(
        NOISY.replace("@dataclass\n", "").replace("    rate: float = 0.1\n", INIT, 1)
    )
    methods.load_plugin(tmp_path / "plain_method.py")
    with pytest.raises(UsageError, match="decorated with @dataclass"):
        matrix(methods=["noisy"]).cells()


def test_an_edited_plugin_is_another_method_and_the_old_records_step_aside(tmp_path, plugin):
    m = matrix(methods=["breaks"], seeds=[0], sparsity=[0.5])
    (tmp_path / "flag").touch()
    harness.run(m, tmp_path / "r", jobs=1, plugins=[plugin])
    first = results(tmp_path / "r").iloc[0]
    original = plugin.read_text()
    plugin.write_text(original.replace("w.abs()", "-w.abs()"))
    harness.run(m, tmp_path / "r", jobs=1, plugins=[plugin])
    (second,) = results(tmp_path / "r").to_dict("records")
    assert first["key"] != second["key"]
    assert first["mask_digest"] != second["mask_digest"]
    plugin.write_text(original)
    harness.run(m, tmp_path / "r", jobs=1, plugins=[plugin])
    assert results(tmp_path / "r")["key"].tolist() == [first["key"]]


def test_another_training_does_not_mix_with_the_first(tmp_path):
    m = matrix(methods=["magnitude"], seeds=[0], sparsity=[0.5])
    harness.run(m, tmp_path / "r", jobs=1)
    harness.run(m.model_copy(update={"training": Training(epochs=3)}), tmp_path / "r", jobs=1)
    assert len(results(tmp_path / "r")) == 1
    assert len(list((tmp_path / "r" / "superseded").rglob("*.json"))) == 1


def test_methods_are_paired_in_steps_and_learning_rates(tmp_path, monkeypatch):
    seen = {}
    real = loop.train

    def spy(network, split, inference, settings, epochs, *rest):
        seen.setdefault(current[0], []).append((settings.lr, epochs))
        return real(network, split, inference, settings, epochs, *rest)

    for module in (fits, loop, engine):
        monkeypatch.setattr(module, "train", spy)
    for method in ({"name": "magnitude"}, {"name": "snip"}, {"name": "magnitude", "when": "during"}):
        current = [str(method)]
        m = matrix(methods=[method], seeds=[0], sparsity=[0.5], finetune=Finetune(epochs=1, lr=1e-5))
        harness.run(m, tmp_path / str(len(seen)), jobs=1)
        assert seen[current[0]][-1] == (1e-5, 1)
        assert (3e-3, 2) in seen[current[0]]


def test_the_control_of_a_method_with_rounds_has_its_final_densities(tmp_path):
    harness.run(matrix(methods=["synflow", {"name": "random", "like": "synflow"}], seeds=[0]), tmp_path / "r", jobs=1)
    frame = results(tmp_path / "r")
    theirs, ours = (frame[frame.method == name] for name in ("synflow", "random(like=synflow)"))
    assert theirs["layer_density"].tolist() == ours["layer_density"].tolist()
    assert theirs["mask_digest"].tolist() != ours["mask_digest"].tolist()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_refused(tmp_path, out):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="file"):
        harness.run(matrix(), tmp_path / out, jobs=1)


def test_a_folder_begun_by_another_process_is_taken(tmp_path):
    (tmp_path / "r" / "cells").mkdir(parents=True)
    harness.run(matrix(methods=["magnitude"], seeds=[0], sparsity=[0.5]), tmp_path / "r", jobs=1)
    assert len(results(tmp_path / "r")) == 1


def test_lost_logits_and_strange_keys_are_noticed(tmp_path):
    m = matrix(methods=["magnitude"], seeds=[0])
    harness.run(m, tmp_path / "r", jobs=1)
    whole = timeless(tmp_path / "r")
    one, two = sorted((tmp_path / "r" / "cells").glob("*.json"))
    two.write_bytes(one.read_bytes())
    next((tmp_path / "r" / "logits").glob("*")).unlink()
    assert harness.Store(tmp_path / "r").gaps()
    harness.run(m, tmp_path / "r", jobs=1)
    assert timeless(tmp_path / "r") == whole
    assert not harness.Store(tmp_path / "r").gaps()


def test_a_recurrent_network_can_be_scored(tmp_path):
    import bayesprune as bp

    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = torch.nn.LSTM(4, 6, batch_first=True), torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    pruned = bp.prune(Reader(), (torch.randn(20, 5, 4), torch.arange(20) % 3), "opd", 0.5)
    assert pruned.mask.density == 0.5


# ------------------------------------------------------------------ through the command line


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def heed_interrupts():
    """Undo what a shell does to jobs in the background, whose children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(*arguments):
    return [sys.executable, "-m", "bayesprune.bench.cli", *map(str, arguments)]


@pytest.mark.slow
def test_kill_at_random_moments_and_resume_gives_the_same_results(tmp_path):
    m = matrix(methods=["magnitude", "opd", "random"], sparsity=[0.5, 0.6, 0.7, 0.8, 0.9], training=Training(epochs=8),
               finetune=Finetune(epochs=100))  # fmt: skip
    harness.run(m, tmp_path / "whole", jobs=1)
    path, rng, kills = yaml_of(tmp_path, m), random.Random(0), 0
    arguments = command("run", path, "--out", tmp_path / "killed", "--jobs", 2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(30):
        before = len(list((tmp_path / "killed").glob("cells/*.json")))
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list((tmp_path / "killed").glob("cells/*.json"))) == before:
            time.sleep(0.02)  # until this run has written something
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is None and kills < 5:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    assert kills == 5
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_folder_and_no_workers(tmp_path):
    m = matrix(training=Training(epochs=400), methods=["magnitude", "snip", "random"])
    arguments = command("run", yaml_of(tmp_path, m), "--out", tmp_path / "r", "--jobs", 2)
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_interrupts
    )
    while not list((tmp_path / "r").glob("cells/*.json")):
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "r" / "results.csv").exists()
    assert eventually(lambda: not alive(process.pid)), "workers outlive an interrupted run"


def test_choices_are_hash_stable():
    assert Choice(name="mlp", options={"widths": (16,)}).label == "mlp(widths=(16,))"
