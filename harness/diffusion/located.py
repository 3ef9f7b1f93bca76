"""Digests of the files that a grid reads: base models, picture folders, weights of encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from harness.bounded import file_digest
from harness.diffusion.base_model import layout_fault
from harness.diffusion.image_folder import folder_digest, picture_files
from harness.diffusion.small import PIPELINE
from harness.errors import UsageError
from harness.stage import Content, Located


class Files:
    """Files with their digests; each is hashed once."""

    def __init__(self) -> None:
        self._located: dict[tuple[str, Content], Located] = {}

    def base(self, base: str) -> Located:
        """The base model `base`, a name or a folder; raises `UsageError` if this track cannot run its layout."""
        if (base, BASE) not in self._located and (fault := layout_fault(base)):
            raise UsageError(fault)
        return self._locate(base, BASE)

    def pictures(self, folder: str) -> Located:
        """The pictures in `folder`."""
        return self._locate(folder, PICTURES)

    def weights(self, path: str | None) -> Located | None:
        """The file `path` of weights; None if `path` is None."""
        return None if path is None else self._locate(path, WEIGHTS)

    def detector(self, path: str | None) -> Located | None:
        """The folder or the file `path` of a detector; None if `path` is None."""
        return None if path is None else self._locate(path, BASE if Path(path).is_dir() else WEIGHTS)

    def _locate(self, path: str, content: Content) -> Located:
        if (path, content) not in self._located:
            self._located[path, content] = Located.of(path, content)
        return self._located[path, content]


def base_digest(base: str) -> str:
    """SHA-256 of the files of the base model `base`; if it is no folder on this machine, `hub:` and its name with the
    commit that the hub's cache, or else the hub, has for it (the name alone if neither answers)."""
    folder = _base_folder(base)
    if not folder.is_dir():
        commit = _commit(base)
        return f"hub:{base}@{commit}" if commit else f"hub:{base}"
    whole = hashlib.sha256()
    for path in _base_files(base):
        if path.is_file():
            whole.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def _base_folder(base: str) -> Path:
    return PIPELINE if base == "small" else Path(base)


def _base_files(base: str) -> Iterable[Path]:
    """All files in the folder of a base model, in order of their paths; of a name on the hub the file in the cache that
    names its commit."""
    folder = _base_folder(base)
    return sorted(folder.rglob("*")) if folder.is_dir() else filter(None, [_cached_commit(base)])


def _cached_commit(base: str) -> Path | None:
    """The file in the hub's cache with the commit of the model `base`; None if the cache lacks the model."""
    from huggingface_hub import try_to_load_from_cache

    try:
        index = try_to_load_from_cache(base, "model_index.json")
    except ValueError:  # neither a folder nor a name: the job that loads it says so
        return None
    return Path(index).parents[2] / "refs" / "main" if isinstance(index, str) else None


def _commit(base: str) -> str | None:
    if (cached := _cached_commit(base)) is not None and cached.is_file():
        return cached.read_text().strip()
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(base, timeout=10).sha
    except Exception:  # no network; the classes of its errors differ between versions of the hub's library
        return None


def _file_digest(path: str) -> str | None:
    """SHA-256 of a file; None if it cannot be read (the job that needs it fails)."""
    try:
        return file_digest(Path(path))
    except OSError:
        return None


def _file(path: str) -> Iterable[Path]:
    return [Path(path)]


BASE = Content(_base_files, base_digest)
PICTURES = Content(picture_files, folder_digest)
WEIGHTS = Content(_file, _file_digest)
