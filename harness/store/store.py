"""Artifacts on disk, by content key.

`<root>/artifacts/<key[:2]>/<key>/` holds an artifact's files and `manifest.json` with their SHA-256 digests. An
artifact is written to a temporary folder and renamed, so a kill at any moment leaves it whole or absent. Artifacts are
checked when they are opened; a damaged one is moved to `<root>/damaged/` and counts as absent.

Several runs may share a store, also on a network file system that supports locks. `<root>/locks/` has a lock for each
running job, so that each job runs once. `<root>/runs/` has the keys that each run in progress has pinned, so that no
process deletes them. The operating system releases the locks of a process that dies.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from harness.bounded import file_digest, open_file, parse_json, read_bytes
from harness.errors import RunError, UsageError
from harness.files import user_path, write_text

FORMAT = 2
"""Format of a store's folder; format 1 had other keys and other files in its artifacts."""
ABOUT = "store.json"
MANIFEST = "manifest.json"
LEDGER = "ledger.jsonl"
LARGEST = 64 * 2**20
"""Largest length of `MANIFEST` and of a run's pins, in bytes, and largest number of their values."""
LONGEST = 1e15
"""Largest cost of a job, in seconds, MiB or units of work."""
LEDGER_FIELDS = ("key", "track", "stage", "network", "plugin", "call", "work", "seconds", "peak_mb")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def default_root() -> Path:
    """`$IMMUNEBENCH_STORE`, else the user's cache folder."""
    return user_path(os.environ.get("IMMUNEBENCH_STORE") or platformdirs.user_cache_dir("immunebench")).absolute()


class StoreError(RunError):
    """The store cannot be read or written, so the run stops."""


class Busy(Exception):
    """Another process is writing this artifact."""


