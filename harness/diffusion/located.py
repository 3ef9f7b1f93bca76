"""Digests of the files that a grid reads: base models, picture folders, weights of encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from harness.diffusion.image_folder import folder_digest
from harness.diffusion.model import layout_fault
from harness.diffusion.small import PIPELINE
from harness.errors import UsageError
from harness.stage import Located
from harness.store import file_digest


class Files:
    """Files with their digests; each is hashed once."""

    def __init__(self) -> None:
        self._located: dict[str, Located] = {}

    def base(self, base: str) -> Located:
        """The base model `base`, a name or a folder; raises `UsageError` if this track cannot run its layout."""
        if base not in self._located and (fault := layout_fault(base)):
            raise UsageError(fault)
        return self._locate(base, base_digest)

    def pictures(self, folder: str) -> Located:
        """The pictures in `folder`."""
        return self._locate(folder, folder_digest)

    def weights(self, path: str | None) -> Located | None:
        """The file `path` of weights; None if `path` is None."""
        return None if path is None else self._locate(path, _weights_digest)

    def _locate(self, path: str, hashed: Callable[[str], str | None]) -> Located:
        if path not in self._located:
            self._located[path] = Located(path, hashed(path))
        return self._located[path]


def base_digest(base: str) -> str:
    """SHA-256 of the files of the base model `base`; if it is no folder on this machine, `hub:` and its name."""
    folder = PIPELINE if base == "small" else Path(base)
    if not folder.is_dir():
        return f"hub:{base}"
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return whole.hexdigest()


def _weights_digest(path: str) -> str | None:
    """SHA-256 of a file; None if it cannot be read (the job that needs it fails)."""
    try:
        return file_digest(Path(path))
    except OSError:
        return None
