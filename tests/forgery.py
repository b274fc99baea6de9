"""Forged bundles: plans that say whatever the forger likes, with checksums that agree."""

import hashlib
import json
import random

from safetensors import safe_open
from safetensors import torch as safetensors


def canonical(fields):
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def plan_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["bayesprune"])


def forge(path, change, target=None):
    """The bundle with a changed plan, signed anew; `change` gets the plan as a dict."""
    fields = plan_of(path)
    fields.pop("sha256")
    fields = change(fields) or fields
    signed = fields | {"sha256": hashlib.sha256(canonical(fields).encode()).hexdigest()}
    target = target or path.with_name("forged.bundle")
    safetensors.save_file(safetensors.load_file(path), target, {"bayesprune": canonical(signed)})
    return target


HOSTILE = (
    None, True, False, -1, 0, 1, 10**9, 10**30, -(10**12), 0.5, 1e300, -0.0, "", "a" * 1000, "\ud800", "os:system",
    "timm/resnet18", [], [[]], [-1], [10**12, 10**12], {}, {"name": "x"}, {"": None},
)  # fmt: skip


def mutated(value, rng: random.Random):
    """A JSON value with something in it replaced, removed, doubled or added."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        what = rng.random()
        if what < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.2:
            return value | {rng.choice(["", "x", key + "x", "weight"]): rng.choice(HOSTILE)}
        return value | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        return rng.choice(
            [value[:i] + value[i + 1 :], value * 2, [*value[:i], mutated(value[i], rng), *value[i + 1 :]]]
        )
    if isinstance(value, int) and rng.random() < 0.5:
        return value * rng.choice([-1, 2, 10, 10**6]) + rng.choice([0, 1])
    return rng.choice(HOSTILE)