class Store:
    """A folder of artifacts by content key.

    root: the folder (default: `default_root()`). The attribute `identity` is a random name of the store. A store that
    may not be written can be read. Raises `UsageError` if there is no store and none can be made, if its file system
    has no locks, or if it is a store of another format.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = user_path(root or default_root()).absolute()
        self._artifacts = self.root / "artifacts"
        self._checked: set[str] = set()
        try:
            with self._disk_errors():
                try:
                    self._check_writable()
                except OSError as error:
                    if error.errno not in _LOCKED or _about(self.root) is None:
                        raise
                self.identity = self._identify()
        except StoreError as error:
            raise UsageError(str(error)) from None

    @classmethod
    def connect(cls, root: Path, identity: str) -> Store:
        """Open the store of a run in a worker; raises `StoreError` if the folder `root` is not the store with this
        `identity`, or cannot be used."""
        try:
            about = _about(root)
        except OSError:
            about = None
        if about is None or about["identity"] != identity:
            raise StoreError(
                f"a worker on {os.uname().nodename} does not see the run's store {root}: "
                "set IMMUNEBENCH_STORE to a folder that has the same path on all workers"
            )
        try:
            return cls(root)
        except UsageError as error:
            raise StoreError(str(error)) from None

    def _check_writable(self) -> None:
        """Create the store's folders; raises an error if they cannot be written, or if the file system has no locks,
        before the first job."""
        for folder in (self._artifacts, self.root / "tmp", self.root / "locks", self.root / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root / "tmp") as probe:
            _check_locks(probe.fileno())
        with self._locked(uuid.uuid4().hex):
            pass

    def _identify(self) -> str:
        """Read the store's identity, or create it, also in place of a damaged one; raises `UsageError` for a store of
        another format."""
        about = _about(self.root)
        if about is None:
            with self._locked("store"):
                about = _about(self.root)
                if about is None:
                    about = {"format": FORMAT, "identity": uuid.uuid4().hex}
                    write_text(self.root / ABOUT, json.dumps(about))
        if about["format"] != FORMAT:
            remedy = "upgrade immunebench" if about["format"] > FORMAT else "delete or move the folder"
            raise UsageError(
                f"the store {self.root} has format {about['format']}, this harness uses format {FORMAT}: {remedy}; or "
                "set IMMUNEBENCH_STORE to another folder"
            )
        return str(about["identity"])

    def folder(self, key: str) -> Path:
        """The folder for the artifact of `key`, whether or not it exists."""
        return self._artifacts / key[:2] / key

    def keys(self) -> list[str]:
        """The keys of all artifacts, sorted."""
        return sorted(path.parent.name for path in self._artifacts.glob(f"*/*/{MANIFEST}"))

    def has(self, key: str) -> bool:
        """Whether the store has the artifact of `key`; its files are not checked."""
        return os.path.exists(f"{self._artifacts}/{key[:2]}/{key}/{MANIFEST}")

    def open(self, key: str) -> Path | None:
        """The folder of the artifact of `key`, whose digests each process checks once; None if the artifact is absent
        or damaged. A damaged artifact is moved to `<root>/damaged/`."""
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
        with self._disk_errors():
            aside.parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.folder(key).rename(aside)

    def manifest(self, key: str) -> dict[str, Any]:
        """The manifest of the artifact of `key`: the job's `about`, `seconds`, `peak_mb`, and `files` with their
        digests. Raises the errors of `read_manifest`."""
        return read_manifest(self.folder(key))

    def size(self, key: str) -> int:
        """Size of the artifact of `key`, in bytes."""
        return _size(self.folder(key))

    def idle_seconds(self, key: str) -> float:
        """Seconds since the artifact of `key` was written, or was opened by a process that had not opened it before."""
        return time.time() - (self.folder(key) / MANIFEST).stat().st_mtime

    @contextlib.contextmanager
    def _disk_errors(self, job: bool = False) -> Iterator[None]:
        """Turn errors of the file system into `StoreError`. job: within the block a job runs, whose own errors are
        raised unchanged: all but those of a full disk, and of files in the store that may not be written."""
        try:
            yield
        except OSError as error:
            full, file = error.errno in _FULL, str(error.filename)
            inside = file.startswith(f"{self.root}{os.sep}")
            if job and not full and not (inside and error.errno in _LOCKED):
                raise
            if full:
                remedy = "free some space"
            elif error.errno in _NO_LOCKS:
                remedy = "set IMMUNEBENCH_STORE to a folder on a file system with locks"
            elif error.errno == errno.EXDEV:
                remedy = "keep all its folders on one file system"
            else:
                remedy = "make it writable, or set IMMUNEBENCH_STORE to another folder"
            place = f"{os.path.relpath(file, self.root)}: " if inside else ""
            raise StoreError(
                f"cannot use the store {self.root}: {place}{error.strerror}; finished jobs are kept: {remedy} and run "
                "the same command again"
            ) from None

    @contextlib.contextmanager
    def _lock(self, file: Path, wait: bool = True) -> Iterator[None]:
        """Hold the lock with the file `file`. wait: whether to wait if another process holds it; if not, raise `Busy`.
        Raises `StoreError` if there are no locks, or if something else is in the place of the file."""
        lock = FileLock(file)
        with self._disk_errors():
            try:
                lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                raise Busy(file.name) from None
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _locked(self, key: str, wait: bool = True) -> Iterator[None]:
        """Hold the lock of the artifact of `key`, see `_lock`."""
        file = self.root / "locks" / key
        with self._lock(file, wait):
            try:
                yield
            finally:
                # A process that waits for the unlinked lock gets it, and then checks whether the artifact exists.
                _remove(file)

    @contextlib.contextmanager
    def receive(self, key: str, wait: bool = True) -> Iterator[Path | None]:
        """Add an artifact: yield a temporary folder, which becomes the artifact of `key` if the block raises nothing.

        The block must write a manifest. Yields None if the store has the artifact. The artifact is locked within the
        block. wait: whether to wait if another process holds the lock; if not, raise `Busy`.
        """
        with self._disk_errors(job=True), self._locked(key, wait):
            if self.has(key):
                yield None
                return
            self._set_aside(key)  # a folder without a manifest
            temporary = self.root / "tmp" / key
            _remove(temporary)  # left by a killed process
            with self._disk_errors():
                temporary.mkdir()
            try:
                yield temporary
                with self._disk_errors():
                    self.folder(key).parent.mkdir(exist_ok=True)
                    temporary.rename(self.folder(key))
                self._checked.add(key)
            finally:
                _remove(temporary)

    @contextlib.contextmanager
    def write(self, key: str, about: dict[str, Any], wait: bool = True) -> Iterator[Path | None]:
        """Add an artifact that the block computes, as `receive`; its manifest and a line of the ledger are written at
        the end. about: description of the job (`Stage.about`), to which the block may add fields; its seconds, if
        missing, are the block's."""
        with self.receive(key, wait) as out:
            began = time.perf_counter()
            yield out
            if out is not None:
                about.setdefault("seconds", time.perf_counter() - began)
                files = [path for path in sorted(out.rglob("*")) if path.is_file()]
                digests = {path.relative_to(out).as_posix(): file_digest(path) for path in files}
                text = json.dumps({"key": key, **about, "files": digests}, sort_keys=True, indent=1)
                write_text(out / MANIFEST, text)
                line = {name: about.get(name) for name in LEDGER_FIELDS} | {"key": key}
                with contextlib.suppress(OSError), open_file(self.root / LEDGER, "ab") as ledger:
                    ledger.write(json.dumps(line).encode() + b"\n")  # before the artifact, so that each has its line

    def discard(self, key: str) -> None:
        """Delete the artifact of `key`, if the store has it."""
        self._checked.discard(key)
        renamed = self.root / "tmp" / f"{key}-discard-{uuid.uuid4().hex}"
        with self._disk_errors(), contextlib.suppress(FileNotFoundError):
            self.folder(key).rename(renamed)  # so that no process reads an incomplete artifact
            shutil.rmtree(renamed, ignore_errors=True)

    @contextlib.contextmanager
    def pin(self, keys: Collection[str]) -> Iterator[str]:
        """Protect the artifacts `keys` from deletion within the block; yields an id of the run."""
        name = uuid.uuid4().hex
        with self._disk_errors(job=True), self._lock(self.root / "runs" / f"{name}.lock"):
            try:
                write_text(self.root / "runs" / f"{name}.json", json.dumps(sorted(keys)))
                yield name
            finally:
                self._unpin(name)

    def pinned(self, besides: str | None = None) -> set[str]:
        """The keys that runs in progress have pinned, except the run with the id `besides`; removes the pins of killed
        runs."""
        pinned: set[str] = set()
        for record in (self.root / "runs").glob("*.json"):
            if record.stem == besides:
                continue
            try:
                with contextlib.suppress(StoreError), self._lock(record.with_suffix(".lock"), wait=False):
                    self._unpin(record.stem)
            except Busy:
                with contextlib.suppress(OSError, ValueError, TypeError):
                    pinned.update(parse_json(read_bytes(record, LARGEST), LARGEST))
        return pinned

    def _unpin(self, run: str) -> None:
        for suffix in ("json", "lock"):
            _remove(self.root / "runs" / f"{run}.{suffix}")

    def leftovers(self) -> list[Path]:
        """Files and folders that nothing uses: damaged artifacts, and unfinished artifacts of killed processes."""
        leftovers = sorted((self.root / "damaged").glob("*"))
        for path in sorted((self.root / "tmp").iterdir()):
            with contextlib.suppress(Busy, StoreError), self._locked(path.name.partition("-")[0], wait=False):
                leftovers.append(path)
        return leftovers

    def collect(
        self, unused: float | None = None, keep: Collection[str] = (), dry_run: bool = False
    ) -> tuple[int, int]:
        """Delete leftovers and transient artifacts.

        unused: also delete artifacts that no process has opened for this number of seconds. keep: keys to keep, besides
        those that runs in progress have pinned. dry_run: delete nothing. Returns the number of bytes freed and the
        number of artifacts and leftovers. Raises `UsageError` if all artifacts are unused for so long: the clock may be
        wrong.
        """
        kept = self.pinned().union(keep)
        idle: dict[str, float] = {}
        for key in self.keys():
            with contextlib.suppress(OSError):  # another process has deleted it
                idle[key] = self.idle_seconds(key)
        if unused and idle and min(idle.values()) >= unused:
            raise UsageError(
                f"nothing in the store {self.root} was used within {unused / 86400:g} days, by the clock of this "
                "machine: if it is right, remove all by --unused 0"
            )
        leftovers = self.leftovers()
        sizes = [_size(path) for path in leftovers]
        for key in idle.keys() - kept:
            with contextlib.suppress(OSError, ValueError):
                transient = self.manifest(key).get("transient", False)
                if transient or (unused is not None and idle[key] >= unused):
                    sizes.append(self.size(key))
                    if not dry_run:
                        self.discard(key)
        if not dry_run:
            for path in leftovers:
                _remove(path)
            for lock in list((self.root / "locks").iterdir()):
                if not lock.is_file():
                    _remove(lock)  # no lock of a store
                with contextlib.suppress(Busy, StoreError), self._locked(lock.name, wait=False):
                    pass  # releasing the lock deletes its file
        return sum(sizes), len(sizes)

    def ledger(self, say: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
        """The costs of finished jobs: an entry for each job, with the fields `LEDGER_FIELDS`.

        Damaged lines, and a ledger that cannot be read, are left out: they have nothing but costs. say: called with a
        line that says so.
        """
        path, damaged = self.root / LEDGER, 0
        entries: list[dict[str, Any]] = []
        try:
            with open_file(path) as file:
                for line in iter(lambda: file.readline(2**20), b""):
                    try:
                        entries.append(_job(parse_json(line)))
                    except ValueError:  # for example a line that was cut off by a kill
                        damaged += 1
        except FileNotFoundError:
            pass  # no job has run
        except OSError as error:
            say(f"{path}, from which times are estimated, cannot be read: {error.strerror}")
        if damaged:
            say(f"{path}, from which times are estimated, has {damaged} damaged lines, which are left out")
        return entries


def _check_locks(file: int) -> None:
    """Raise `OSError` if the file system of the open `file` has no locks. The library of locks would use files instead,
    which stay when a process is killed."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it exists and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in the artifact folder `folder`. Raises `OSError` if it cannot be read, `ValueError` if it is
    damaged."""
    manifest = _job(parse_json(read_bytes(folder / MANIFEST, LARGEST), LARGEST))
    files = manifest.get("files")
    if not isinstance(files, dict) or any(".." in PurePosixPath(name).parts or name[:1] == "/" for name in files):
        raise ValueError("its files are missing or lie outside")
    return manifest


def _job(entry: Any) -> dict[str, Any]:
    """The description of a finished job in JSON; raises `ValueError` if fields are missing or wrong."""
    if not isinstance(entry, dict):
        raise ValueError("no object")
    texts = [entry.get(name) for name in ("key", "track", "stage")]
    texts += [entry[name] for name in ("network", "plugin", "call") if entry.get(name) is not None]
    costs = [entry.get(name) for name in ("seconds", "peak_mb", "work")]
    numbers = all(isinstance(cost, int | float) and 0 <= cost < LONGEST for cost in costs if cost is not None)
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or not numbers or costs[0] is None:
        raise ValueError("fields are missing or wrong")
    return entry


def _about(root: Path) -> dict[str, Any] | None:
    """The content of the file `ABOUT` of the store `root`; None if there is none, or it is damaged."""
    try:
        about = parse_json(read_bytes(root / ABOUT, 4096))
        whole = isinstance(about["format"], int) and isinstance(about["identity"], str)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return about if whole else None


def intact(folder: Path, key: str) -> bool:
    """Whether `folder` contains the undamaged artifact of `key`: every file that its manifest names, with its
    digest."""
    try:
        manifest = read_manifest(folder)
        return manifest["key"] == key and all(
            file_digest(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, TypeError):
        return False
