"""Finds plugins, tracks and suites by entry points (`immunebench.defenses`, `immunebench.attackers`,
`immunebench.metrics`, `immunebench.tracks`, `immunebench.suites`) and in plugin files. A package of suites may have
ensembles of attackers in folders, `red_team/1.yaml`.

Entries are described from their source without importing it, so `immunebench list` needs no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.errors import ImmuneBenchError, UsageError, describe, nearest
from harness.files import user_path
from harness.importing import import_plugin
from harness.interrupts import contained
from harness.plugin import KINDS, Plugin, PluginSpec
from harness.source import advice, module_path, parse, read_class
from harness.track import Track


@dataclasses.dataclass(frozen=True)
class Entry:
    """A plugin, track, suite or ensemble that was found but not imported.

    kind: defense, attacker, metric, track, suite or ensemble. name: what people type. module, attribute: full name of
    the module and name of the class. origin: where it was found, for messages. package: the installed package with its
    version; None for a plugin file. file: path of a plugin, suite or ensemble file.
    """

    kind: str
    name: str
    module: str
    attribute: str
    origin: str
    package: str | None = None
    file: str | None = None

    @functools.cached_property
    def about(self) -> dict[str, str]:
        """Track, first line of the docstring (`summary`) and docstring (`doc`), read from the source."""
        return {"track": "", **read_class(self._path, self.attribute)}

    def mentions(self, word: str) -> bool:
        """Whether the source of its module has `word`, in any case."""
        return word.lower().encode() in self._path.read_bytes().lower()

    @property
    def _path(self) -> Path:
        return Path(self.file) if self.file else module_path(self.module)

    def load(self) -> Any:
        """Import and return the class; raises `UsageError` if the import fails or the class is not of its kind."""
        loaded = getattr(import_plugin(self.module, self.file), self.attribute)
        base = Track if self.kind == "track" else Plugin
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise UsageError(f"{self.origin} is registered as {self.kind} '{self.name}' but is no {base.__name__}")
        return loaded

    def spec(self, params: Mapping[str, Any], where: str, preset: str | None = None) -> PluginSpec:
        """The plugin with settings: the defaults, overridden by a preset, overridden by `params`.

        params: values by field name. where: place to name in an error. preset: name of one of the plugin's presets.
        Raises `UsageError` for an unknown preset or field or a wrong value, and if the plugin's own code fails.
        """
        try:
            with contained():
                return self._spec(params, where, preset)
        except UsageError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, ImmuneBenchError) else f"{type(error).__name__}: {error}"
            raise UsageError(f"{where}: the plugin cannot be created: {reason}") from error

    def _spec(self, params: Mapping[str, Any], where: str, preset: str | None) -> PluginSpec:
        cls = self.load()
        if preset is not None and preset not in cls.presets:
            raise UsageError(f"{where}: {self.name} has no preset '{preset}'; {nearest(preset, list(cls.presets))}")
        params = {**(cls.presets[preset] if preset else {}), **params}
        fields = dataclasses.fields(cls)
        names = [field.name for field in fields]
        for name in params:
            if name not in names:
                raise UsageError(f"{where}: {self.kind} '{self.name}' has no field '{name}'; {nearest(name, names)}")
        adapter: TypeAdapter[Any] = TypeAdapter(cls)
        try:
            plugin = adapter.validate_python(params)
            written = adapter.dump_python(plugin, mode="json")
            same = adapter.validate_python(written) == plugin
        except ValidationError as error:
            raise UsageError(f"{where}: {describe(error)}") from None
        if not same:
            raise UsageError(
                f"{where}: {cls.__name__} built from its own settings {written} is another plugin; each field must be "
                "in them, and __post_init__ must leave what it has set"
            )
        settings = {name: getattr(plugin, name) for name in names}
        defaults = {name: info.get_default(call_default_factory=True) for name, info in cls.__pydantic_fields__.items()}
        changed = [f"{name}={value!r}" for name, value in settings.items() if value != defaults.get(name)]
        return PluginSpec(
            kind=self.kind,
            name=self.name,
            params=written,
            source=plugin.source(),
            call=f"{cls.__name__}({', '.join(changed)})",
            deterministic=cls.deterministic,
            control=getattr(cls, "control", False),
            measures=getattr(cls, "measures", None),
            compared=getattr(cls, "compared", True),
            package=self.package,
            module=self.module,
            attribute=self.attribute,
            file=self.file,
        )


@functools.cache
def installed() -> Registry:
    """The registry of all that is installed; a process reads the entry points once."""
    return Registry()


class Registry:
    """Plugins, tracks, suites and ensembles by kind and name: all that are installed, and those in the plugin files
    `files`."""

    def __init__(self, files: Sequence[str | Path] = ()) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in (*KINDS, "track", "suite", "ensemble")}
        for kind in (*KINDS, "track"):
            for point in importlib.metadata.entry_points(group=f"immunebench.{kind}s"):
                module, _, attribute = point.value.partition(":")
                package = f"{point.dist.name} {point.dist.version}" if point.dist else None
                origin = f"{point.value} (package {point.dist.name if point.dist else '?'})"
                self._add(Entry(kind, point.name, module, attribute, origin, package))
        for point in importlib.metadata.entry_points(group="immunebench.suites"):
            folder = module_path(point.value).parent
            shipped = {path: ("suite", path.stem) for path in folder.glob("*.yaml")}
            shipped |= {path: ("ensemble", f"{path.parent.name} {path.stem}") for path in folder.glob("*/[0-9]*.yaml")}
            if not shipped:
                raise UsageError(f"{folder} has no suites, though {point.value} is registered; {advice(point.value)}")
            for path, (kind, name) in sorted(shipped.items()):
                self._add(Entry(kind, name, point.value, "", str(path), file=str(path)))
        for file in files:
            self._add_file(Path(file))

    def with_files(self, files: Sequence[str | Path]) -> Registry:
        """A registry that has the plugins in `files` too; raises `UsageError` for a file without plugins."""
        if not files:
            return self
        wider = object.__new__(Registry)
        wider._entries = {kind: dict(entries) for kind, entries in self._entries.items()}
        for file in files:
            wider._add_file(user_path(file))
        return wider

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
        plugins = 0
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef):
                about = read_class(path, node.name)
                is_plugin = about.get("kind") in KINDS and "track" in about
                if (is_plugin or about.get("kind") == "track") and not node.name.startswith("_"):
                    plugins += 1
                    name = about.get("name") or snake_case(node.name)
                    origin = f"{path}:{node.name}"
                    self._add(Entry(about["kind"], name, module, node.name, origin, file=str(path)))
        if not plugins:
            raise UsageError(
                f"plugin file {path} holds no defense, attacker or metric (a subclass of its track's base) and no track"
            )

    def all(self, kind: str) -> list[Entry]:
        """The entries of the kind `kind`, ordered by name."""
        return [self._entries[kind][name] for name in sorted(self._entries[kind])]

    def get(self, kind: str, name: str, where: str = "") -> Entry:
        """The entry of kind `kind` and name `name`; raises `UsageError` with the nearest names for an unknown name.
        where: place to name in the error."""
        try:
            return self._entries[kind][name]
        except KeyError:
            hint = nearest(name, list(self._entries[kind]))
            raise UsageError(f"{where}{': ' if where else ''}unknown {kind} '{name}'; {hint}") from None

    def track(self, name: str, where: str = "") -> Track:
        """The track `name`; raises `UsageError` if there is none. where: place to name in the error."""
        track: Track = self.get("track", name, where).load()()
        return track


def shipped(folder: str, name: str) -> Path:
    """The file `folder`/`name`.yaml of an installed package of suites; raises `UsageError` with the nearest names if
    there is none."""
    packages = {Path(str(entry.file)).parent for entry in installed().all("suite")}
    files = {path.stem: path for package in sorted(packages) for path in sorted((package / folder).glob("*.yaml"))}
    if name not in files:
        raise UsageError(f"no installed suite has {folder} called '{name}'; {nearest(name, list(files))}")
    return files[name]


def named(name_or_file: str) -> list[Entry]:
    """The plugins in a file `….py`, or those installed under a name; raises `UsageError` if there are none."""
    registry = installed()
    if name_or_file.endswith(".py"):
        file = user_path(name_or_file).resolve()
        registry = registry.with_files([file])
        return [entry for kind in KINDS for entry in registry.all(kind) if entry.file == str(file)]
    entries = [entry for kind in KINDS for entry in registry.all(kind)]
    named = [entry for entry in entries if entry.name == name_or_file]
    if not named:
        names = [entry.name for entry in entries]
        hint = nearest(name_or_file, names)
        raise UsageError(f"no plugin is called '{name_or_file}', and it is no file ….py; {hint}")
    return named


def configured(kind: str, name: str, settings: Mapping[str, Any], preset: str | None = None) -> PluginSpec:
    """An installed plugin with settings, for another plugin that runs it (see `Plugin.uses`).

    kind: defense, attacker or metric. name: its name. settings: values by field name. preset: name of one of its
    presets, which `settings` override. Raises `UsageError` for an unknown name, preset or field or a wrong value.
    """
    return installed().get(kind, name).spec(settings, f"{kind} '{name}'", preset)


def snake_case(name: str) -> str:
    """The class name `name` in snake case: GradientDescent → gradient_descent, LBFGS → lbfgs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
