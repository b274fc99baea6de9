"""Names: static listings equal what is really registered, plug-ins, placeholders, options."""

import subprocess
import sys
from typing import Literal

import pytest
from bayesprune.architectures import registry as architectures
from bayesprune.datasets import registry as datasets
from bayesprune.datasets.errors import PluginError, UsageError
from bayesprune.datasets.registry import BUILT_IN, Registry
from bayesprune.methods import registry as methods

PLUGIN = """
from bayesprune import MAP, Pruner, register

@register("{name}")
def build(strength: float = 2.0):
    '''Keeps what is {name}.

    And more.
    '''
    return Pruner(MAP, lambda state: state.units.gather(state.weights()))
"""


def plugin(folder, name, stem=None):
    path = folder / f"{stem or name}.py"
    path.write_text(PLUGIN.format(name=name))
    return path


@pytest.mark.parametrize("registry", [methods, architectures, datasets], ids=lambda r: r.kind)
def test_the_listing_read_from_source_is_what_importing_registers(registry):
    listed = registry._source_entries()
    assert listed
    for entry in listed.values():
        registry._loaded(entry)
    builders = {n: b for n, b in registry._builders.items() if b.__module__.startswith("bayesprune.")}
    assert set(listed) == set(builders)
    for name, entry in listed.items():
        assert entry.summary == builders[name].__doc__.strip().splitlines()[0]
        assert entry.summary.endswith("."), f"{name}: a summary is a sentence"


def test_a_plugin_is_listed_with_its_summary_options_and_origin(tmp_path):
    path = plugin(tmp_path, "mine")
    methods.load_plugin(path)
    entry = methods.catalogue()["mine"]
    assert entry.summary == "Keeps what is mine."
    assert entry.options == {"strength": "float = 2.0"}
    assert entry.origin == str(path)
    del methods._builders["mine"]
    elsewhere = plugin(tmp_path, "mine", "moved")
    methods.load_plugin(elsewhere)
    assert methods.catalogue()["mine"].origin == str(elsewhere)
    assert methods.catalogue()["magnitude"].origin == BUILT_IN
    assert methods.source_digest("mine")
    assert methods.source_digest("magnitude") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", "line 1: SyntaxError"),
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        (PLUGIN.format(name="magnitude"), "'magnitude' is taken by bayesprune.methods.magnitude"),
        (PLUGIN.format(name="a name?"), "may hold only letters"),
    ],
)
def test_a_plugin_that_fails_is_named_and_changes_nothing(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    before = dict(methods._builders)
    with pytest.raises(PluginError, match=message):
        methods.load_plugin(tmp_path / "bad.py")
    assert methods._builders == before
    methods.load_plugin(plugin(tmp_path, "good"))  # others still work
    assert "good" in methods.catalogue()


def test_annotations_for_type_checkers_only_do_no_harm(tmp_path):
    text = PLUGIN.format(name="typed").replace(
        "strength: float = 2.0)", "strength: float = 2.0, x: Absent = 1) -> Absent"
    )
    (tmp_path / "typed.py").write_text("from __future__ import annotations\n" + text)
    methods.load_plugin(tmp_path / "typed.py")
    assert methods.options("typed", {"strength": "3", "x": "anything"}) == {"strength": 3.0, "x": "anything"}


def test_two_plugins_cannot_share_a_name_and_one_loads_once(tmp_path):
    first = methods.load_plugin(plugin(tmp_path, "mine"))
    assert methods.load_plugin(tmp_path / "mine.py") is first
    with pytest.raises(PluginError, match="'mine' is taken"):
        methods.load_plugin(plugin(tmp_path, "mine", "other"))
    with pytest.raises(PluginError, match="not a file"):
        methods.load_plugin(tmp_path / "absent.py")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(PluginError, match=r"must end in \.py"):
        methods.load_plugin(tmp_path / "notes.txt")


def test_installed_plugins_are_found_and_a_broken_one_is_only_a_warning(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text(PLUGIN.format(name="theirs"))
    (package / "bad.py").write_text("1 / 0\n")
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bayesprune.pruners]\ngood = their_package.good\nbad = their_package.bad\n")
    monkeypatch.syspath_prepend(tmp_path)
    fresh = Registry("method", "bayesprune.methods", entry_points="bayesprune.pruners")
    monkeypatch.setattr("bayesprune.methods.pruner.register", fresh.register)
    try:
        assert fresh.catalogue()["theirs"].summary == "Keeps what is theirs."
        (warning,) = fresh.load_entry_points()
        assert "bad" in warning
        assert "ZeroDivisionError" in warning
    finally:
        for name in ("their_package", "their_package.good"):
            sys.modules.pop(name, None)


class Toy(Registry):
    """A registry without a package on disk."""

    def _source_entries(self):
        return {}


@pytest.fixture
def toy():
    registry = Toy("toy", __name__)

    @registry.register("plain")
    def plain(size: int = 3, kind: Literal["a", "b"] = "a", *, rate: float = 0.5, needed: tuple[int, ...] = ()):
        """Plain."""
        return size, kind, rate, needed

    @registry.register("zoo/<animal>")
    def animal(context, /, animal: str, legs: int):
        """Any animal."""
        return context, animal, legs

    @registry.register("<module>:<function>")
    def own(*, module: str, function: str):
        """Anything."""
        return module, function

    return registry


def test_placeholders_reach_the_builder_and_the_longest_prefix_wins(toy):
    assert toy.build("zoo/sea/horse", "here", legs=0) == ("here", "sea/horse", 0)
    assert toy.build("a.b:c") == ("a.b", "c")
    assert toy.option_names("zoo/cat") == ("legs",)
    with pytest.raises(UsageError, match="needs the option 'legs'"):
        toy.options("zoo/cat", {})


def test_options_come_back_typed_and_without_defaults(toy):
    assert toy.options("plain", {"size": "7", "rate": "1e-3", "needed": [1, 2]}) == {
        "size": 7, "rate": 1e-3, "needed": (1, 2)}  # fmt: skip
    assert toy.options("plain", {"size": 3, "kind": "a"}) == {}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("plane", {}, "unknown toy 'plane'; did you mean 'plain'"),
        ("xyz", {}, "unknown toy 'xyz'; known: "),
        ("plain", {"sise": 1}, "unknown option of toy 'plain' 'sise'; did you mean 'size'"),
        ("plain", {"size": "many"}, "size='many' is not valid: input should be a valid integer"),
        ("plain", {"kind": "c"}, "kind='c' is not valid: input should be 'a' or 'b'"),
        ("zoo/cat", {"animal": "dog", "legs": 4}, "unknown option"),
    ],
)
def test_mistakes_name_the_value_and_the_nearest_spelling(toy, name, given, message):
    with pytest.raises(UsageError, match=message):
        toy.options(name, given)


