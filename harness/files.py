"""Paths that people give, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from filelock import FileLock

from harness.errors import RunError, UsageError

CONTENTS = ".immunebench"
"""File in an output folder: its owner, e.g. `suite quick`, and below it the names of the files that were written."""
_LONGEST = 220
"""Longest file name in bytes; file systems allow 255, and plots add a suffix."""


def expanded(path: str) -> str:
    """The path `path` that a person gave, with the home folder for `~`; raises `UsageError` if it is unknown."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise UsageError(f"{path}: there is no such home folder; write ./{path} for a file of this name") from None


def user_path(path: str | Path, folder: Path = Path()) -> Path:
    """The path `path` that a person gave, see `expanded`; a relative path is relative to `folder`."""
    return folder / expanded(str(path))


def write_text(path: Path, text: str) -> None:
    """Write `text` to the file `path` in UTF-8, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to the file `path`; if that fails, an older file stays as it was."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def check_folder(folder: Path) -> Path:
    """Create the folder `folder`, if it does not exist, and return it; raises `UsageError` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"cannot write to the folder {folder}: {error.strerror}") from None
    except ValueError as error:  # a letter that the locale's file names lack, or a null character
        raise UsageError(f"cannot write to the folder {folder}: {error}") from None
    return folder


def check_file(path: Path) -> Path:
    """Create the folder of the file `path`, and return `path`; raises `UsageError` if the file cannot be written."""
    if path.is_dir() or not path.name:
        raise UsageError(f"cannot write {path}: it is a folder; name a file")
    check_folder(path.parent)
    return path


def check_name(name: str) -> None:
    """Raise `UsageError` if no file can be called `name`, because it is too long or the locale lacks its letters."""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        raise UsageError(f"the locale cannot encode the file name {name}: set LC_ALL to a locale of UTF-8") from None
    if size > _LONGEST:
        raise UsageError(f"the file name {name[:40]}… is too long: shorten the labels of grids, tasks and rows")


def contents(folder: Path) -> tuple[str | None, set[str]]:
    """The owner of the output folder `folder`, and the names of the files that were written for it; None and no names
    for any other folder."""
    try:
        owner, *names = (folder / CONTENTS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None, set()
    return owner, {name for name in names if (folder / name).parent.resolve().is_relative_to(folder.resolve())}


def record(folder: Path, owner: str, names: Collection[str]) -> None:
    """Record in `folder` its owner and the names of its files, for `contents`."""
    write_text(folder / CONTENTS, "".join(f"{line}\n" for line in (owner, *names)))


def claim(folder: Path, owner: str, names: Collection[str] | None = None) -> Path:
    """Check that `replacing` may write into the folder `folder`, which is created, and return it.

    owner: what the files belong to. names: names of the files, as far as they are known; None: unknown. Raises
    `UsageError` if the folder cannot be written, belongs to another owner, or has a file of such a name (for None: any
    file) that was not written by `replacing`.
    """
    check_folder(folder)
    other, written = contents(folder)
    if other not in (None, owner):
        raise UsageError(f"{folder} holds the files of {other}: choose another folder, or delete this one")
    if names is None:
        found = sorted(os.listdir(folder)) if other is None else []
        names = [name for name in found if not name.startswith(CONTENTS)]
    for name in names:
        path = folder / name
        if (name not in written and os.path.lexists(path)) or path.is_dir():
            raise UsageError(f"{folder} has a file {name} of another origin: choose another folder, or move this file")
    return folder


@contextlib.contextmanager
def replacing(folder: Path, owner: str, keep: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder. If the block ends without an error, its files replace those that were written into
    `folder` for the same `owner` before, except the names `keep`; files of another origin stay.

    Raises `RunError` if the files cannot be written; before the block has ended, this leaves `folder` as it was.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            written = contents(folder)[1]
            with swapped(folder, written.difference(keep)) as new:
                yield new
                names = sorted({*_files(new), *written.intersection(keep)})
                record(new, owner, names)
    except OSError as error:
        raise RunError(
            f"cannot write to the folder {folder}: {error.strerror}; its files are the earlier ones: free some space "
            "and run the same command again"
        ) from None


@contextlib.contextmanager
def swapped(folder: Path, old: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder. If the block ends without an error, its files replace the files `old` in `folder`."""
    new = folder / f"{CONTENTS}.new"
    shutil.rmtree(new, ignore_errors=True)  # left by a killed process
    new.mkdir(parents=True)
    try:
        yield new
        names = _files(new)
        for name in set(old) - set(names):
            (folder / name).unlink(missing_ok=True)
            for parent in Path(name).parents[:-1]:
                with contextlib.suppress(OSError):  # it has other files
                    (folder / parent).rmdir()
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).replace(folder / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    """The files below `folder`, relative to it, the file `CONTENTS` first."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    return [path.as_posix() for path in sorted(paths, key=lambda path: (path.name != CONTENTS, path))]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder."""
    lock = FileLock(folder / f"{CONTENTS}.lock")
    with lock:
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
