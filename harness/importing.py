"""Imports the modules of plugins so that the code that runs is the code that their digests cover."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from harness import source
from harness.errors import UsageError

_imported: dict[str, tuple[int, int]] = {}
"""By name of a module that a plugin's digest covers: modification time and size of its file when it was imported."""
_START = time.time_ns()


def file_spec(module: str, file: str) -> ModuleSpec:
    """The import spec of the plugin file `file` under the name `module`.

    The plugin can import modules in its folder by relative names (`from .helpers import f`) and by absolute names; for
    these the folder is appended to `sys.path`.
    """
    folder = str(Path(file).parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(module, file, submodule_search_locations=[folder])
    assert spec is not None
    return spec


def import_plugin(module: str, file: str | None) -> ModuleType:
    """Import a plugin's module in the present state of its source.

    module: full name of the module. file: plugin file to import it from (see `file_spec`); None: it is installed.
    Raises `UsageError` if the import fails.
    """
    try:
        if module.partition(".")[0] == "harness":  # a track or a built-in metric
            return importlib.import_module(module)
        spec = source.find_module(module) if file is None else file_spec(module, file)
        if spec is None:
            raise ModuleNotFoundError(f"No module named '{module}'")
        _forget_edited(source.closure(spec))
        if file is None or module in sys.modules:
            return importlib.import_module(module)
        assert spec.loader is not None
        loaded = sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[module]
            raise
        return loaded
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot import plugin {file or module}: {type(error).__name__}: {error}") from error


def _forget_edited(covered: Mapping[str, Path]) -> None:
    """If a file of `covered` (by module) was edited after its import, remove all plugin modules imported so far from
    `sys.modules`, because any of them may refer to the old code; so the next import of each runs the new code."""
    versions = {name: (path.stat().st_mtime_ns, path.stat().st_size) for name, path in covered.items()}

    def edited(name: str) -> bool:
        if name in _imported:
            return _imported[name] != versions[name]
        return versions[name][0] > _START  # other code imported it, at an unknown time

    if any(name in sys.modules and edited(name) for name in covered):
        for name in {*_imported, *covered}:
            old = sys.modules.pop(name, None)
            if cached := getattr(old, "__cached__", None):  # Python compares its time with the source's in seconds only
                with contextlib.suppress(OSError):
                    Path(cached).unlink(missing_ok=True)
        _imported.clear()
        importlib.invalidate_caches()
    _imported.update(versions)