def test_a_listing_spells_out_choices_also_inside_of_unions(tmp_path, monkeypatch):
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "goods.py").write_text(
        'Size = Literal["small", "large"]\nNoise = float | Literal["fitted"]\nReader = int | str\n'
        '@register("cup")\n'
        "def cup(size: Size = 'small', lid: Size | None = None, *, noise: Noise = 'fitted', by: Reader = 1):\n"
        '    """A cup."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry("ware", "shop").catalogue()["cup"].options == {
        "size": "Literal['small', 'large'] = 'small'",
        "lid": "Literal['small', 'large'] | None = None",
        "noise": "float | Literal['fitted'] = 'fitted'",
        "by": "Reader = 1",
    }


@pytest.mark.parametrize("first", ["import bayesprune.methods.opd", "import bayesprune.methods.bmr", "pass"])
def test_a_plug_in_that_fails_takes_no_shipped_method_with_it(first, tmp_path):
    """In a fresh process, in which the plug-in is the first to import the shipped ones."""
    (tmp_path / "broken.py").write_text(f"{first}\n1 / 0\n")
    script = (
        "from bayesprune.methods import registry\n"
        "try: registry.load_plugin('broken.py')\n"
        "except Exception as error: print(error)\n"
        "print(all(registry.build(name) for name in ('opd', 'bmr', 'magnitude', 'spam-opd')))\n"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "ZeroDivisionError" in said.stdout
    assert said.stdout.strip().endswith("True")
