"""What a class says of itself and does, read from its source without importing it."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Set
from importlib.machinery import PathFinder
from pathlib import Path

from harness.errors import UsageError


@functools.cache
def module_path(module: str) -> Path:
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
        return module_path(statement.module)
    base = path.parents[statement.level - 1].joinpath(*statement.module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache
def parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read plugin file {path}: {error}") from None


def read_class(path: Path, name: str) -> dict[str, str]:
    """`doc`, `summary` and the string class attributes (`kind`, `track`, `name`) that a class has or inherits,
    followed through its bases' imports by reading their sources only; nothing of one without a source in Python."""
    if path.suffix != ".py":
        return {}
    tree = parse(path)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None:
        # Follow the import that brings the name here; a lazy package says it in the stub beside it.
        stub = path.with_suffix(".pyi")
        for statement in ast.walk(parse(stub) if stub.is_file() else tree):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    if (alias.asname or alias.name) == name:
                        return read_class(_imported_path(path, statement), alias.name)
        return {}
    found: dict[str, str] = {}
    for base in node.bases:
        match base:
            case ast.Name(id=name):
                found = {**read_class(path, name), **found}
            case ast.Attribute(value=ast.Name(id=module), attr=name):  # the base of a module imported as a whole
                found = {**_read_attribute(path, module, name), **found}
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
    """`read_class` of `module.name` as the file `path` says it after `import module`."""
    for statement in parse(path).body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if (alias.asname or alias.name) == module:
                    return read_class(module_path(alias.name), name)
    return {}


def undocumented(path: Path, without: Set[str] = frozenset()) -> str:
    """The text of a source file less its docstrings, its blank lines, and the class attributes named in `without`:
    what must be the same for it to do the same."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    dropped: set[int] = set()

    def drop(node: ast.stmt) -> None:
        end = node.end_lineno or node.lineno
        around = lines[node.lineno - 1].encode()[: node.col_offset] + lines[end - 1].encode()[node.end_col_offset :]
        if not around.strip():  # it has its lines to itself
            dropped.update(range(node.lineno, end + 1))

    for node in ast.walk(ast.parse(text)):
        match node:
            case (
                ast.Module(body=[ast.Expr(value=ast.Constant(value=str())) as doc, *_])
                | ast.ClassDef(body=[ast.Expr(value=ast.Constant(value=str())) as doc, *_])
                | ast.FunctionDef(body=[ast.Expr(value=ast.Constant(value=str())) as doc, *_])
            ):
                drop(doc)
        for statement in node.body if isinstance(node, ast.ClassDef) else []:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    if name in without:
                        drop(statement)
    return "".join(f"{line}\n" for i, line in enumerate(lines, 1) if i not in dropped and line.strip())
