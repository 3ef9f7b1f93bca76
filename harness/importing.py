"""Imports the modules of plugins so that the code that runs is the code that their digests cover.

A covered module runs from its source, never from bytecode: Python takes a file for unchanged if its size and its
modification time in seconds are. The version of a module's file is noted when it runs. If it differs from the present
version, the next import of the plugin runs the new code.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from harness import source
from harness.errors import ImmuneBenchError, UsageError
from harness.interrupts import contained
from harness.versions import Version, version

_ran: dict[str, Version] = {}
"""By name of a module that a digest covers: the version of its file that this process ran."""
_covered: set[str] = set()
"""Names of all modules that the digest of a plugin in this process covers."""
_covered_by: dict[str, frozenset[str]] = {}
"""By name of a plugin's module: names of the modules that its digest covered when it was imported."""
_begun: list[str] = []
"""Names of the plugins' modules whose first import is in progress."""
_originals: list[dict[tuple[Any, str], Any]] = []
"""For each import of a plugin in progress: what the modules of the harness held before it (see `definitions`)."""


class _NotesVersion:
    """A loader that notes the version of the file that it runs."""

    path: str

    def exec_module(self, module: ModuleType) -> None:
        _ran[module.__name__] = version(Path(self.path))
        super().exec_module(module)  # type: ignore[misc]  # a mixin of loaders


class _Source(_NotesVersion, SourceFileLoader):  # type: ignore[misc]  # typeshed's bases of loaders differ
    def get_code(self, fullname: str) -> CodeType:
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True)


class _Sourceless(_NotesVersion, SourcelessFileLoader):
    pass


class _Extension(_NotesVersion, ExtensionFileLoader):
    pass


class _Own(SourceFileLoader):
    """A loader of a module of the harness that a plugin is the first to import."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for originals in _originals:
            originals |= _definitions_in(module)


_LOADERS: Mapping[Any, Callable[[str, str], Loader]] = {
    SourceFileLoader: _Source,
    SourcelessFileLoader: _Sourceless,
    ExtensionFileLoader: _Extension,
}
_OWN_LOADERS: Mapping[Any, Callable[[str, str], Loader]] = {SourceFileLoader: _Own}


class _Finder(MetaPathFinder):
    """Gives covered modules a loader that notes versions, and those of the harness one that notes what they hold."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _covered and not (_originals and _is_own(fullname)):
            return None
        loaders = _LOADERS if fullname in _covered else _OWN_LOADERS
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                if loader := loaders.get(type(spec.loader)):
                    spec.loader = loader(fullname, str(spec.origin))
                return spec
        return None


sys.meta_path.insert(0, _Finder())


def file_spec(module: str, file: str) -> ModuleSpec:
    """The import spec of the plugin file `file` under the name `module`.

    The plugin can import modules in its folder by relative names (`from .helpers import f`) and by absolute names; for
    these the folder is appended to `sys.path`.
    """
    folder = str(Path(file).parent)
    if folder not in sys.path:
        sys.path.append(folder)
    loader = _Source(module, file)
    spec = importlib.util.spec_from_file_location(module, file, loader=loader, submodule_search_locations=[folder])
    assert spec is not None
    return spec


def import_plugin(module: str, file: str | None, alone: bool = False) -> ModuleType:
    """Import a plugin's module in the present state of its source.

    module: full name of the module. file: plugin file to import it from (see `file_spec`); None: it is installed.
    alone: this process ends with the plugin, which may then replace functions of the harness.
    Raises `UsageError` if the import fails, or if a compiled module has changed since this process imported it.
    """
    try:
        with contained():
            return _import(module, file, alone)
    except UsageError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, ImmuneBenchError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot import plugin {file or module}: {reason}") from error


def _import(module: str, file: str | None, alone: bool) -> ModuleType:
    if _is_own(module):  # a track or a built-in metric
        return importlib.import_module(module)
    spec = source.find_module(module) if file is None else file_spec(module, file)
    if spec is None:
        raise ModuleNotFoundError(f"No module named '{module}'")
    _forget_edited(module, source.closure(spec))
    if module in sys.modules:
        return importlib.import_module(module)
    if alone:
        return _first_import(module, file, spec)
    _originals.append(definitions())
    try:
        loaded = _first_import(module, file, spec)
    finally:
        replaced = restore_definitions(_originals.pop())
    if replaced:
        sys.modules.pop(module, None)
        raise UsageError(
            f"plugin {file or module} replaces {replaced[0]} when it is imported: leave the harness as it is"
        )
    return loaded


