"""Artifacts on disk, by content key.

`<root>/artifacts/<key[:2]>/<key>/` holds an artifact's files and `manifest.json` with their SHA-256 digests. An
artifact is written to a temporary folder and renamed, so a kill at any moment leaves it whole or absent. What is
read is checked; a damaged artifact is set aside under `<root>/damaged/` and counts as absent.

Several runs may share a store, also over a network file system that knows locks. `<root>/locks/` has a lock for each
job in hand, so that it is done once, and `<root>/runs/` what each run in progress needs, so that nobody takes it away.
The system frees the locks of a process that dies.
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
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from harness.errors import RunError, UsageError

FORMAT = 1
MANIFEST = "manifest.json"
LEDGER = "ledger.jsonl"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def default_root() -> Path:
    """`$IMMUNEBENCH_STORE`, else the user's cache folder."""
    return Path(os.environ.get("IMMUNEBENCH_STORE") or platformdirs.user_cache_dir("immunebench"))


class StoreError(RunError):
    """The store cannot be used: nothing more can be kept, so the run stops."""


class Busy(Exception):
    """Another process is writing this artifact now."""


class Store:
    """A folder of artifacts. Raises `UsageError` at once if it cannot be written."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or default_root()).absolute()
        self._artifacts = self.root / "artifacts"
        self._checked: set[str] = set()
        try:
            for folder in (self._artifacts, self.root / "tmp", self.root / "locks", self.root / "runs"):
                folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root / "tmp").close()
            self.identity = self._identify()
        except OSError as error:
            raise UsageError(
                f"cannot write to the store {self.root}: {error.strerror}; set IMMUNEBENCH_STORE to a folder you own"
            ) from None

    @classmethod
    def connect(cls, root: Path, identity: str) -> Store:
        """The store of this identity, as a worker sees it; raises `StoreError` if another lies there, or none."""
        try:
            found = json.loads((root / "store.json").read_text())["identity"]
        except (OSError, ValueError, KeyError):
            found = None
        if found != identity:
            raise StoreError(
                f"a worker on {os.uname().nodename} does not see the store {root} of this run: put the store where "
                "all workers reach it under the same path (IMMUNEBENCH_STORE)"
            )
        return cls(root)

    def _identify(self) -> str:
        """What is this store's alone, made once."""
        path = self.root / "store.json"
        if not path.exists():
            with self._locked("store"):
                if not path.exists():
                    new = path.with_suffix(".new")
                    new.write_text(json.dumps({"format": FORMAT, "identity": uuid.uuid4().hex}))
                    new.replace(path)
        said = json.loads(path.read_text())
        if said["format"] > FORMAT:
            raise UsageError(f"the store {self.root} has format {said['format']}; this harness knows up to {FORMAT}: "
                             "upgrade immunebench")  # fmt: skip
        return str(said["identity"])

    def folder(self, key: str) -> Path:
        """Where the artifact of `key` lies, or would lie."""
        return self._artifacts / key[:2] / key

    def keys(self) -> list[str]:
        """All artifacts, sorted."""
        return sorted(path.parent.name for path in self._artifacts.glob(f"*/*/{MANIFEST}"))

    def has(self, key: str) -> bool:
        """Whether an artifact is there; its files are checked only when it is opened."""
        return os.path.exists(f"{self._artifacts}/{key[:2]}/{key}/{MANIFEST}")

    def open(self, key: str) -> Path | None:
        """The artifact's folder with its digests checked (once a process), or None; damage is set aside."""
        folder = self.folder(key)
        if not self.has(key):
            return None
        if key not in self._checked:
            if not intact(folder, key):
                self._set_aside(key)
                return None
            with contextlib.suppress(OSError):
                os.utime(folder / MANIFEST)  # for `idle_seconds`
            self._checked.add(key)
        return folder

    def _set_aside(self, key: str) -> None:
        aside = self.root / "damaged" / f"{key}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder(key).rename(aside)

    def manifest(self, key: str) -> dict[str, Any]:
        """What is recorded of an artifact: its job's identity, seconds, digests."""
        return read_manifest(self.folder(key))

    def size(self, key: str) -> int:
        """Bytes of an artifact."""
        return _size(self.folder(key))

    def idle_seconds(self, key: str) -> float:
        """Seconds since an artifact was written, or opened by another process than its writer."""
        return time.time() - (self.folder(key) / MANIFEST).stat().st_mtime

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Say clearly that the disk is full, or may not be written."""
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise StoreError(
                f"cannot write to the store {self.root}: {error.strerror}; "
                "what is finished is kept: make room and run the same command again"
            ) from None

    @contextlib.contextmanager
    def _locked(self, key: str, wait: bool = True) -> Iterator[None]:
        """While this lasts no other process writes the artifact of `key`."""
        lock = FileLock(self.root / "locks" / key)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise Busy(key) from None
        try:
            yield
        finally:
            # Who waits for a lock that is unlinked gets it, and looks first whether the artifact is there by now.
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()

    @contextlib.contextmanager
    def receive(self, key: str, wait: bool = True) -> Iterator[Path | None]:
        """A temporary folder that becomes the artifact of `key` when the block, which leaves a manifest in it, ends
        without an error; None if meanwhile another process has made it. One process at a time is in here with one key:
        `wait` for the other, or raise `Busy`."""
        with self._room(), self._locked(key, wait):
            if self.has(key):
                yield None
                return
            self._set_aside(key)  # what has no manifest
            temporary = self.root / "tmp" / key
            shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
            temporary.mkdir()
            try:
                yield temporary
                self.folder(key).parent.mkdir(exist_ok=True)
                temporary.rename(self.folder(key))
                self._checked.add(key)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    @contextlib.contextmanager
    def write(self, key: str, about: dict[str, Any], wait: bool = True) -> Iterator[Path | None]:
        """`receiving` of what is computed here: its manifest tells the files' digests, the seconds it took, and
        `about`, with what the block adds to that."""
        with self.receive(key, wait) as out:
            began = time.perf_counter()
            yield out
            if out is not None:
                about["seconds"] = time.perf_counter() - began
                files = [path for path in sorted(out.rglob("*")) if path.is_file()]
                digests = {path.relative_to(out).as_posix(): file_digest(path) for path in files}
                text = json.dumps({"key": key, **about, "files": digests}, sort_keys=True, indent=1)
                (out / MANIFEST).write_text(text)
        if out is not None:
            said = ("track", "stage", "plugin", "call", "work", "seconds", "peak_mb")
            line = {"key": key, **{name: about.get(name) for name in said}}
            with self._room(), (self.root / LEDGER).open("a") as ledger:
                ledger.write(json.dumps(line) + "\n")

    def discard(self, key: str) -> None:
        """Forget an artifact; it can be computed again."""
        self._checked.discard(key)
        doomed = self.root / "tmp" / f"{key}-discard-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            # Renamed first, so that nobody ever sees half an artifact.
            self.folder(key).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    @contextlib.contextmanager
    def pin(self, keys: Collection[str]) -> Iterator[str]:
        """While this lasts these artifacts are needed, by a run of the name that this gives."""
        name = uuid.uuid4().hex
        with self._room(), FileLock(self.root / "runs" / f"{name}.lock"):
            try:
                (self.root / "runs" / f"{name}.json").write_text(json.dumps(sorted(keys)))
                yield name
            finally:
                self._forget(name)

    def pinned(self, besides: str | None = None) -> set[str]:
        """What runs in progress need, other than the run `but`; what a killed run has left here is cleared away."""
        found: set[str] = set()
        for record in (self.root / "runs").glob("*.json"):
            if record.stem == besides:
                continue
            try:
                with FileLock(record.with_suffix(".lock")).acquire(timeout=0):
                    self._forget(record.stem)
            except Timeout:
                with contextlib.suppress(FileNotFoundError, ValueError):
                    found.update(json.loads(record.read_text()))
        return found

    def _forget(self, run: str) -> None:
        for suffix in ("json", "lock"):
            (self.root / "runs" / f"{run}.{suffix}").unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """What is of no use to anybody: artifacts that were set aside, and what killed processes were writing."""
        found = sorted((self.root / "damaged").glob("*"))
        for path in sorted((self.root / "tmp").iterdir()):
            with contextlib.suppress(Busy), self._locked(path.name.partition("-")[0], wait=False):
                found.append(path)
        return found

    def collect(
        self, unused: float | None = None, keep: Collection[str] = (), dry_run: bool = False
    ) -> tuple[int, int]:
        """Remove what is of no use, transient artifacts, and what no process has opened for `unused` seconds, but for
        `keep` and what runs in progress need; the bytes that this frees, and of how many artifacts."""
        kept = self.pinned().union(keep)
        doomed = self.leftovers()
        sizes = [_size(path) for path in doomed]
        for key in set(self.keys()) - kept:
            with contextlib.suppress(OSError, ValueError):
                transient = self.manifest(key).get("transient", False)
                if transient or (unused is not None and self.idle_seconds(key) >= unused):
                    sizes.append(self.size(key))
                    if not dry_run:
                        self.discard(key)
        if not dry_run:
            for path in doomed:
                shutil.rmtree(path, ignore_errors=True)
            for lock in list((self.root / "locks").iterdir()):
                with contextlib.suppress(Busy), self._locked(lock.name, wait=False):
                    pass  # it goes, if nobody holds it
        return sum(sizes), len(sizes)

    def ledger(self) -> list[dict[str, Any]]:
        """What earlier jobs cost: one entry a job, with `key`, `track`, `stage`, `plugin`, `call`, `work`,
        `seconds` and `peak_mb`; older entries have no key and no memory."""
        try:
            lines = (self.root / LEDGER).read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # a line cut by a kill
                entries.append(json.loads(line))
        return entries


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What is recorded in an artifact's folder."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest


def intact(folder: Path, key: str) -> bool:
    """Whether a folder holds the artifact of `key`: the files that its manifest names, with their digests."""
    try:
        manifest = read_manifest(folder)
        return manifest["key"] == key and all(
            file_digest(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False
