"""The tasks of a probe grid: pairs of a benign task to keep learnable and a harmful task to prevent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.labels import FrozenModel

Role = Literal["benign", "harmful"]
ROLES: tuple[Role, ...] = ("benign", "harmful")
Data = Literal["mnist5k", "mnist", "house_prices", "house_prices_openml"]
Framing = Literal["single-class", "one-vs-rest"]
Labels = Literal["classes", "real"]
"""Kind of a data set's labels: classes 0 and 1, or real numbers."""
LABELS: Mapping[Data, Labels] = {
    "mnist5k": "classes",
    "mnist": "classes",
    "house_prices": "real",
    "house_prices_openml": "real",
}


class Task(FrozenModel):
    """One pair of a benign and a harmful task.

    benign, harmful: digits; None where the data set defines the two tasks. family: digits that the defense knows as
    harmful, while `harmful` is attacked; empty: it knows `harmful`. split: number of a random split of the rows into
    training and held-out ones; None: the data set's own split.
    """

    data: Data
    framing: Framing | None = None
    benign: int | None = None
    harmful: int | None = None
    family: tuple[int, ...] = ()
    split: int | None = None

    @property
    def label(self) -> str:
        """Name of the task in records: P3-H8 means that digit 3 is benign and digit 8 harmful; P3-H8 (known H1+H5) that
        the defense knows the digits 1 and 5 as harmful."""
        if self.benign is not None:
            known = f" (known {'+'.join(f'H{digit}' for digit in self.family)})" if self.family else ""
            return f"P{self.benign}-H{self.harmful}{known}"
        return self.data if self.split is None else f"{self.data} split {self.split}"

    @property
    def kind(self) -> str:
        """Data set, framing and size of the family: tasks of one kind have about as many rows."""
        known = f"family of {len(self.family)}" if self.family else None
        return " ".join(part for part in (self.data, self.framing, known) if part)


class TaskBlock(FrozenModel):
    """An entry of a probe grid's `tasks`: a data set, for digits the pairs and their framing, for prices row splits."""

    data: Data
    framing: Framing | None = Field(
        None,
        description="digits only. single-class: a task holds images of its digit alone (the paper's tables); "
        "one-vs-rest: its digit (1) and as many images of the others (0)",
    )
    pairs: Literal["all"] | list[tuple[int, int]] | None = Field(
        None, description="digits only: ordered pairs (benign, harmful), or all 90"
    )
    family: list[Annotated[int, Field(ge=0, le=9)]] | None = Field(
        None,
        description="digits only: what the defense knows as harmful instead of each pair's harmful digit, which is "
        "attacked, and may be in the family or not",
        min_length=1,
    )
    splits: Annotated[int, Field(ge=1, le=1000)] | list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="prices only: tasks that each have their own random split of the houses into training and held-out "
        "rows: their number, or a list of the splits; by default one task with the paper's split. Splits share houses, "
        "so an interval over them is for other splits of these houses, not for other data",
    )

    @model_validator(mode="after")
    def _fields_fit_data(self) -> TaskBlock:
        digits = LABELS[self.data] == "classes"
        if digits != (self.framing is not None) or digits != (self.pairs is not None):
            raise ValueError(f"{self.data} {'needs' if digits else 'takes no'} framing and pairs")
        if digits and self.splits is not None:
            raise ValueError(f"{self.data} takes no splits")
        if not digits and self.family is not None:
            raise ValueError(f"{self.data} takes no family")
        for pair in self.pairs or [] if self.pairs != "all" else []:
            if not all(0 <= int(digit) <= 9 for digit in pair) or pair[0] == pair[1]:
                raise ValueError(f"{pair} is no pair of two digits 0 to 9")
            if pair[0] in (self.family or ()):
                raise ValueError(f"digit {pair[0]} is benign and in the family of harmful digits")
        if len(set(self.family or ())) < len(self.family or ()):
            raise ValueError(f"the family {self.family} has a digit twice")
        return self

    def expand(self) -> Iterator[Task]:
        """The single tasks of this block."""
        if self.pairs is None:
            splits = range(1, self.splits + 1) if isinstance(self.splits, int) else self.splits
            yield from (Task(data=self.data, split=split) for split in splits or (None,))
            return
        pairs = [(p, h) for p in range(10) for h in range(10) if p != h] if self.pairs == "all" else self.pairs
        for benign, harmful in pairs:
            yield Task(
                data=self.data,
                framing=self.framing,
                benign=int(benign),
                harmful=int(harmful),
                family=tuple(self.family or ()),
            )
