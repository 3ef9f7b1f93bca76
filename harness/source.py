"""Reads the source of plugins without importing it, and computes the digest of a plugin's code.

The digest of a plugin covers the file of its class and every module that this file imports, directly or through
another covered module, also where the import statement is inside a function. The digest does not cover

- the standard library and `harness` with its face `immunebench`, whose code has a version number in each stage;
- installed packages, i.e. modules below a folder `site-packages` or `dist-packages`, or in another folder that pip has
  installed them in (`pip install --target`), except the plugin's own top-level package and packages that register
  plugins (so `defenses` and `attackers` are covered, for every plugin);
- imports for type checkers only (`if TYPE_CHECKING:`), and imports by a computed name (`import_module(name)`).

From a covered file the digest leaves out all that changes no result: comments, formatting, docstrings and other
statements that are only a string, descriptions of fields and quantities, and the class attributes `presets` (the
settings of a preset are in the key) and `control` of plugins. File names and folders do not count.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import UsageError
from harness.versions import Version, version

T = TypeVar("T")
UNCOVERED_ATTRIBUTES = {"presets", "control"}
UNCOVERED_KEYWORDS = {
    "Field": {"description"},
    "Quantity": {"title", "description", "formula", "variant", "limits"},
}
"""Arguments of calls that are descriptions for readers."""


_known: ContextVar[dict[tuple[str, str, str | None], Any] | None] = ContextVar("_known", default=None)
"""Within `each_once`, the results so far of the functions with `_once`."""


@contextlib.contextmanager
def each_once() -> Iterator[None]:
    """Within the block, read the code of each plugin once, so that a plan sees one state of it."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def _once(function: Callable[[ModuleSpec], T]) -> Callable[[ModuleSpec], T]:
    """Within `each_once`, the function computes its result for a plugin's module once."""

    @functools.wraps(function)
    def once(plugin: ModuleSpec) -> T:
        known = _known.get()
        if known is None:
            return function(plugin)
        place = function.__name__, plugin.name, plugin.origin
        if place not in known:
            known[place] = function(plugin)
        result: T = known[place]
        return result

    return once


def find_module(module: str) -> ModuleSpec | None:
    """The import spec of the module with the full name `module`, found without importing it or its parents; None if
    there is no such module."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is not None and spec.has_location and not Path(str(spec.origin)).exists():  # imported, and gone since then
        spec = PathFinder.find_spec(top)
    for depth in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *rest[: depth + 1]]), spec.submodule_search_locations)
    return spec


@functools.cache
def module_path(module: str) -> Path:
    """The source file of `module`, which is registered as a plugin; raises `UsageError` if it cannot be found."""
    spec = find_module(module)
    if spec is None or spec.origin is None:
        raise UsageError(f"module {module} is registered as a plugin but cannot be found; {advice(module)}")
    return Path(spec.origin)


def advice(module: str) -> str:
    """What to do where the registered `module` is not what was installed."""
    spec = find_module(module.partition(".")[0])
    places = list(spec.submodule_search_locations or []) if spec else []
    hidden = f"leave the folder whose {places[0]} hides it, or " if places and not _is_installed(places[0]) else ""
    return f"{hidden}reinstall its package"


def read_text(path: Path) -> str:
    """The text of the Python file `path`, in the encoding that it declares."""
    with tokenize.open(path) as file:
        return file.read()


def encoded(text: str) -> bytes:
    """The Python source `text` in the encoding that it declares."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(text.encode()).readline)
    return text.encode(encoding)


def parse(path: Path) -> ast.Module:
    """The syntax tree of the present content of the file `path`; raises `UsageError` if it is not valid Python."""
    return _parse(version(path))


@functools.lru_cache(1024)
def _parse(file: Version) -> ast.Module:
    try:
        return ast.parse(file.path.read_bytes())  # bytes, because a file may declare its encoding
    except SyntaxError as error:
        raise UsageError(f"cannot read plugin file {file.path}, line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise UsageError(f"cannot read plugin file {file.path}: {error}") from None


def read_class(path: Path, name: str) -> dict[str, str]:
    """Docstring (`doc`), its first line (`summary`) and the string class attributes (`kind`, `track`, `name`) that the
    class `name` in the file `path` has or inherits.

    Base classes are followed through imports by reading source files. A class without Python source gives nothing.
    """
    if path.suffix != ".py":
        return {}
    tree = parse(path)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None:
        # Follow the import of the name; a package that loads its names lazily imports them in its stub.
        stub = path.with_suffix(".pyi")
        for statement in ast.walk(parse(stub) if stub.is_file() else tree):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return read_class(_imported_path(path, statement), alias.name)
                    if alias.name == "*" and (starred := read_class(_imported_path(path, statement), name)):
                        return starred
        return {}
    found: dict[str, str] = {}
    for base in node.bases:
        match base:
            case ast.Name(id=base_name):
                found = {**read_class(path, base_name), **found}
            case ast.Attribute(value=ast.Name(id=module), attr=base_name):
                found = {**_read_attribute(path, module, base_name), **found}
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=key), value=ast.Constant(value=str(value))):
                found[key] = value
            case ast.Assign(targets=[ast.Name(id=key)], value=ast.Constant(value=str(value))):
                found[key] = value
    found["doc"] = ast.get_docstring(node) or ""
    found["summary"] = found["doc"].partition("\n")[0]
    return found


