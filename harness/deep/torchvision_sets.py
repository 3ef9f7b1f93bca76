"""Data sets of torchvision in a folder on this machine; nothing is downloaded or unpacked.

Here one is written NAME=FOLDER, for example `cars=/data`, where FOLDER is torchvision's `root`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.stage import Content


@dataclass(frozen=True)
class _Set:
    """name: torchvision's class. splits: its training and its held-out split. needs: paths in its root."""

    name: str
    splits: tuple[str, str]
    needs: tuple[str, ...]


_CARS = (
    "cars_train",
    "cars_test",
    "cars_test_annos_withlabels.mat",
    "devkit/cars_meta.mat",
    "devkit/cars_train_annos.mat",
)
SETS: Mapping[str, _Set] = {
    "cars": _Set("StanfordCars", ("train", "test"), tuple(f"stanford_cars/{path}" for path in _CARS)),
    "country211": _Set("Country211", ("train", "test"), ("country211/train", "country211/test")),
    "imagenet": _Set("ImageNet", ("train", "val"), ("train", "val", "meta.bin")),
}
"""By name in a task."""


def known(data: str) -> bool:
    """Whether `data` is one of these data sets, NAME=FOLDER."""
    return data.partition("=")[0] in SETS and "=" in data


def samples(data: str) -> list[tuple[Path, int, bool]]:
    """The path, the class and whether it is held out, of each picture of `data`, NAME=FOLDER; the training split first.

    Raises `RunError` if torchvision is not installed or if the folder does not hold the data set.
    """
    name, _, folder = data.partition("=")
    source = SETS[name]
    if missing := [path for path in source.needs if not Path(folder, path).exists()]:
        raise RunError(
            f"{folder} does not hold torchvision's {source.name}: it has no {missing[0]}; give the folder that "
            f"torchvision calls root, with {', '.join(source.needs)}"
        )
    try:
        from torchvision import datasets
    except ImportError:
        raise RunError(f"the data set {name} needs the package torchvision, which is not installed") from None
    found = []
    for split, heldout in zip(source.splits, (False, True), strict=True):
        try:
            part: Any = getattr(datasets, source.name)(folder, split=split)
        except Exception as error:  # readers of .mat files and pickles raise errors of many classes
            first = str(error).strip().split("\n")[0]
            raise RunError(f"cannot read torchvision's {source.name} in {folder}: {first:.160}") from None
        pairs = part._samples if name == "cars" else part.samples
        found += [(Path(path), int(label), heldout) for path, label in pairs]
    return found


def _files(data: str) -> Iterable[Path]:
    try:
        return [path for path, _, _ in samples(data)]
    except RunError:
        return []


def _digest(data: str) -> str | None:
    """SHA-256 of the names, sizes and classes of all pictures, but not of their pixels: ImageNet has 140 GB. None if
    they cannot be read."""
    whole = hashlib.sha256()
    try:
        for path, label, heldout in samples(data):
            whole.update(f"{path.parent.name}/{path.name} {path.stat().st_size} {label} {heldout}\n".encode())
    except (RunError, OSError):
        return None
    return whole.hexdigest()


CONTENT = Content(_files, _digest)
