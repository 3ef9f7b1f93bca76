"""The sources in a submission: plugin files, with the helper modules that they import."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.files import write_bytes
from harness.importing import file_spec
from harness.source import closure, encoded, plugin_packages, read_text
from harness.submission.schema import PluginFile


def gather(files: Sequence[Path]) -> list[PluginFile]:
    """The texts of the plugin files `files` and of their helper modules."""
    return [
        PluginFile(
            name=file.name,
            text=read_text(file),
            modules={name: read_text(path) for name, path in helper_modules(file).items()},
        )
        for file in files
    ]


def helper_modules(file: Path) -> dict[str, Path]:
    """The helper modules of the plugin file `file`: modules that its digest covers (see `harness.source`), by path
    relative to its folder, without those of packages that register plugins."""
    plugin = file_spec(file.stem, str(file))
    helpers: dict[str, Path] = {}
    for module, path in closure(plugin).items():
        name = module.removeprefix(f"{plugin.name}.")
        if module != plugin.name and name.partition(".")[0] not in plugin_packages():
            helpers[name.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else path.suffix)] = path
    return dict(sorted(helpers.items()))


@contextlib.contextmanager
def importable(sources: Sequence[PluginFile], folder: Path) -> Iterator[list[Path]]:
    """Write `sources` into `folder` and make their helper modules importable within the block, also in worker
    processes. Yields the plugin files."""
    files, before = [], list(sys.path)
    for number, source in enumerate(sources):
        inner = folder / str(number)
        for name, text in {**source.modules, source.name: source.text}.items():
            path = inner / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, encoded(text))
        files.append(inner / source.name)
        sys.path.insert(0, str(inner))
    try:
        yield files
    finally:
        sys.path[:] = before
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]
