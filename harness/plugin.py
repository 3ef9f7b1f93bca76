"""Plugins: frozen, keyword-only, validated dataclasses whose one method is a generator.

A plugin's fields are its hyper-parameters and its repr is the call that makes it. Its generator yields the
current loss once per optimisation step; the harness pulls (see `meter`). Plugins are found by entry points
(`immunebench.defenses`, `immunebench.attackers`, `immunebench.tracks`, `immunebench.suites`) or read from files,
and described (`Entry.about`) without importing their modules, so that listing them needs no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from harness.errors import UsageError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan import Job
    from harness.suite import Grid

KINDS = ("defense", "attacker")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
class Plugin:
    """Base of defenses and attackers; a subclass's annotated attributes become validated fields."""

    kind: ClassVar[str]
    track: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings, e.g. a paper's for one data set; a suite row asks for one by `preset:`."""
    deterministic: ClassVar[bool] = False
    """Draws no random numbers, so one seed stands for all."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        validated_dataclass(frozen=True, kw_only=True, config=config)(cls)
        validate = cls.__init__

        @functools.wraps(validate)
        def keyword_only(self: Plugin, **settings: Any) -> None:  # pydantic forgets kw_only where Field() is used
            validate(self, **settings)

        cls.__init__ = keyword_only  # type: ignore[method-assign,assignment]

    @classmethod
    def source_digest(cls) -> str:
        """SHA-256 of the source files of the class and of its ancestors outside the harness, which versions
        its own code by stage instead."""
        digest = hashlib.sha256()
        for ancestor in cls.__mro__[:-1]:
            if ancestor.__module__.split(".")[0] != "harness":
                digest.update(Path(inspect.getfile(ancestor)).read_bytes().replace(b"\r\n", b"\n"))
        return digest.hexdigest()


class Defense(Plugin):
    """Makes an immunized model of a base model before its release."""

    kind: ClassVar[str] = "defense"

    def immunize(self, model: Any, targets: Any) -> Iterator[Any]:
        """Change `model` in place so that the harmful targets cannot be learned; yield the loss at each step
        (once, for a closed form) and return when done."""
        raise NotImplementedError


class Attacker(Plugin):
    """Adapts (fine-tunes) a released model to a task. It proposes; the harness measures and judges."""

    kind: ClassVar[str] = "attacker"

    def adapt(self, model: Any, data: Any) -> Iterator[Any]:
        """Change `model` in place, yielding the loss at each step, for ever: the harness decides when to stop."""
        raise NotImplementedError


class Metric(BaseModel):
    """What a figure is: its name as in records, the papers' spelling, unit, direction and meaning."""

    name: str
    title: str
    unit: str = ""
    better: str = Field("", description="what a defender wants: higher, lower or nothing")
    scale: str = Field("linear", description="the scale on which figures are averaged: linear or log")
    description: str


class Track(ABC):
    """A kind of model and attack. The engine knows a track only by this face."""

    name: ClassVar[str]
    task_model: ClassVar[type[BaseModel]]
    """One entry of a grid's `tasks`; `expand()` gives the single tasks it stands for."""
    protocol_model: ClassVar[type[BaseModel]]
    """A grid's `protocol`: budget, measuring steps, metrics' settings."""
    metrics: ClassVar[Sequence[Metric]]

    @abstractmethod
    def measurements(self, grid: Grid) -> Iterator[tuple[dict[str, Any], Job]]:
        """The grid's cells as coordinates (`task`, `defense`, `attacker`, `seed`) and the job that measures them.
        A measuring job leaves `records.json` (see `records`)."""

    @abstractmethod
    def carry_out(self, job: Job, parents: Mapping[str, Path], out: Path) -> None:
        """Compute `job` from its parents' artifact folders into the folder `out`: a pure function of the job."""

    @abstractmethod
    def table(self, board: pd.DataFrame) -> pd.DataFrame:
        """The wide, readable table of a long-form board."""

    def figures(self, records: pd.DataFrame, out: Path) -> list[Path]:
        """Draw the pictures that stand beside the table into `out`; their paths."""
        return []


