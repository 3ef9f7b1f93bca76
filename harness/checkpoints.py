"""Checkpoints: folders with the weights of released models that no plugin of a suite made.

A row of a checkpoint has the plugin `checkpoint`, whose digest of the weights enters keys; the path of the folder does
not. Only safetensors are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bounded import file_digest
from harness.errors import RunError, UsageError
from harness.labels import file_stem
from harness.plugin import PluginSpec
from harness.stage import Content, Located

if TYPE_CHECKING:
    import torch

PLUGIN = "checkpoint"
"""Name of the defense plugin of these rows."""
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def weight_files(folder: str) -> list[Path]:
    """The files of weights in `folder` and below it, in order of their paths."""
    return sorted(path for path in Path(folder).rglob("*.safetensors") if path.is_file())


def weights_digest(folder: str) -> str | None:
    """SHA-256 of the names and digests of the files of weights in `folder`; None if one of them cannot be read."""
    whole = hashlib.sha256()
    try:
        for path in weight_files(folder):
            whole.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    except OSError:
        return None
    return whole.hexdigest()


WEIGHTS = Content(weight_files, weights_digest)


def locate(folder: str | Path) -> Located:
    """The weights in `folder` with their digest. Raises `UsageError` if there is no such folder, if it has no
    safetensors, or if they cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: give the folder of a released model's weights")
    if not weight_files(str(folder)):
        pickles = sorted(path.relative_to(folder).as_posix() for path in _pickles(folder.rglob("*")))
        if pickles:
            raise UsageError(
                f"{folder} has no safetensors, only pickles, which can run code and are not read ({pickles[0]}): save "
                "the model as safetensors"
            )
        raise UsageError(f"{folder} has no weights: there is no file *.safetensors in it")
    located = Located.of(str(folder), WEIGHTS)
    if located.digest is None:
        raise UsageError(f"the weights in {folder} cannot be read: check the permissions of its files")
    return located


def weights_of(defense: PluginSpec) -> Located:
    """The weights of the row `defense`, a checkpoint; without a path if they are not on this machine. Raises
    `UsageError` if the folder has other weights than the row."""
    if defense.folder is None:
        return Located("", defense.params["digest"])
    located = locate(defense.folder)
    if located.digest != defense.params["digest"]:
        raise UsageError(
            f"{defense.folder} has weights of SHA-256 {str(located.digest)[:8]}…, the row has those of "
            f"{defense.params['digest'][:8]}…: give the folder with the latter, and do not change it"
        )
    return located


def checkpoint_folder(folder: str | Path, task: str) -> Path:
    """The part of a checkpoint's `folder` that holds the weights for the task labelled `task`: the folder of this name,
    if it has weights, else `folder` itself."""
    own = Path(folder) / file_stem(task)
    return own if weight_files(str(own)) else Path(folder)


def read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of the file `name` in a checkpoint's `folder`; raises `RunError` if there is no such file or if it
    cannot be read."""
    from safetensors import SafetensorError

    from harness.store.tensors import load_tensors

    path = folder / name
    if not path.is_file():
        raise RunError(missing_file(folder, name))
    try:
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read ({error}): copy it again") from None


def missing_file(folder: Path, name: str) -> str:
    """The error message for a `folder` of weights without the file `name` that a track needs."""
    pickles = sorted(path.name for path in _pickles((folder / name).parent.glob("*")))
    also = f", only the pickle {pickles[0]}, which can run code and is not read" if pickles else ""
    return f"{folder} has no {name}{also}"


def _pickles(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if path.suffix in _PICKLES and path.is_file())