def _first_import(module: str, file: str | None, spec: ModuleSpec) -> ModuleType:
    if file is None:
        return importlib.import_module(module)
    assert spec.loader is not None
    loaded = sys.modules[module] = importlib.util.module_from_spec(spec)
    _begun.append(module)
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        sys.modules.pop(module, None)
        raise
    finally:
        _begun.pop()
    return loaded


def refuse_within(call: str) -> None:
    """Raise `UsageError` if a plugin file makes the call `call` while it is imported, as a script does that gives its
    own class as a plugin."""
    if _begun:
        file = sys.modules[_begun[-1]].__file__
        raise UsageError(
            f"{file} calls {call} whenever it is imported, also by workers: put the call below "
            '`if __name__ == "__main__":`'
        )


def _is_own(module: str) -> bool:
    """Whether the module of this name belongs to the harness."""
    return module.partition(".")[0] == "harness"


def definitions() -> dict[tuple[Any, str], Any]:
    """All that the modules of the harness and their classes hold, by the module or class and by name."""
    found: dict[tuple[Any, str], Any] = {}
    for name, module in list(sys.modules.items()):
        if _is_own(name):
            found |= _definitions_in(module)
    return found


def _definitions_in(module: ModuleType) -> dict[tuple[Any, str], Any]:
    found: dict[tuple[Any, str], Any] = {}
    for name, value in list(vars(module).items()):
        found[module, name] = value
        if isinstance(value, type) and value.__module__ == module.__name__:
            members = list(vars(value).items())
            found |= {(value, key): one for key, one in members if not key.startswith("__pydantic")}
    return found


def restore_definitions(before: Mapping[tuple[Any, str], Any]) -> list[str]:
    """Restore the definitions `before` where plugin code has replaced them; returns their names."""
    replaced = []
    for (owner, name), value in before.items():
        held = vars(owner).get(name, before)
        submodule = isinstance(held, ModuleType) and held is sys.modules.get(f"{owner.__name__}.{name}")
        if held is not value and not submodule:
            setattr(owner, name, value)
            place = f"{owner.__module__}.{owner.__name__}" if isinstance(owner, type) else owner.__name__
            replaced.append(f"{place}.{name}")
    return replaced


def _forget_edited(plugin: str, covered: Mapping[str, Path]) -> None:
    """If this process ran another version of a file, or the plugin imports other modules than when it was imported,
    remove all plugin modules imported so far from `sys.modules`, because any of them may refer to the old code; so the
    next import of each runs the new code.

    plugin: name of the plugin's module. covered: the modules that its digest covers, by name.
    """
    present = {name: version(path) for name, path in covered.items() if name in sys.modules}
    edited = [name for name, now in present.items() if _ran.get(name, now) != now or _ran_unseen(name, now)]
    if edited or _covered_by.get(plugin, covered.keys()) != covered.keys():
        for name in edited:
            if isinstance(getattr(sys.modules[name].__spec__, "loader", None), ExtensionFileLoader):
                raise UsageError(
                    f"the compiled module {covered[name]} has changed, and Python cannot import one twice: start a new "
                    "process (in a notebook, restart the kernel)"
                )
        for name in {*_ran, *covered}:
            sys.modules.pop(name, None)
        _ran.clear()
        _covered_by.clear()
        importlib.invalidate_caches()
    else:
        _ran.update(present)
    _covered.update(covered)
    _covered_by[plugin] = frozenset(covered)


def _ran_unseen(name: str, now: Version) -> bool:
    """Whether other code imported the module `name`, at an unknown time, and its file has changed since this process
    began."""
    return name not in _ran and max(now.modified_ns, now.changed_ns) > _began_ns()


@functools.cache
def _began_ns() -> int:
    import psutil  # here, because `immunebench list` needs no import

    return int((psutil.Process().create_time() - 2) * 1e9)  # Linux tells it to the second
