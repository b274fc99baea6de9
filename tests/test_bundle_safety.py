"""A bundle is somebody else's file: it names no code that runs, and describes no more than it holds."""

import json
import random
import subprocess
import sys
import time

import pytest
import torch
from bayesprune.architectures import registry
from bayesprune.architectures.build import build, is_own
from bayesprune.architectures.saved.bundle import load, save
from bayesprune.datasets.errors import UsageError
from forgery import forge, mutated
from safetensors import torch as safetensors
from torch import nn

SHAPE, OUTPUTS = (1, 8, 8), 3
EVIL = """
from pathlib import Path
Path("was_here").write_text("imported")

def build(input_shape, outputs):
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, outputs))
"""


def bundle_of(folder, name="mlp", shape=SHAPE, **options):
    network = build(name, shape, OUTPUTS, seed=0, **options)
    path = folder / f"{name.replace('/', '-')}.bundle"
    save(path, network, {"name": name, "input_shape": shape, "outputs": OUTPUTS, "options": options})
    return path


def architecture(**fields):
    def change(plan):
        plan["architecture"] |= fields

    return change


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the current folder that leaves a file when it is imported."""
    (tmp_path / "evil_module.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "was_here"
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize(
    "name", ["evil_module:build", "evil_module:missing", "os:getcwd", "a.b:c", "torch:nn", "evil_module:build:x"]
)
def test_code_that_the_file_names_is_neither_imported_nor_called(name, tmp_path, evil):
    forged = forge(bundle_of(tmp_path), architecture(name=name, options={}))
    before, path = set(sys.modules), list(sys.path)
    with pytest.raises(UsageError, match=r"names code, .*trust=True"):
        load(forged)
    assert not evil.exists()
    assert all(module.startswith("bayesprune.") for module in set(sys.modules) - before)
    assert sys.path == path


@pytest.mark.parametrize(
    "name", ["timm/evil_module:build", "timm/hf_hub:someone/evil", "timm/local-dir:.", "torchvision/evil_module:build"]
)
def test_libraries_are_asked_for_their_own_networks_only(name, tmp_path, evil):
    with pytest.raises(UsageError, match="unknown"):
        load(forge(bundle_of(tmp_path), architecture(name=name, options={}, input_shape=[3, 32, 32])))
    assert not evil.exists()


def test_a_network_of_the_caller_or_trust_loads_what_the_file_names(tmp_path, evil):
    reference = {"name": "evil_module:build", "input_shape": SHAPE, "outputs": OUTPUTS}
    own = build("evil_module:build", SHAPE, OUTPUTS, seed=0)
    save(tmp_path / "own.bundle", own, reference)
    evil.unlink()
    sys.modules.pop("evil_module")
    x = torch.randn(2, *SHAPE)
    assert torch.equal(load(tmp_path / "own.bundle", own)(x), own(x))
    assert not evil.exists()
    assert torch.equal(load(tmp_path / "own.bundle", trust=True)(x), own(x))
    assert evil.exists()


def test_an_architecture_of_a_plugin_needs_trust(tmp_path):
    @registry.register("of-a-plugin")
    def of_a_plugin(input_shape, outputs, /):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))

    path = bundle_of(tmp_path, "of-a-plugin")
    with pytest.raises(UsageError, match="names code"):
        load(path)
    load(path, trust=True)


# ---------------------------------------------------------------------------------- what load can reach

REACH = """
import json, sys
import bayesprune.architectures.saved.bundle as bundle
import pydantic, timm, torchvision, yaml  # an installed library may import what it likes
before = set(sys.modules)
for path in sys.argv[1:]:
    bundle.load(path)
