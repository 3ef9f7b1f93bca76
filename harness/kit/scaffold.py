"""Writes a new plugin from a template: what `immunebench new` does."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
import sys
from pathlib import Path

from harness.errors import UsageError, nearest
from harness.files import check_file, write_text
from harness.registry import installed

TEMPLATES = Path(__file__).parent / "templates"
"""`TRACK_KIND.py` for each track and kind of plugin, and the files of a package. `plugin_name`, `plugin-name`,
`PluginName` and `plugin_kind` in them are replaced."""


def write(kind: str, name: str, track: str, folder: Path, *, package: bool = False, attacked: bool = False) -> Path:
    """Write a working plugin into `folder`; returns the file NAME.py or, for a `package`, the folder NAME.

    kind: attacker, defense or metric. attacked: of a metric, measure the attacked model. Raises `UsageError` for a name
    that is no identifier in small letters or that a plugin or a module has, for a track without a template, and if the
    path exists or cannot be written.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"'{name}' cannot be a plugin's name: use small letters, digits and _, with a letter first")
    if attacked and kind != "metric":
        raise UsageError(f"--attacked is for metrics: a{'n' if kind[0] == 'a' else ''} {kind} has no such choice")
    template = kind if kind != "metric" else "attacked_metric" if attacked else "released_metric"
    if not (TEMPLATES / f"{track}_{template}.py").is_file():
        tracks = sorted(path.stem.removesuffix(f"_{template}") for path in TEMPLATES.glob(f"*_{template}.py"))
        raise UsageError(f"no template for a plugin of track '{track}'; {nearest(track, tracks)}")
    path = folder / (name if package else f"{name}.py")
    if path.exists():
        raise UsageError(f"{path} exists; choose another name, or move it away")
    for entry in installed().all(kind):
        if entry.name == name:
            raise UsageError(f"{entry.kind} '{name}' exists ({entry.origin}); choose another name")
    if name in {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()}:
        raise UsageError(f"a Python module is called '{name}', and a file {name}.py would hide it; choose another name")
    files = {plugin_file(path): f"{track}_{template}.py"}
    if package:
        files |= {path / "pyproject.toml": "pyproject.txt", path / "tests" / f"test_{name}.py": "test.txt"}
    for file, source in files.items():
        write_text(check_file(file), _fill((TEMPLATES / source).read_text(encoding="utf-8"), name, kind))
    return path


def _fill(text: str, name: str, kind: str) -> str:
    names = {
        "plugin_name": name,
        "plugin-name": name.replace("_", "-"),
        "PluginName": "".join(part.capitalize() for part in name.split("_")),
        "plugin_kind": kind,
    }
    for placeholder, value in names.items():
        text = text.replace(placeholder, value)
    return text


def plugin_file(path: Path) -> Path:
    """The plugin's file, given the path that `write` returned."""
    return path if path.suffix else path / f"{path.name}.py"
