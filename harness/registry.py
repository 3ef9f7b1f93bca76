"""Finds plugins, tracks and suites: by entry points (`immunebench.defenses`, `immunebench.attackers`,
`immunebench.metrics`, `immunebench.tracks`, `immunebench.suites`) and in plugin files.

Describing them imports none of their modules, so listing needs no torch.
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

from harness.errors import UsageError, describe, nearest
from harness.importing import import_plugin
from harness.plugin import KINDS, Plugin, PluginSpec
from harness.source import module_path, parse, read_class
from harness.track import Track


@dataclasses.dataclass(frozen=True)
class Entry:
    """A plugin, track or suite that was found but not imported.

    module, attribute: the class. origin: where it was found, for people. package: the installed package with its
    version; None for a plugin file. file: path of a plugin file or suite file.
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
        """`track`, `summary` and `doc`, read from the source."""
        path = Path(self.file) if self.file else module_path(self.module)
        return {"track": "", **read_class(path, self.attribute)}

    def load(self) -> Any:
        """The class, imported; raises `UsageError` if it is not of its kind."""
        loaded = getattr(import_plugin(self.module, self.file), self.attribute)
        base = Track if self.kind == "track" else Plugin
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise UsageError(f"{self.origin} is registered as {self.kind} '{self.name}' but is no {base.__name__}")
        return loaded

    def spec(self, params: Mapping[str, Any], where: str, preset: str | None = None) -> PluginSpec:
        """The plugin with settings: `params` over a preset's over the defaults, all checked against its fields.

        where: the place to name in an error. Raises `UsageError` for an unknown preset or field or a wrong value.
        """
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
        except ValidationError as error:
            raise UsageError(f"{where}: {describe(error)}") from None
        settings = {name: getattr(plugin, name) for name in names}
        defaults = {name: info.get_default(call_default_factory=True) for name, info in cls.__pydantic_fields__.items()}
        changed = [f"{name}={value!r}" for name, value in settings.items() if value != defaults.get(name)]
        return PluginSpec(
            kind=self.kind,
            name=self.name,
            params=adapter.dump_python(plugin, mode="json"),
            source=plugin.source(),
            call=f"{cls.__name__}({', '.join(changed)})",
            deterministic=cls.deterministic,
            control=getattr(cls, "control", False),
            measures=getattr(cls, "measures", None),
            package=self.package,
            module=self.module,
            attribute=self.attribute,
            file=self.file,
        )


@functools.cache
def installed() -> Registry:
    """The registry of everything installed; a process reads the entry points once."""
    return Registry()


class Registry:
    """Plugins, tracks and suites by kind and name: those installed and those in plugin `files`."""

    def __init__(self, files: Sequence[str | Path] = ()) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in (*KINDS, "track", "suite")}
        for kind in (*KINDS, "track"):
            for point in importlib.metadata.entry_points(group=f"immunebench.{kind}s"):
                module, _, attribute = point.value.partition(":")
                package = f"{point.dist.name} {point.dist.version}" if point.dist else None
                origin = f"{point.value} (package {point.dist.name if point.dist else '?'})"
                self._add(Entry(kind, point.name, module, attribute, origin, package))
        for point in importlib.metadata.entry_points(group="immunebench.suites"):
            for path in sorted(module_path(point.value).parent.glob("*.yaml")):
                self._add(Entry("suite", path.stem, point.value, "", str(path), file=str(path)))
        for file in files:
            self._add_file(Path(file))

    def with_files(self, files: Sequence[str | Path]) -> Registry:
        """This registry and the plugins in `files`; raises `UsageError` for a file without plugins."""
        if not files:
            return self
        wider = object.__new__(Registry)
        wider._entries = {kind: dict(entries) for kind, entries in self._entries.items()}
        for file in files:
            wider._add_file(Path(file))
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
        """The entries of one kind, by name."""
        return [self._entries[kind][name] for name in sorted(self._entries[kind])]

    def get(self, kind: str, name: str, where: str = "") -> Entry:
        """One entry; raises `UsageError` with the nearest names for an unknown one. where: named in the error."""
        try:
            return self._entries[kind][name]
        except KeyError:
            hint = nearest(name, list(self._entries[kind]))
            raise UsageError(f"{where}{': ' if where else ''}unknown {kind} '{name}'; {hint}") from None

    def track(self, name: str, where: str = "") -> Track:
        """The track of that name; raises `UsageError`. where: named in the error."""
        track: Track = self.get("track", name, where).load()()
        return track


def named(what: str) -> list[Entry]:
    """The plugins in a file `….py`, or those installed under a name; raises `UsageError` if there are none."""
    registry = installed()
    if what.endswith(".py"):
        file = Path(what).resolve()
        registry = registry.with_files([file])
        return [entry for kind in KINDS for entry in registry.all(kind) if entry.file == str(file)]
    entries = [entry for kind in KINDS for entry in registry.all(kind)]
    named = [entry for entry in entries if entry.name == what]
    if not named:
        names = [entry.name for entry in entries]
        raise UsageError(f"no plugin is called '{what}', and it is no file ….py; {nearest(what, names)}")
    return named


def configured(kind: str, name: str, settings: Mapping[str, Any], preset: str | None = None) -> PluginSpec:
    """An installed plugin with settings, for another plugin that runs it (see `Plugin.uses`); raises `UsageError`."""
    return installed().get(kind, name).spec(settings, f"{kind} '{name}'", preset)


def snake_case(name: str) -> str:
    """A class's name as people type it: GradientDescent → gradient_descent, LBFGS → lbfgs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
