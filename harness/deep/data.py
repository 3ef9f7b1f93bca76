"""Data sets of pictures with a class each.

`mnist5k`, `fashion_mnist` (3,400 of its 70,000 pictures) and `digits8` come with the harness and its packages and need
no network. A folder with the folders `train` and `test`, each with a folder of pictures for each class, is read as
torchvision's `ImageFolder` reads it. Data sets of torchvision are read from a folder of this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from harness.bounded import file_digest
from harness.deep import torchvision_sets
from harness.deep.tasks import DATA
from harness.errors import RunError
from harness.package_data import mnist5k
from harness.pictures import read_picture
from harness.stage import Content

SPLITS = ("train", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
FASHION = Path(__file__).parent / "pictures" / "fashion_mnist.png"
FASHION_TRAIN, SIDE = 240, 28
"""Training pictures of each class in the file `FASHION`, and the side of a picture, in pixels."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data set. labels: (rows) int64, the class of each. heldout: (rows) bool. classes: number of
    classes. read: the picture with a position, (height, width, 3) uint8."""

    labels: npt.NDArray[np.int64]
    heldout: npt.NDArray[np.bool_]
    classes: int
    read: Callable[[int], npt.NDArray[np.uint8]]

    def batches(self, size: int, rows: int = 64) -> Iterator[torch.Tensor]:
        """Yield all pictures in order, as pixels from 0 to 1 (rows, 3, size, size) float32.

        size: side in pixels. A picture is cropped to its central square and resized by bicubic interpolation. rows:
        number of pictures at once.
        """
        for start in range(0, len(self.labels), rows):
            pictures = [_square(self.read(place), size) for place in range(start, min(start + rows, len(self.labels)))]
            yield torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255

    def first(self, per_class: int | None) -> Pictures:
        """The data set with the first `per_class` pictures of each class in each split; None: all."""
        if per_class is None:
            return self
        groups = self.labels * 2 + self.heldout
        order = np.argsort(groups, kind="stable")
        ranks = np.empty(len(order), dtype=np.int64)
        starts = np.searchsorted(groups[order], groups[order])
        ranks[order] = np.arange(len(order)) - starts
        places = np.flatnonzero(ranks < per_class)
        return Pictures(self.labels[places], self.heldout[places], self.classes, lambda at: self.read(int(places[at])))


def load(name: str) -> Pictures:
    """The data set `name`: a name, NAME=FOLDER or a folder (see `Task.source`). Raises `RunError` if it cannot be
    loaded."""
    if name in _NAMED:
        return _NAMED[name]()
    return _of_torchvision(name) if torchvision_sets.known(name) else _folder(Path(name))


def content(name: str) -> Content:
    """How the content of the data set `name` is identified."""
    if name in DATA:
        return NAMED
    return torchvision_sets.CONTENT if torchvision_sets.known(name) else FOLDER


def _square(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _grey(pixels: npt.NDArray[Any], labels: npt.NDArray[np.int64], heldout: npt.NDArray[np.bool_]) -> Pictures:
    """A data set of grey pictures, whose `pixels` (rows, height, width) are 0 … 255."""
    colours = np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=-1)
    return Pictures(labels, heldout, int(labels.max()) + 1, colours.__getitem__)


@cache
def _mnist5k() -> Pictures:
    pixels, digit, heldout = mnist5k()
    return _grey(pixels.reshape(-1, SIDE, SIDE), digit, heldout)


@cache
def _fashion_mnist() -> Pictures:
    """A row of the file for each class: the first 240 training and the first 100 test pictures (Xiao et al., 2017)."""
    sheet = np.asarray(Image.open(FASHION))
    pixels = sheet.reshape(10, SIDE, -1, SIDE).transpose(0, 2, 1, 3)
    each = pixels.shape[1]
    return _grey(
        pixels.reshape(-1, SIDE, SIDE), np.repeat(np.arange(10), each), np.tile(np.arange(each) >= FASHION_TRAIN, 10)
    )


@cache
def _digits8() -> Pictures:
    """1,797 handwritten digits of 8×8 pixels (in scikit-learn), the first 1,000 for training (Alpaydin & Kaynak,
    1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _grey(digits.images * 255 / 16, digits.target.astype(np.int64), np.arange(len(digits.target)) >= 1000)


_NAMED: Mapping[str, Callable[[], Pictures]] = {
    "mnist5k": _mnist5k,
    "fashion_mnist": _fashion_mnist,
    "digits8": _digits8,
}


def _files(folder: str) -> Iterable[Path]:
    """The pictures of a folder of classes, in order of their paths, without hidden files."""
    files = (path for path in Path(folder).glob("*/*/[!.]*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in files if path.is_file())


def _folder_digest(folder: str) -> str | None:
    """SHA-256 of the names and digests of the pictures; None if there are none or one cannot be read."""
    whole = hashlib.sha256()
    try:
        files = list(_files(folder))
        for path in files:
            whole.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    except OSError:
        return None
    return whole.hexdigest() if files else None


def named_digest(name: str) -> str | None:
    """SHA-256 of the pictures and labels of the data set `name` of this harness; None if it cannot be loaded."""
    try:
        pictures = load(name)
    except RunError:
        return None
    whole = hashlib.sha256()
    for array in (pictures.labels, pictures.heldout):
        whole.update(array.tobytes())
    for place in range(len(pictures.labels)):
        whole.update(np.ascontiguousarray(pictures.read(place)).tobytes())
    return whole.hexdigest()


def _no_files(name: str) -> Iterable[Path]:
    return ()


FOLDER = Content(_files, _folder_digest)
NAMED = Content(_no_files, named_digest)


def _folder(folder: Path) -> Pictures:
    """The data set of a folder; its classes are the names of the folders in `train`."""
    classes = sorted(path.name for path in (folder / "train").glob("*") if path.is_dir())
    paths = [path for path in _files(str(folder)) if path.parent.parent.name in SPLITS]
    unknown = sorted({path.parent.name for path in paths} - set(classes))
    splits = [path.parent.parent.name for path in paths]
    if len(classes) < 2 or set(splits) != set(SPLITS):
        raise RunError(
            f"{folder} is no data set: it needs the folders `train` and `test`, and in each a folder of pictures "
            f"({' '.join(SUFFIXES)}) for each of at least two classes"
        )
    if unknown:
        raise RunError(f"{folder}/test has the class '{unknown[0]}', which {folder}/train has not")
    labels = np.array([classes.index(path.parent.name) for path in paths], dtype=np.int64)
    return Pictures(labels, np.array(splits) == "test", len(classes), lambda place: _read(paths[place]))


def _of_torchvision(name: str) -> Pictures:
    paths, labels, heldout = zip(*torchvision_sets.samples(name), strict=True)
    classes = max(labels) + 1
    return Pictures(np.array(labels, dtype=np.int64), np.array(heldout), classes, lambda place: _read(paths[place]))


def _read(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(read_picture(path))
