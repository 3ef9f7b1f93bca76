"""The sources that a submission holds: plugin files with the helper modules that they import."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from harness.source import parse
from harness.submission.schema import PluginFile


def gather(files: Sequence[Path]) -> list[PluginFile]:
    """The texts of plugin files and of their helper modules."""
    return [
        PluginFile(
            name=file.name,
            text=file.read_text(encoding="utf-8"),
            modules={name: path.read_text(encoding="utf-8") for name, path in helper_modules(file).items()},
        )
        for file in files
    ]


def helper_modules(file: Path) -> dict[str, Path]:
    """The modules that a plugin file imports, and those that these import, by path from its folder: those that belong
    neither to the standard library nor to an installed package. Found by reading the sources only."""
    helpers: dict[str, Path] = {}
    waiting = [(file, "")]
    while waiting:
        path, package = waiting.pop()
        for module in _imports(path, package):
            for name, found, is_package in _locate(module, file.parent):
                if name not in helpers:
                    helpers[name] = found
                    waiting.append((found, module if is_package else module.rpartition(".")[0]))
    return dict(sorted(helpers.items()))


def _imports(path: Path, package: str) -> Iterator[str]:
    """Full names of what a file imports: modules, and names that may be modules. package: that it belongs to."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join(part for part in (*base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}".lstrip(".") for alias in node.names)


def _locate(module: str, folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """The source files of a module and of its parents, with their paths and whether they are packages; none if it is
    of the standard library or installed."""
    search: Sequence[str] | None = [str(folder), *sys.path]
    parts = module.split(".")
    for depth, part in enumerate(parts, 1):
        name = ".".join(parts[:depth])
        spec = None if search is None or part == "*" else PathFinder.find_spec(name, search)
        if spec is None or (depth == 1 and _is_installed(part, spec.origin)):
            return
        search = spec.submodule_search_locations
        if spec.origin is not None and spec.origin.endswith(".py"):
            suffix = ".py" if search is None else "/__init__.py"
            yield "/".join(parts[:depth]) + suffix, Path(spec.origin), search is not None


def _is_installed(top: str, origin: str | None) -> bool:
    """Whether a top-level module is of the standard library or an installed package. origin: its file."""
    if top == "harness" or top in sys.stdlib_module_names:
        return True
    if origin is not None and "site-packages" in Path(origin).parts:
        return True
    return top in _installed_modules()


@functools.cache
def _installed_modules() -> Mapping[str, Sequence[str]]:
    """The packages that provide each top-level module, installed for editing too."""
    return importlib.metadata.packages_distributions()


@contextlib.contextmanager
def importable(sources: Sequence[PluginFile], folder: Path) -> Iterator[list[Path]]:
    """Write sources into `folder`; while this lasts their helper modules can be imported, also by worker processes.
    Yields the plugin files."""
    files, before = [], list(sys.path)
    for number, source in enumerate(sources):
        inner = folder / str(number)
        for name, text in {**source.modules, source.name: source.text}.items():
            path = inner / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        files.append(inner / source.name)
        sys.path.insert(0, str(inner))
    try:
        yield files
    finally:
        sys.path[:] = before
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]