print(json.dumps(sorted(set(sys.modules) - before)))
"""
LIBRARIES = {"bayesprune", "torch", "timm", "torchvision", "pydantic", "annotated_types", "typing_inspection"}
REACHABLE = [
    "lenet-300-100", "lenet5", "lstm", "mixer", "mlp", "resnet", "timm/<model>", "torchvision/<model>", "vit",
]  # fmt: skip


def test_the_exact_list_of_what_load_can_build():
    names = registry.catalogue()
    probes = {
        name: name.replace("<model>", "resnet18").replace("<module>", "m").replace("<function>", "f") for name in names
    }
    assert [name for name, probe in probes.items() if is_own(probe)] == REACHABLE
    assert set(names) - set(REACHABLE) == {"<module>:<function>"}


def test_the_exact_list_of_what_load_imports(tmp_path):
    """Modules of this package, and what installed libraries load of themselves when they are used."""
    paths = [bundle_of(tmp_path, name, (3, 32, 32)) for name in ("mlp", "resnet", "torchvision/resnet18")]
    (tmp_path / "evil_module.py").write_text(EVIL)
    done = subprocess.run([sys.executable, "-c", REACH, *map(str, paths)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    packages = {m.partition(".")[0] for m in imported}
    assert packages - sys.stdlib_module_names <= LIBRARIES, packages
    own = [m for m in imported if m.startswith("bayesprune.")]
    assert all(m.startswith(("bayesprune.architectures.", "bayesprune.datasets.")) for m in own), own
    assert not (tmp_path / "was_here").exists()


# ---------------------------------------------------------------------------------- sizes

ABSURD = [
    ("resnet", {"options": {"depth": 6 * 10**9 + 2}}),
    ("resnet", {"options": {"depth": 6 * 10**6 + 2}}),
    ("resnet", {"options": {"depth": -4}}),
    ("resnet", {"options": {"width": 10**9}}),
    ("resnet", {"options": {"width": 20_000}}),
    ("resnet", {"options": {"width": -16}}),
    ("resnet", {"outputs": 10**12}),
    ("resnet", {"outputs": 10**8}),
    ("resnet", {"outputs": -1}),
    ("resnet", {"outputs": 0}),
    ("resnet", {"input_shape": [10**7, 8, 8]}),
    ("resnet", {"input_shape": [-1, 8, 8]}),
    ("mlp", {"input_shape": [1, 10**6, 10**6]}),
    ("mlp", {"options": {"widths": [10**9]}}),
    ("mlp", {"options": {"widths": [50_000, 50_000]}}),
    ("mlp", {"options": {"widths": [1] * 100_000}}),
    ("lenet5", {"options": {"widths": [10**6, 10**6, 10**6]}}),
    ("lenet5", {"options": {"padding": 10**9}}),
    ("vit", {"options": {"depth": 10**8}}),
    ("vit", {"options": {"dim": 10**7, "heads": 1}}),
    ("vit", {"options": {"mlp_ratio": 1e300}}),
    ("vit", {"input_shape": [1, 2**31, 2**31]}),
    ("vit", {"options": {"patch": 1}, "input_shape": [1, 4000, 4000]}),
    ("mixer", {"options": {"mlp_ratio": [1e300, 1e300]}}),
    ("mixer", {"options": {"depth": 10**9}}),
    ("lstm", {"options": {"hidden": 10**9}}),
    ("lstm", {"options": {"layers": 10**9}}),
    ("lstm", {"input_shape": [10, 10**9]}),
    ("timm/resnet18", {"outputs": 10**9}),
    ("timm/vit_tiny_patch16_224", {"input_shape": [3, 10**6, 10**6]}),
    ("torchvision/resnet18", {"outputs": 10**9}),
    ("torchvision/vgg16", {"input_shape": [3, 10**5, 10**5]}),
]  # fmt: skip

MEASURED = """
import json, resource, sys, time
from bayesprune.architectures.saved.bundle import load
from bayesprune.datasets.errors import UsageError
import timm, torchvision
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    began = time.process_time()
    try:
        load(path)
        said = "loaded"
    except UsageError as error:
        said = str(error)
    print(json.dumps([said, time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start]))
