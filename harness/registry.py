"""Finding plugins and suites: by entry points (`immunebench.defenses`, `immunebench.attackers`, `immunebench.metrics`,
`immunebench.tracks`, `immunebench.suites`) and in files.

Describing them imports none of their modules, so that listing needs no torch.
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
from harness.plugin import KINDS, Plugin, PluginSpec, Track, import_plugin
from harness.source import module_path, parse, read_class


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
        path = Path(self.file) if self.file else module_path(self.module)
        return {"track": "", **read_class(path, self.attribute)}

    def load(self) -> Any:
        """The class, imported."""
        loaded = getattr(import_plugin(self.module, self.file), self.attribute)
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
            source=plugin.source(),
            module=self.module,
            attribute=self.attribute,
            file=self.file,
            deterministic=cls.deterministic,
            control=getattr(cls, "control", False),
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
            for path in sorted(module_path(point.value).parent.glob("*.yaml")):
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
        for node in parse(path).body:
            if isinstance(node, ast.ClassDef):
                about = read_class(path, node.name)
                of_a_track = about.get("kind") in KINDS and "track" in about
                if (of_a_track or about.get("kind") == "track") and not node.name.startswith("_"):
                    found = True
                    name = about.get("name") or snake_case(node.name)
                    self._add(Entry(about["kind"], name, module, node.name, f"{path}:{node.name}", str(path)))
        if not found:
            raise UsageError(
                f"plugin file {path} holds no defense, attacker or metric (a subclass of its track's base) and no track"
            )

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
        track: Track = self.get("track", name, where).load()()
        return track


def named(what: str) -> list[Entry]:
    """The plugins of a file `….py`, or those that are installed under a name; raises `UsageError`."""
    if what.endswith(".py"):
        file = Path(what).resolve()
        return [of for kind in KINDS for of in Catalogue([file]).all(kind) if of.file == str(file)]
    catalogue = Catalogue()
    found = [of for kind in KINDS for of in catalogue.all(kind) if of.name == what]
    if not found:
        names = [of.name for kind in KINDS for of in catalogue.all(kind)]
        raise UsageError(f"no plugin is called '{what}', and it is no file ….py; {nearest(what, names)}")
    return found


def configured(kind: str, name: str, settings: Mapping[str, Any], preset: str | None = None) -> PluginSpec:
    """A built-in or installed plugin with settings of its own, for another one that runs it (see `Plugin.uses`);
    raises `UsageError`."""
    return Catalogue().get(kind, name).spec(settings, f"{kind} '{name}'", preset)


def snake_case(name: str) -> str:
    """A class's name as people type it: GradientDescent → gradient_descent, LBFGS → lbfgs."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
