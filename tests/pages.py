"""Synthetic results for tests of pages: records with a run, and the scores of their test examples that they agree with."""

import hashlib
import zlib

import numpy as np
import pandas as pd
from bayesprune.bench.results.integrity import sha256
from bayesprune.bench.results.scores import Scores
from bayesprune.bench.results.store import Store

SETTINGS = {
    "budget": {"of": "units", "at_least": 1, "round_to": 1},
    "training": {"epochs": 4, "batch_size": 64, "optimizer": "adam", "lr": 1e-05, "schedule": "cosine"},
    "finetune": {"epochs": 4, "lr": None}, "shift": False, "threads": 1,
}  # fmt: skip
LOSS = {"magnitude": 0.05, "random": 0.3, "opd": 0.04, "snip": 0.09, "lamp": 0.05, "synflow": 0.12}
LEVELS = (0.5, 0.9, 0.95)


def generator(*words):
    return np.random.default_rng(zlib.crc32(repr(words).encode()))


def cell(method, dataset, architecture, units, seed, level, accuracy, **more):
    """One finished record; without an accuracy for what is measured otherwise."""
    name, _, depth = architecture.partition("(depth=")
    options = {"depth": int(depth[:-1])} if depth else {}
    run = {
        "dataset": {"name": dataset, "options": {}}, "architecture": {"name": name, "options": options},
        "method": {"name": method, "options": {}}, "sparsity": "auto" if level is None else level, "seed": seed,
        "units": units, **SETTINGS,
    }  # fmt: skip
    words = repr((method, dataset, architecture, units, seed, level))
    at = 0.8 if level is None else level
    quality = {} if accuracy is None else {"accuracy": accuracy, "nll": 2 - 2 * accuracy, "ece": 0.05 * (1 - accuracy)}
    return {
        "key": hashlib.sha256(words.encode()).hexdigest(), "status": "done", "reason": "", "traceback": "",
        "method": method, "architecture": architecture, "dataset": dataset, "units": units, "seed": seed,
        "sparsity_target": level, "sparsity_auto": level is None, "sparsity": at, "kept": round(1000 * (1 - at)),
        "total": 1000, "when": "after", "inference": "MAP(precision=1.0)", "likelihood": "categorical",
        "predictive": "plug-in", "started": "2026-01-01T00:00:00+00:00", "device": "cpu", "host_cpu": "Example CPU",
        "version_bayesprune": "0.1.0", "version_torch": "2.9.9", "version_python": "3.11.2", "git_revision": "0123abc",
        "epochs_train": 4.0, "epochs_finetune": 4.0, "protocol": "", **quality, "seconds_train": 1.5, "seconds_score": 0.1, "seconds_finetune": 1.0,
        "learned": None, "latency": None, "run": run,
    } | more  # fmt: skip


def tested(dataset, architecture, method, seed, level, examples, is_shared):
    """Scores that are right where a network is better than an example is hard; hard ones are hard for all."""
    test = generator(dataset, 0 if is_shared else seed)
    hard = test.normal(size=examples)
    own = generator(dataset, architecture, method, seed)
    skill = 2.2 - 8 * LOSS.get(method, 0.07) * -np.log2(1 - level) / 2 + 0.15 * own.normal()
    noise = generator(dataset, architecture, method, seed, level).normal(size=examples)
    return Scores(f"{dataset}-{0 if is_shared else seed}", skill + 0.7 * noise > hard)


def results(
    datasets=("digits", "letters"), architectures=("mlp", "vit(depth=1)"), methods=tuple(LOSS), seeds=(0, 1, 2),
    units=("weights", "groups"), levels=LEVELS, examples=120,
):  # fmt: skip
    """A frame and its scores: the first data set shares its test examples among seeds, the others do not."""
    rows, scores = [], {}
    for d in datasets:
        for a in architectures:
            rows += [cell("dense", d, a, "weights", s, 0.0, 0.97 + 0.002 * s, sparsity=0.0) for s in seeds]
            for u in units:
                for m in methods[: len(methods) - (u == "groups")]:
                    for s in seeds:
                        for level in levels:
                            found = tested(d, f"{a}{u}", m, s, level, examples, d == datasets[0])
                            row = cell(m, d, a, u, s, level, float(found.values.mean()), dense_accuracy=0.97)
                            rows.append(row)
                            scores[row["key"]] = found
    return pd.DataFrame(rows), scores


def regressions(methods=("magnitude", "random", "opd", "snip"), seeds=(0, 1, 2), levels=LEVELS, examples=90):
    """As `results`, of a regression, whose examples have scores that are no bits, and whose errors are best small."""
    rows, scores = [cell("dense", "diabetes", "mlp", "weights", s, 0.0, None, rmse=0.7 + 0.01 * s) for s in seeds], {}
    for m in methods:
        for s in seeds:
            for level in levels:
                hard = generator("diabetes", s).normal(size=examples) ** 2
                own = generator("diabetes", m, s, level).normal(size=examples) ** 2
                values = 1 - 0.4 * hard - 4 * LOSS[m] * own / (1 - level) ** 0.3
                row = cell(m, "diabetes", "mlp", "weights", s, level, None, rmse=float(np.sqrt(1.2 - values.mean())))
                rows.append(row)
                scores[row["key"]] = Scores(f"diabetes-{s}", values)
    return pd.DataFrame(rows), scores


def language(methods=("magnitude", "random", "opd", "snip"), seeds=(0, 1, 2), levels=LEVELS):
    """Language models: bits per character, and no scores of examples."""
    return pd.DataFrame([
        cell(m, "characters", "lstm", "weights", s, level, None, dense_bpc=1.5 + 0.01 * s,
             bpc=1.6 + 4 * LOSS[m] * level + 0.02 * generator("characters", m, s, level).normal())
        for m in methods for s in seeds for level in levels
    ])  # fmt: skip


def written(folder, frame, scores, classes=10):
    """A results folder with these records, and outputs that score as they say."""
    store = Store(folder)
    for row in frame.to_dict("records"):
        found = scores.get(row["key"])
        if found is not None:
            y = generator(found.test).integers(0, classes, len(found.values))
            outputs = np.zeros((len(y), classes), np.float16)
            outputs[np.arange(len(y)), np.where(found.values, y, (y + 1) % classes)] = 1
            row["logits_digest"] = sha256(outputs.tobytes())
            store.write_tensors("logits", row["key"], {"outputs": outputs, "y": y}, {})
        store.write_record({name: None if value is np.nan else value for name, value in row.items()})
    return folder