@dataclasses.dataclass(frozen=True)
class PluginSpec:
    """A plugin with its settings, as plain data that can be hashed and sent to a worker."""

    kind: str
    name: str
    params: Mapping[str, Any]
    source: str
    module: str
    attribute: str
    file: str | None = None
    deterministic: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """What enters a job's key: not where the source lies, but what it says."""
        return {"kind": self.kind, "name": self.name, "params": dict(self.params), "source": self.source}

    def build(self) -> Any:
        """The plugin object; importing its module where need be."""
        return getattr(_import(self.module, self.file), self.attribute)(**self.params)

    def __repr__(self) -> str:
        return repr(self.build())


@dataclasses.dataclass(frozen=True)
class Entry:
    """A plugin that was found but not yet imported."""

    kind: str
    name: str
    module: str
    attribute: str
    origin: str
    file: str | None = None

    @functools.cached_property
    def about(self) -> dict[str, str]:
        """`track`, `summary` and `doc`, read from the source without importing it."""
        path = Path(self.file) if self.file else _module_path(self.module)
        return {"track": "", **_read_class(path, self.attribute)}

    def load(self) -> Any:
        """The class, imported."""
        loaded = getattr(_import(self.module, self.file), self.attribute)
        base = Track if self.kind == "track" else Plugin
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise UsageError(f"{self.origin} is registered as {self.kind} '{self.name}' but is no {base.__name__}")
        return loaded

    def spec(self, params: Mapping[str, Any], where: str, preset: str | None = None) -> PluginSpec:
        """Settings checked against the plugin's fields and completed by its defaults (or a preset's)."""
        cls = self.load()
        if preset is not None and preset not in cls.presets:
            raise UsageError(f"{where}: {self.name} has no preset '{preset}'; {nearest(preset, list(cls.presets))}")
        params = {**(cls.presets[preset] if preset else {}), **params}
        names = [field.name for field in dataclasses.fields(cls)]
        for name in params:
            if name not in names:
                raise UsageError(f"{where}: {self.kind} '{self.name}' has no field '{name}'; {nearest(name, names)}")
        adapter: TypeAdapter[Any] = TypeAdapter(cls)
        try:
            plugin = adapter.validate_python(params)
        except ValidationError as error:
            raise UsageError(f"{where}: {describe(error)}") from None
        return PluginSpec(
            kind=self.kind,
            name=self.name,
            params=adapter.dump_python(plugin, mode="json"),
            source=cls.source_digest(),
            module=self.module,
            attribute=self.attribute,
            file=self.file,
            deterministic=cls.deterministic,
        )