"""


def test_absurd_sizes_are_one_line_at_once_and_take_no_memory(tmp_path):
    plain = {
        name: bundle_of(tmp_path, name, (3, 32, 32) if "/" in name else SHAPE)
        for name in {name for name, _ in ABSURD if "vgg" not in name}
    }
    plain["torchvision/vgg16"] = plain["torchvision/resnet18"]
    forged = [
        forge(plain[name], architecture(name=name, **{"options": {}} | fields), tmp_path / f"{i}.bundle")
        for i, (name, fields) in enumerate(ABSURD)
    ]
    done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, forged)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for case, line in zip(ABSURD, done.stdout.splitlines(), strict=True):
        said, seconds, kilobytes = json.loads(line)
        assert said.startswith(("cannot load the bundle", "the bundle")), (case, said)
        assert "\n" not in said
        assert len(said) < 1000
        assert seconds < 5, (case, seconds)
        assert kilobytes < 800_000, (case, kilobytes)


def test_a_network_much_larger_than_what_is_left_of_it_still_loads(tmp_path):
    """11 million weights in the dense network, of which hardly any is left."""
    options = {"widths": [3000, 3000]}
    dense = build("mlp", SHAPE, OUTPUTS, seed=0, **options)
    small = build("mlp", SHAPE, OUTPUTS, seed=0, widths=[2, 2])
    save(tmp_path / "b", small, {"name": "mlp", "input_shape": SHAPE, "outputs": OUTPUTS, "options": options})
    again = load(tmp_path / "b")
    x = torch.randn(4, *SHAPE)
    assert sum(p.numel() for p in dense.parameters()) > 9_000_000
    assert torch.equal(again(x), small(x))


def test_a_pipe_and_a_folder_are_no_bundles(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="cannot read the bundle"):
            load(path)


# ---------------------------------------------------------------------------------- fuzz


def outcome(path):
    """What load makes of a file: a network, or one line; anything else fails the test."""
    start, modules, folder = time.process_time(), set(sys.modules), list(sys.path)
    said = ""
    try:
        load(path)
        return "loaded"
    except UsageError as error:
        said = str(error)
        return "refused"
    finally:
        assert "\n" not in said
        assert time.process_time() - start < 5
        assert sys.path == folder
        new = {m.partition(".")[0] for m in set(sys.modules) - modules}
        assert new <= {"bayesprune", "torch", "timm", "torchvision"} | sys.stdlib_module_names, new


def damage(content, rng):
    i = rng.randrange(len(content))
    what = rng.randrange(4)
    if what == 0:
        return content[:i] + bytes([content[i] ^ (1 << rng.randrange(8))]) + content[i + 1 :]
    if what == 1:
        return content[:i]
    if what == 2:
        return content[:i] + rng.randbytes(8) + content[i:]
    return content[:i] + content[i + rng.randrange(1, 64) :]


@pytest.mark.parametrize("rounds", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused(rounds, tmp_path):
    rng = random.Random(0)
    content = bundle_of(tmp_path, widths=[4]).read_bytes()
    path = tmp_path / "damaged"
    for _ in range(rounds):
        path.write_bytes(damaged := damage(content, rng))
        assert damaged == content or outcome(path) == "refused"


@pytest.mark.parametrize("rounds", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_forged_plans_are_loaded_or_refused_in_one_line(rounds, tmp_path, evil):
    rng = random.Random(1)
    whole = [
        bundle_of(tmp_path, "resnet", width=4), bundle_of(tmp_path, "lstm", (5, 8), hidden=3),
        bundle_of(tmp_path, "mlp", widths=[4]), bundle_of(tmp_path, "vit", dim=8, heads=2),
    ]  # fmt: skip
    seen = set()
    for i in range(rounds):
        chosen = rng.choice(["architecture", None])

        def change(plan, part=chosen):
            return plan | {part: mutated(plan[part], rng)} if part else mutated(plan, rng)

        try:
            forged = forge(whole[i % 4], change)
        except (TypeError, AttributeError, UnicodeEncodeError):  # the forger's own mistake
            continue
        seen.add(outcome(forged))
    assert seen == {"loaded", "refused"}
    assert not evil.exists()


@pytest.mark.parametrize("rounds", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_forged_tensors_are_loaded_or_refused_in_one_line(rounds, tmp_path):
    """Other shapes, types and names, with digests that agree."""
    from bayesprune.architectures.saved.plan import digest_of

    rng = random.Random(2)
    path = bundle_of(tmp_path, "resnet", width=4)
    tensors = safetensors.load_file(path)
    kinds = [torch.float16, torch.int64, torch.bool, torch.complex64, torch.uint8, torch.float64, torch.bfloat16]
    for _ in range(rounds):
        name = rng.choice(sorted(tensors))
        shape = [rng.randrange(4) for _ in range(rng.randrange(5))]
        changed = torch.zeros(shape, dtype=rng.choice(kinds))
        target = rng.choice([name, name, f"{name}.x", "", "..", "stem.source", "head", "__class__.weight"])
        forged = {n: t for n, t in tensors.items() if n != name} | {target: changed}

        def change(plan, target=target, name=name, changed=changed):
            stored = {n: s for n, s in plan["tensors"].items() if n != name}
            about = {"shape": list(changed.shape), "dense": rng.choice([None, list(changed.shape)]), "frozen": False}
            plan["tensors"] = stored | {target: about | {"sha256": digest_of(changed)}}

        again = forge(path, change)
        with_plan = safetensors.load_file(again)
        del with_plan
        import forgery

        metadata = {"bayesprune": forgery.canonical(forgery.plan_of(again))}
        safetensors.save_file({n: t.contiguous().clone() for n, t in forged.items()}, again, metadata)
        outcome(again)
