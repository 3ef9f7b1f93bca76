"""Artifacts on disk, by content key.

`<root>/artifacts/<key[:2]>/<key>/` holds an artifact's files and `manifest.json` with their SHA-256 digests. An
artifact is written to a temporary folder and renamed, so a kill at any moment leaves it whole or absent. What is
read is checked; a damaged artifact is set aside under `<root>/damaged/` and counts as absent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs

from harness.errors import RunError, UsageError

MANIFEST = "manifest.json"
LEDGER = "ledger.jsonl"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def default_root() -> Path:
    """`$IMMUNEBENCH_STORE`, else the user's cache folder."""
    return Path(os.environ.get("IMMUNEBENCH_STORE") or platformdirs.user_cache_dir("immunebench"))


class StoreError(RunError):
    """The store cannot be written: nothing more can be kept, so the run stops."""


class Store:
    """A folder of artifacts. Raises `UsageError` at once if it cannot be written."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root else default_root()
        self._artifacts = self.root / "artifacts"
        self._checked: set[str] = set()
        try:
            for folder in (self._artifacts, self.root / "tmp"):
                folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root / "tmp").close()
        except OSError as error:
            raise UsageError(
                f"cannot write to the store {self.root}: {error.strerror}; set IMMUNEBENCH_STORE to a folder you own"
            ) from None

    def folder(self, key: str) -> Path:
        """Where the artifact of `key` lies, or would lie."""
        return self._artifacts / key[:2] / key

    def has(self, key: str) -> bool:
        """Whether an artifact is there; its files are checked only when it is opened."""
        return (self.folder(key) / MANIFEST).is_file()

    def open(self, key: str) -> Path | None:
        """The artifact's folder with its digests checked (once a process), or None; damage is set aside."""
        folder = self.folder(key)
        if not self.has(key):
            return None
        if key not in self._checked:
            if not _intact(folder, key):
                aside = self.root / "damaged" / f"{key}-{time.time_ns()}"
                aside.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(aside)
                return None
            self._checked.add(key)
        return folder

    def manifest(self, key: str) -> dict[str, Any]:
        """What is recorded of an artifact: its job's identity, seconds, digests."""
        return json.loads((self.folder(key) / MANIFEST).read_text())

    @contextlib.contextmanager
    def writing(self, key: str, about: dict[str, Any]) -> Iterator[Path]:
        """A temporary folder that becomes the artifact of `key` when the block ends without an error.

        If another process was faster its artifact stays: both hold the same content.
        """
        temporary = None
        try:
            temporary = Path(tempfile.mkdtemp(dir=self.root / "tmp", prefix=key[:12] + "-"))
            began = time.perf_counter()
            yield temporary
            seconds = time.perf_counter() - began
            files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
            digests = {path.relative_to(temporary).as_posix(): file_digest(path) for path in files}
            manifest = {"key": key, "seconds": seconds, "files": digests, **about}
            (temporary / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1))
            folder = self.folder(key)
            folder.parent.mkdir(exist_ok=True)
            try:
                temporary.rename(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            self._checked.add(key)
            self._note({"seconds": seconds, **about})
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise StoreError(
                    f"cannot write to the store {self.root}: {error.strerror}; "
                    "what is finished is kept: make room and run the same command again"
                ) from None
            raise
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def discard(self, key: str) -> None:
        """Forget an artifact that nothing more will be made of; it can be computed again."""
        self._checked.discard(key)
        doomed = self.root / "tmp" / f"discard-{key[:12]}-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            # Renamed first, so that nobody ever sees half an artifact.
            self.folder(key).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def ledger(self) -> list[dict[str, Any]]:
        """What earlier jobs cost: one entry a job, with `track`, `stage`, `plugin` and `seconds`."""
        try:
            lines = (self.root / LEDGER).read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # a line cut by a kill
                entries.append(json.loads(line))
        return entries

    def _note(self, entry: dict[str, Any]) -> None:
        line = {name: entry.get(name) for name in ("track", "stage", "plugin", "seconds")}
        with (self.root / LEDGER).open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _intact(folder: Path, key: str) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return manifest["key"] == key and all(
            file_digest(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
