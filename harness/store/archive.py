"""Archives: artifacts in an uncompressed tar file, to copy them from one store to another.

An archive contains `<key>/manifest.json` and the files that each manifest names, and nothing else. Import only archives
from people whom you trust: digests reveal damage, but not a forged value.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.files import check_file
from harness.store.store import MANIFEST, Store, intact, read_manifest

_NAME = re.compile(r"[0-9a-f]{64}(/\w[\w.-]*)+\.(json|png|safetensors|txt)")
"""Allowed paths of files: inside the artifact's folder, with suffixes that no program runs or unpickles."""


def export(store: Store, keys: Iterable[str], path: Path) -> list[str]:
    """Write artifacts of `store` into the archive `path`.

    keys: keys of the artifacts; those that the store lacks are left out. Returns the keys written. Raises `UsageError`
    if the file cannot be written; an older file then stays as it was.
    """
    written = []
    check_file(path)
    new = path.with_name(path.name + ".part")
    try:
        with tarfile.open(new, "w") as archive:
            for key in keys:
                folder = store.open(key)
                if folder is not None:
                    for name in (MANIFEST, *store.manifest(key)["files"]):
                        archive.add(folder / name, f"{key}/{name}")
                    written.append(key)
        new.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
    return written


def import_(store: Store, path: Path) -> tuple[list[str], list[str]]:
    """Copy the artifacts of the archive `path` into `store`.

    Each artifact is checked before it is added; artifacts before a faulty one stay in the store. Returns the keys of
    new artifacts and of those that the store already had. Raises `UsageError` for a file that is no archive, contains
    anything other than artifacts, or is damaged.
    """
    new: list[str] = []
    known: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for key, members in _by_artifact(archive, path):
                with store.receive(key) as folder:
                    (known if folder is None else new).append(key)
                    if folder is not None:
                        _unpack(archive, members, folder)
                        if not intact(folder, key) or len(members) != len(read_manifest(folder)["files"]) + 1:
                            raise UsageError(
                                f"{path}: artifact {key[:12]} is damaged or incomplete; copy the file again"
                            )
    except (tarfile.TarError, OSError) as error:
        raise UsageError(f"cannot read {path} as an uncompressed tar file of artifacts: {error}") from None
    return new, known


def _by_artifact(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    """The archive's members by artifact, in order; raises `UsageError` for any other member."""
    key, members = "", list[tarfile.TarInfo]()
    for member in archive:
        if not member.isreg() or member.issparse() or not _NAME.fullmatch(member.name):
            raise UsageError(f"{path}: {member.name[:80]!r} is no file of an artifact; nothing after it was imported")
        folder = member.name.partition("/")[0]
        if folder != key:
            if members:
                yield key, members
            key, members = folder, []
        members.append(member)
    if members:
        yield key, members


def _unpack(archive: tarfile.TarFile, members: Iterable[tarfile.TarInfo], folder: Path) -> None:
    for member in members:
        source, target = archive.extractfile(member), folder / member.name.partition("/")[2]
        assert source is not None
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(source, file)