class Catalogue:
    """Every plugin and suite that can be found: by entry point, and in the plugin files given."""

    def __init__(self, files: Sequence[str | Path] = ()) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in (*KINDS, "track", "suite")}
        for kind in (*KINDS, "track"):
            for point in importlib.metadata.entry_points(group=f"immunebench.{kind}s"):
                module, _, attribute = point.value.partition(":")
                origin = f"{point.value} (package {point.dist.name if point.dist else '?'})"
                self._add(Entry(kind, point.name, module, attribute, origin))
        for point in importlib.metadata.entry_points(group="immunebench.suites"):
            for path in sorted(_module_path(point.value).parent.glob("*.yaml")):
                self._add(Entry("suite", path.stem, point.value, "", str(path), str(path)))
        for file in files:
            self._add_file(Path(file))

    def _add(self, entry: Entry) -> None:
        other = self._entries[entry.kind].setdefault(entry.name, entry)
        if other.origin != entry.origin:
            raise UsageError(
                f"two {entry.kind}s are called '{entry.name}': {other.origin} and {entry.origin}; rename one"
            )

    def _add_file(self, path: Path) -> None:
        if not path.is_file():
            raise UsageError(f"plugin file {path} does not exist")
        # The digest makes the name unique, so two files of one name cannot shadow each other.
        path = path.resolve()
        module = f"immunebench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        found = False
        for node in _parse(path).body:
            if isinstance(node, ast.ClassDef):
                about = _read_class(path, node.name)
                if about.get("kind") in KINDS and "track" in about:
                    found = True
                    name = about.get("name") or snake_case(node.name)
                    self._add(Entry(about["kind"], name, module, node.name, f"{path}:{node.name}", str(path)))
        if not found:
            raise UsageError(f"plugin file {path} holds no defense or attacker (a subclass of a track's base)")

    def all(self, kind: str) -> list[Entry]:
        """The entries of one kind, by name."""
        return [self._entries[kind][name] for name in sorted(self._entries[kind])]

    def get(self, kind: str, name: str, where: str = "") -> Entry:
        """One entry; an unknown name is a `UsageError` that tells the nearest ones."""
        try:
            return self._entries[kind][name]
        except KeyError:
            hint = nearest(name, list(self._entries[kind]))
            raise UsageError(f"{where}{': ' if where else ''}unknown {kind} '{name}'; {hint}") from None

    def track(self, name: str, where: str = "") -> Track:
        """The track of that name."""
        return self.get("track", name, where).load()()


def snake_case(name: str) -> str:
    """A class's name as people type it: GradientDescent → gradient_descent, LBFGS → lbfgs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def describe(error: ValidationError) -> str:
    """A pydantic error as one line."""
    return "; ".join(
        ".".join(str(part) for part in item["loc"]) + f": {item['msg']} (got {item['input']!r:.80})"
        for item in error.errors()
    )


def _import(module: str, file: str | None) -> ModuleType:
    if module in sys.modules:
        return sys.modules[module]
    try:
        if file is None:
            return importlib.import_module(module)
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None
        assert spec.loader is not None
        loaded = sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[module]
            raise
        return loaded
    except Exception as error:
        raise UsageError(f"cannot import plugin {file or module}: {type(error).__name__}: {error}") from error


@functools.cache
def _module_path(module: str) -> Path:
    """Where a module's source lies, found without importing it or its parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for depth in range(len(rest)):
        if spec is None:
            break
        spec = PathFinder.find_spec(".".join([top, *rest[: depth + 1]]), spec.submodule_search_locations)
    if spec is None or spec.origin is None:
        raise UsageError(f"module {module} is registered as a plugin but cannot be found; reinstall its package")
    return Path(spec.origin)


def _imported_path(path: Path, statement: ast.ImportFrom) -> Path:
    """Where the module that `statement`, in the file `path`, imports from has its source."""
    assert statement.module is not None
    if not statement.level:
        return _module_path(statement.module)
    base = path.parents[statement.level - 1].joinpath(*statement.module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read plugin file {path}: {error}") from None


def _read_class(path: Path, name: str) -> dict[str, str]:
    """`doc`, `summary` and the string class attributes (`kind`, `track`, `name`) that a class has or inherits,
    followed through its bases' imports by reading their sources only."""
    tree = _parse(path)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None:
        # Follow the import that brings the name here; a lazy package says it in the stub beside it.
        stub = path.with_suffix(".pyi")
        for statement in ast.walk(_parse(stub) if stub.is_file() else tree):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return _read_class(_imported_path(path, statement), alias.name)
        return {}
    found: dict[str, str] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found = {**_read_class(path, base.id), **found}
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=key), value=ast.Constant(value=str(value))):
                found[key] = value
            case ast.Assign(targets=[ast.Name(id=key)], value=ast.Constant(value=str(value))):
                found[key] = value
    found["doc"] = ast.get_docstring(node) or ""
    found["summary"] = found["doc"].partition("\n")[0]
    return found
