"""Names: how data sets, architectures and methods are found, listed and built, with errors that help.

A registry lists what its package holds by reading the source of the package's modules, not by importing
them, so that `bayesprune list` and `--help` never load torch. A name with a placeholder, `"timm/<model>"`,
stands for a family: the placeholder reaches the builder as a keyword argument.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import PluginError, UsageError, one_line, unknown
from .former_names import allow_former_names
from .plain import as_plain
from .seal import sealed

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Entry:
    """One registered name, as a listing shows it.

    `text` and `module_text` are the docstrings of the builder and of its module, from which `described` reads.
    """

    name: str
    summary: str
    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    origin: str = BUILT_IN
    revision: int = 1
    text: str = ""
    module_text: str = ""


class Registry:
    """Builders by name.

    `kind` is the word that error messages use; `package` the package whose modules hold the built-in
    builders; `entry_points` the entry-point group through which installed packages add theirs.
    """

    def __init__(self, kind: str, package: str, entry_points: str | None = None):
        self.kind, self.package, self.entry_points = kind, package, entry_points
        self._builders: dict[str, Callable[..., Any]] = {}
        self._origins: dict[str, str] = {}
        self._revisions: dict[str, int] = {}
        self._plugin_digests: dict[str, str] = {}
        self._loading: str | None = None

    def register(self, name: str, *, revision: int = 1) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated builder under `name`.

        Raise the `revision` with every change that moves results beyond rounding: it is part of their identity.
        Raises UsageError if another builder holds the name, and for a revision that is no whole number from 1 on.
        """
        if not re.fullmatch(r"[\w./:<>+-]+", name):
            raise UsageError(f"{self.kind} name {name!r} may hold only letters, digits and . / : + - _")
        if type(revision) is not int or revision < 1:
            raise UsageError(f"revision {revision!r} of {self.kind} {name!r} is not valid: give a whole number >= 1")

        def keep(builder: Callable[..., Any]) -> Callable[..., Any]:
            module = builder.__module__
            holder = self._builders.get(name)
            owner = (
                holder.__module__
                if holder is not None
                else self._source_entries().get(name, Entry(name, "", module)).module
            )
            if owner != module:
                raise UsageError(f"{self.kind} name {name!r} is taken by {owner}; choose another name")
            self._builders[name] = builder
            self._revisions[name] = revision
            self._origins[name] = BUILT_IN if module.startswith(self.package) else self._loading or module
            return builder

        return keep

    # ------------------------------------------------------------------ listing

    @functools.cache  # noqa: B019  (one registry per kind, alive as long as the process)
    def _source_entries(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in _read_entries(self.package)}

    def catalogue(self) -> dict[str, Entry]:
        """Every known name, sorted: built-in ones read from source, others as registered."""
        self.load_entry_points()
        entries = dict(self._source_entries())
        for name, builder in self._builders.items():
            if name not in entries:
                entries[name] = Entry(
                    name,
                    _first_line(inspect.getdoc(builder)),
                    builder.__module__,
                    {n: str(p).partition(":")[2].strip() for n, p in _option_parameters(builder).items()},
                    self._origins[name],
                    self._revisions[name],
                    inspect.getdoc(builder) or "",
                    inspect.getdoc(inspect.getmodule(builder)) or "",
                )
        return dict(sorted(entries.items()))

    # ------------------------------------------------------------------ building

    def resolve(self, name: str) -> tuple[Callable[..., Any], dict[str, str]]:
        """The builder behind `name`, and the values of the name's placeholders.

        Raises UsageError for an unknown name.
        """
        entry, placeholders = self._found(name)
        return self._loaded(entry), placeholders

    def revisions(self, name: str) -> dict[str, int]:
        """Revisions beyond the first of what `name` stands for, by registered name: also of a criterion in the name.

        Raises UsageError for an unknown name.
        """
        entry, placeholders = self._found(name)
        others = self.revisions(placeholders["criterion"]) if "criterion" in placeholders else {}
        return others | ({entry.name: entry.revision} if entry.revision != 1 else {})

    def entries(self, name: str) -> tuple[Entry, ...]:
        """What `name` stands for, without loading it: its entry, and that of a criterion in the name.

        Raises UsageError for an unknown name.
        """
        entry, placeholders = self._found(name)
        return (entry, *(self.entries(placeholders["criterion"]) if "criterion" in placeholders else ()))

    def _found(self, name: str) -> tuple[Entry, dict[str, str]]:
        catalogue = self.catalogue()
        if name in catalogue and "<" not in name:
            return catalogue[name], {}
        for entry in sorted(catalogue.values(), key=lambda e: -e.name.find("<")):
            if "<" in entry.name and (match := re.fullmatch(_pattern(entry.name), name)):
                return entry, match.groupdict()
        raise unknown(self.kind, name, catalogue)

    def options(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check `given` against the builder's signature; values come back in the annotated types.

        Raises UsageError for an unknown option and a value of the wrong kind.
        """
        from pydantic import TypeAdapter, ValidationError

        builder, placeholders = self.resolve(name)
        annotations = _annotations(builder)
        known = {n: p for n, p in _option_parameters(builder).items() if n not in placeholders}
        checked = {}
        for option, value in as_plain(given).items():
            if option not in known:
                raise unknown(f"option of {self.kind} {name!r}", option, known)
            if not _is_finite(value):
                raise UsageError(f"{self.kind} {name!r}: {option}={value!r} is not valid: give a finite number")
            try:
                checked[option] = TypeAdapter(annotations.get(option, Any)).validate_python(value)
            except ValidationError as error:
                default = known[option].default
                hint = f"give a list such as {list(default)}" if isinstance(default, tuple) and default else ""
                what = hint or error.errors()[0]["msg"].lower()
                raise UsageError(f"{self.kind} {name!r}: {option}={value!r} is not valid: {what}") from error
        missing = [n for n, p in known.items() if p.default is p.empty and n not in checked]
        if missing:
            raise UsageError(f"{self.kind} {name!r} needs the option {missing[0]!r}")
        return {n: v for n, v in checked.items() if v != known[n].default}

    def option_names(self, name: str) -> tuple[str, ...]:
        """The options that the builder of `name` takes."""
        builder, placeholders = self.resolve(name)
        return tuple(n for n in _option_parameters(builder) if n not in placeholders)

    def build(self, name: str, *context: Any, **options: Any) -> Any:
        """Build the thing called `name`; `context` fills the builder's positional-only parameters."""
        builder, placeholders = self.resolve(name)
        return builder(*context, **placeholders, **self.options(name, options))

    def source_digest(self, name: str) -> str | None:
        """SHA-256 of what the package does not ship: a plug-in's source, the user's module or data file.

        It is part of a result's identity; None for what the package ships.
        """
        builder, placeholders = self.resolve(name)
        if builder.__module__ in self._plugin_digests:
            return self._plugin_digests[builder.__module__]
        if not builder.__module__.startswith(f"{self.package}."):
            path = inspect.getsourcefile(builder)
        elif "path" in placeholders:
            path = placeholders["path"]
        elif "criterion" in placeholders:
            return self.source_digest(placeholders["criterion"])
        elif "module" in placeholders:
            path = _module_source(placeholders["module"])
        else:
            return None
        return _file_digest(Path(path).expanduser()) if path else None

    def is_of_plugin(self, name: str) -> bool:
        """Whether the builder of `name` comes from a plug-in file."""
        return self.resolve(name)[0].__module__ in self._plugin_digests

    def _loaded(self, entry: Entry) -> Callable[..., Any]:
        if entry.name not in self._builders:
            importlib.import_module(entry.module)
        return self._builders[entry.name]

    # ------------------------------------------------------------------ plug-ins

    def load_plugin(self, path: str | Path, source: bytes | None = None) -> ModuleType:
        """Import a plug-in file; raises PluginError, with the file and line, when that fails.

        `source`, if given, is what the file held when a run began: its workers all execute these bytes. A
        file that has changed since it was loaded is loaded anew.
        """
        path = Path(path).resolve()
        source = plugin_source(path) if source is None else source
        name = f"bayesprune_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        digest = hashlib.sha256(source).hexdigest()
        if name in sys.modules and self._plugin_digests.get(name) == digest:
            return sys.modules[name]
        self._builders = {n: b for n, b in self._builders.items() if b.__module__ != name}
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = str(path)
        self._import(lambda: exec(compile(source, path, "exec", dont_inherit=True), module.__dict__), name, str(path))  # noqa: S102
        self._plugin_digests[name] = digest
        return module

    def load_entry_points(self) -> list[str]:
        """Load installed plug-ins, once; returns a warning for each that could not be loaded."""
        if not hasattr(self, "_entry_point_warnings"):
            self._entry_point_warnings: list[str] = []
            points = importlib.metadata.entry_points(group=self.entry_points) if self.entry_points else ()
            for point in points:
                try:
                    self._import(point.load, point.module, f"entry point {point.name} = {point.value}")
                except PluginError as error:
                    self._entry_point_warnings.append(str(error))
        return self._entry_point_warnings

    def _import(self, load: Callable[[], Any], module: str, origin: str) -> None:
        before = dict(self._builders)
        self._loading = origin
        allow_former_names()
        try:
            with sealed():
                load()
        except (Exception, SystemExit) as error:
            # Modules of the package that it was the first to import stay imported, and their builders registered.
            own = f"{self.package}."
            self._builders = {n: b for n, b in self._builders.items() if b.__module__.startswith(own)} | before
            sys.modules.pop(module, None)
            raise PluginError(f"plug-in {origin} failed to load: {_where(error)}{one_line(error)}") from error
        finally:
            self._loading = None


def _is_finite(value: Any) -> bool:
    """Whether no number is NaN or infinite, or larger than every float; also inside lists and mappings."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


def plugin_source(path: Path) -> bytes:
    """The content of a plug-in file; raises PluginError if it is none."""
    if not path.is_file():
        raise PluginError(f"plug-in {path} is not a file")
    if path.suffix != ".py":
        raise PluginError(f"plug-in {path} is not a Python file; its name must end in .py")
    return path.read_bytes()


def _module_source(module: str) -> str | None:
    here = [str(Path.cwd()), *sys.path]
    spec = importlib.machinery.PathFinder.find_spec(module.partition(".")[0], here)
    if "." in module:
        return inspect.getsourcefile(importlib.import_module(module))
    return spec.origin if spec else None


def _file_digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: "
    frames = (
        [
            f
            for f in inspect.getinnerframes(error.__traceback__)
            if "bayesprune_plugin" in f.frame.f_globals.get("__name__", "")
        ]
        if error.__traceback__
        else []
    )
    return f"line {frames[-1].lineno}: " if frames else ""


def _pattern(name: str) -> str:
    parts = re.split(r"<(\w+)>", name)
    return "".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>.+)" for i, p in enumerate(parts))


def _modules(package: str, pattern: str) -> dict[str, ast.Module]:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    files = sorted(p for folder in folders or () for p in Path(folder).glob(pattern))
    return {path.stem: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in files}


def _read_entries(package: str) -> Iterable[Entry]:
    """The entries that the modules on top of a package hold, read from their source.

    The choices of options may be named in any wing below.
    """
    modules, wings = _modules(package, "*.py"), _modules(package, "*/*.py")
    choices = dict(pair for module in (*wings.values(), *modules.values()) for pair in _named_choices(module))
    for stem, module in modules.items():
        for node in module.body:
            if isinstance(node, ast.FunctionDef):
                for name, revision in filter(None, map(_registration, node.decorator_list)):
                    text, module_text = ast.get_docstring(node) or "", ast.get_docstring(module) or ""
                    options = _written_options(node, name, choices)
                    yield Entry(
                        name, _first_line(text), f"{package}.{stem}", options,
                        revision=revision, text=text, module_text=module_text,
                    )  # fmt: skip


def _named_choices(module: ast.Module) -> Iterable[tuple[str, ast.expr]]:
    """Assignments such as `Mode = Literal["train", "eval"]`, also as a part of a union.

    A listing shows the choices, not their name.
    """
    for node in module.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript() | ast.BinOp() as choice):
                parts = [part.value for part in ast.walk(choice) if isinstance(part, ast.Subscript)]
                if any(isinstance(part, ast.Name) and part.id == "Literal" for part in parts):
                    yield name, choice


class _Spelt(ast.NodeTransformer):
    """Puts choices in the place of their names."""

    def __init__(self, choices: Mapping[str, ast.expr]):
        self.choices = choices

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.choices.get(node.id, node)


def _registration(decorator: ast.expr) -> tuple[str, int] | None:
    """Name and revision that a decorator gives."""
    match decorator:
        case ast.Call(func=ast.Name(id="register"), args=[ast.Constant(value=str(name))], keywords=given):
            return name, next((ast.literal_eval(k.value) for k in given if k.arg == "revision"), 1)
    return None


def _written_options(node: ast.FunctionDef, name: str, choices: Mapping[str, ast.expr]) -> dict[str, str]:
    spelt = _Spelt(choices)
    placed = [*node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(placed) - len(node.args.defaults)) + [*node.args.defaults]
    pairs = [*zip(placed, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return {
        arg.arg: " = ".join(
            ast.unparse(part) for part in (arg.annotation and spelt.visit(arg.annotation), default) if part is not None
        )
        for arg, default in pairs
        if f"<{arg.arg}>" not in name
    }


def _option_parameters(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {n: p for n, p in inspect.signature(builder).parameters.items() if p.kind in kinds}


def _annotations(builder: Callable[..., Any]) -> dict[str, Any]:
    """Types of the options; an option whose annotation names what only a type checker imports takes anything."""
    return {
        name: _type(written, builder) for name, written in inspect.get_annotations(builder).items() if name != "return"
    }


def _type(written: Any, builder: Callable[..., Any]) -> Any:
    try:
        return eval(written, builder.__globals__) if isinstance(written, str) else written  # noqa: S307
    except NameError:
        return Any


def _first_line(text: str | None) -> str:
    return text.strip().splitlines()[0] if text and text.strip() else ""