def _read_attribute(path: Path, module: str, name: str) -> dict[str, str]:
    """`read_class` of `module.name`, where the file `path` has `import module`."""
    for statement in parse(path).body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if (alias.asname or alias.name) == module:
                    return read_class(module_path(alias.name), name)
    return {}


def _imported_path(path: Path, statement: ast.ImportFrom) -> Path:
    """The source file of the module that `statement`, in the file `path`, imports from."""
    assert statement.module is not None
    if not statement.level:
        return module_path(statement.module)
    base = path.parents[statement.level - 1].joinpath(*statement.module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@_once
def digest(plugin: ModuleSpec) -> str:
    """SHA-256 of the code of a plugin and of all modules that its digest covers (see above), in hexadecimal.

    plugin: import spec of the plugin's module. Raises `UsageError` as `closure` does.
    """
    return hashlib.sha256("".join(code_digest(path) for path in closure(plugin).values()).encode()).hexdigest()


def code_digest(path: Path) -> str:
    """SHA-256 of the code in the file `path`: of its reduced syntax tree if it is Python, else of its bytes."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _code_digest(version(path))


@functools.lru_cache(1024)
def _code_digest(file: Version) -> str:
    return hashlib.sha256(ascii(_plain(_parse(file), file.path)).encode()).hexdigest()


def _plain(node: object, path: Path) -> object:
    """A syntax tree of the file `path` as nested lists, without the parts that change no result. Empty fields are left
    out, because the versions of Python differ in them."""
    match node:
        case list():
            return [_plain(item, path) for item in node if not _uncovered(item)]
        case ast.AST():
            fields = {name: value for name, value in ast.iter_fields(node) if value is not None}
            if isinstance(node, ast.ClassDef):
                fields["body"] = _covered_body(node, path)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                uncovered = UNCOVERED_KEYWORDS.get(node.func.id, set())
                fields["keywords"] = [keyword for keyword in node.keywords if keyword.arg not in uncovered]
            plain = {name: _plain(value, path) for name, value in fields.items()}
            return [type(node).__name__, [[name, value] for name, value in plain.items() if value != []]]
    return node


def _uncovered(node: object) -> bool:
    """Whether this is a statement that is only a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _covered_body(node: ast.ClassDef, path: Path) -> list[ast.stmt]:
    """The statements of a class without the uncovered attributes of a plugin; other classes may use these names for
    anything."""
    covered = [statement for statement in node.body if not _is_uncovered_attribute(statement)]
    if len(covered) < len(node.body) and "kind" in read_class(path, node.name):
        return covered
    return node.body


def _is_uncovered_attribute(statement: ast.stmt) -> bool:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name in UNCOVERED_ATTRIBUTES
    return False


@_once
def closure(plugin: ModuleSpec) -> dict[str, Path]:
    """The modules that a plugin's digest covers: their files by full name, the plugin's own first, then in the order
    of the import statements.

    plugin: import spec of the plugin's module. The spec of a plugin file is that of a package, so that the plugin can
    import modules in its folder by relative names. Raises `UsageError` for an import of a module that cannot be found,
    or that is found both in the plugin file's folder and elsewhere.
    """
    covered: dict[str, Path] = {}
    pending = [plugin, *_parents(plugin)]
    while pending:
        spec = pending.pop(0)
        if spec.name in covered or spec.origin is None:  # a folder without __init__.py holds no code
            continue
        path = covered[spec.name] = Path(spec.origin)
        if path.suffix == ".py":
            stub = path.with_suffix(".pyi")  # of a package that loads its names lazily
            for file in (path, stub) if stub.is_file() else (path,):
                for statement in _imports(version(file)):
                    pending += _imported(statement, file, spec, plugin)
    return covered


def libraries(files: Iterable[Path]) -> set[str]:
    """The modules that the plugin's Python `files` import by absolute names and cannot do without."""
    parsed = [_imports(version(path)) for path in files if path.suffix == ".py"]
    return {one.module for imports in parsed for one in imports if one.required and one.module and not one.level}


def _parents(plugin: ModuleSpec) -> list[ModuleSpec]:
    """The packages that are imported before the plugin's module is."""
    packages = [] if plugin.name.startswith("harness.") else plugin.name.split(".")[:-1]
    specs = [find_module(".".join(packages[: depth + 1])) for depth in range(len(packages))]
    return [spec for spec in specs if spec is not None]


@dataclass(frozen=True)
class _Import:
    """A module named by an import statement. required: False if the file works without the module (an import in `try`),
    or if the name may belong to something other than a module."""

    line: int
    level: int
    module: str
    required: bool


@functools.lru_cache(1024)
def _imports(file: Version) -> list[_Import]:
    """The imports of a file, in order."""
    return list(_walk(_parse(file), required=file.path.suffix == ".py"))


def _walk(node: ast.AST, required: bool) -> Iterator[_Import]:
    match node:
        case ast.Import():
            yield from (_Import(node.lineno, 0, alias.name, required) for alias in node.names)
        case ast.ImportFrom():
            base = node.module or ""
            yield _Import(node.lineno, node.level, base, required)
            names = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
            yield from (_Import(node.lineno, node.level, name, False) for name in names)
        case ast.If() if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.orelse:
                yield from _walk(statement, required)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _walk(child, required and not isinstance(node, ast.Try))


def _imported(statement: _Import, file: Path, importer: ModuleSpec, plugin: ModuleSpec) -> Iterator[ModuleSpec]:
    """The covered modules that an import names: a module and the packages that contain it. importer: spec of the module
    that contains the statement."""
    where = f"{file}, line {statement.line}"
    package = importer.parent or ""
    try:
        name = importlib.util.resolve_name("." * statement.level + statement.module, package)
    except ImportError:
        raise UsageError(f"{where}: a relative import goes beyond the top-level package '{package}'") from None
    top, *rest = name.split(".")
    if top in ("harness", "immunebench") or top in sys.stdlib_module_names:
        return
    for depth in range(len(rest) + 1):
        module = ".".join([top, *rest[:depth]])
        spec = plugin if module == plugin.name else _find(module, plugin)
        if spec is None:
            if statement.required:
                raise UsageError(
                    f"{where}: module '{module}' cannot be found; install it, or put it into the folder of the file"
                )
            return
        if depth == 0 and not _is_covered(spec, plugin):
            return
        if depth == 0 and (other := _beside(plugin, top)) and not other.samefile(spec.origin or other):
            raise UsageError(f"{where}: two modules are called '{top}': {spec.origin} and {other}; rename one")
        yield spec


def _find(module: str, plugin: ModuleSpec) -> ModuleSpec | None:
    """As `find_module`, but also finds modules in the folder of a plugin file by names below the plugin's module."""
    if module.startswith(f"{plugin.name}.") and plugin.submodule_search_locations is not None:
        parent, _, _ = module.rpartition(".")
        spec = plugin if parent == plugin.name else _find(parent, plugin)
        if spec is None or spec.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(module, spec.submodule_search_locations)
    return find_module(module)


def _is_covered(spec: ModuleSpec, plugin: ModuleSpec) -> bool:
    """Whether a digest covers the top-level module `spec`."""
    if spec.name in {plugin.name.partition(".")[0], *plugin_packages()}:
        return True
    return not _is_installed(spec.origin or next(iter(spec.submodule_search_locations or ()), ""))


@functools.cache
def _is_installed(path: str) -> bool:
    """Whether the file or folder of a top-level module is part of an installed package."""
    file = Path(path)
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    place = file.parent if file.stem == "__init__" else file
    records = place.parent.glob("*.dist-info/RECORD")
    own = f"{place.stem}/", f"{place.stem}."
    lines = (line for record in records for line in record.read_text(encoding="utf-8").splitlines())
    return place.name != "" and any(line.startswith(own) for line in lines)


@functools.cache
def plugin_packages() -> frozenset[str]:
    """The top-level packages that register plugins."""
    groups = [f"immunebench.{kind}s" for kind in ("defense", "attacker", "metric", "track")]
    points = [point for group in groups for point in importlib.metadata.entry_points(group=group)]
    return frozenset(point.module.partition(".")[0] for point in points)


def _beside(plugin: ModuleSpec, top: str) -> Path | None:
    """The file of the module `top` in the folder of a plugin file; None if there is none, or the plugin is
    installed."""
    if "." in plugin.name or plugin.submodule_search_locations is None or top == plugin.name:
        return None
    spec = PathFinder.find_spec(top, plugin.submodule_search_locations)
    return Path(spec.origin) if spec and spec.origin else None
