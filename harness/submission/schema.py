"""The model of a submission: a finished run as JSON that others can verify and from which records are made.

A submission contains the suite as it was run, every cell with its values and the digests of its artifact's files, the
run costs by stage, and the provenance. Repeated fields are written once: an entry of `kinds` lists the fields of the
values of similar cells, and a cell has only the numbers. The values of a cell, written out, equal the `values.json` of
its measuring job byte for byte, so their digest can be checked. Pictures are in the folder of the file, under names
that follow from the cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from harness import machine
from harness.costs import COST_UNITS, LARGEST_COST
from harness.errors import RunError, describe
from harness.labels import Digest, FrozenModel, Label, Number, Says, Text, file_stem
from harness.metric import VALUES, Value, check_value, dump_values
from harness.plugin import KINDS, PluginSpec
from harness.records import Records, frame
from harness.suite import Grid, Suite
from harness.track import PICTURES

FORMAT = 2
"""The newest format of a submission that this harness reads, and the one that it writes."""
EXPANDED = 512 * 2**20
"""Largest size of all values with their fields, in bytes; a larger submission is refused."""

MOST_VALUES = 2 * 10**7
"""Largest number of values that the values without a seed stand for, one for each seed of their grids."""

COORDINATES = ("grid", "task", "defense", "attacker", "seed", "measured_by", "concept", "role", "variant", "split")
"""Names of a cell's coordinates."""
ArtifactFile = Annotated[str, Field(pattern=r"^(values\.json|\w[\w.-]*\.png)$", max_length=100)]
SourcePath = Annotated[str, Field(pattern=r"^\w[\w .-]*(/\w[\w .-]*)*\.py$", max_length=300)]
SourceText = Annotated[str, Field(max_length=10**6)]
Index = Annotated[int, Field(ge=0)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Coordinate = Annotated[str, Field(pattern=f"^({'|'.join(COORDINATES)})$")]


class InvalidSubmission(RunError):
    """The file is not a submission, is damaged or contradicts itself. Exit code 1."""


class _Part(FrozenModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class PluginFile(_Part):
    """A plugin file, so that others can run its plugins."""

    name: SourcePath
    text: SourceText
    modules: dict[SourcePath, SourceText] = Field(
        description="the helper modules that the file imports, by path relative to its folder"
    )


class Cell(_Part):
    """One metric at one point of a grid: values, a failure, or pictures only."""

    coordinates: dict[Coordinate, Label | Integer | None] = Field(description="coordinates, as columns of the records")
    key: Digest = Field(description="key of the measuring job")
    failed: Text | None = Field(None, description="reason of the failure; null: the cell did not fail")
    kind: Index | None = Field(None, description="index into `kinds`; null: the cell has no values")
    values: list[Integer | Number | None] = Field([], description="numbers, in the order of the kind")
    files: dict[ArtifactFile, Digest] = Field(
        {}, description="digests of the files of the artifact: values.json and pictures"
    )

    machines: list[Index] = Field(
        [], description="indices into the provenance's `machines`: those that computed its jobs; empty: that of the run"
    )

    @property
    def label(self) -> str:
        """Label of the cell in messages: its coordinates."""
        return " · ".join(str(value) for value in self.coordinates.values() if value is not None)

    @property
    def pictures(self) -> dict[str, str]:
        """Digests of the cell's pictures, by file name in the submission's folder."""
        pictures = {name: digest for name, digest in self.files.items() if name.endswith(".png")}
        return {picture_name(self.coordinates, name): digest for name, digest in pictures.items()}


class Cost(_Part):
    """The cost of all jobs of one stage; each job counts once."""

    track: Label
    stage: Label
    jobs: int = Field(ge=0, description="number of jobs")
    metered: int = Field(ge=0, description="number of jobs with a known cost, to which seconds and memory refer")
    seconds: float = Field(ge=0, le=LARGEST_COST, description="sum of the seconds of these jobs")
    peak_mb: float | None = Field(
        ge=0, le=LARGEST_COST, description="highest resident memory of a worker, in MiB; null: unknown"
    )


class Git(_Part):
    """The git checkout of the harness."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    dirty: bool = Field(description="whether a tracked file differed from the commit")


class Hardware(_Part):
    """The hardware of the machine."""

    cpu: Text
    cores: int | None
    memory_gb: float = Field(description="GiB")
    gpus: list[Text]


class Provenance(_Part):
    """Software, date and hardware of the run."""

    harness: Text = Field(description="version of the harness")
    git: Git | None = Field(description="null: not run from a checkout")
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    python: Text
    system: Text
    packages: dict[Text, Text] = Field(description="versions of packages by name")
    hardware: Hardware
    stages: dict[Text, int] = Field(description="versions of the stages, by track/stage")
    computed: int = Field(ge=0, description="number of jobs that the run computed; its store had the others")
    machines: list[Text] = Field(
        [], description="machines, each as versions and processor in one line, of the cells that name any"
    )

    @property
    def machine(self) -> str:
        """The machine of the run, as in `machines`."""
        return machine.text(self.python, self.packages, self.hardware.cpu)

    @property
    def summary(self) -> str:
        """The provenance in one line; of other machines what differs, their processor or all."""
        commit = f" at {self.git.commit[:12]}{' and changes' if self.git.dirty else ''}" if self.git else ""
        libraries = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        hardware = ", ".join([self.hardware.cpu, f"{self.hardware.cores} cores", *self.hardware.gpus])
        versions = self.machine.removesuffix(self.hardware.cpu)
        others = "".join(
            f"; some cells: {name.removeprefix(versions)}" for name in self.machines if name != self.machine
        )
        return f"{self.date}, immunebench {self.harness}{commit}, Python {self.python}, {libraries}; {hardware}{others}"

    @property
    def commit(self) -> str:
        """The harness's commit or, if it is unknown, its version."""
        return f"commit {self.git.commit}" if self.git else f"version {self.harness}"


Link = Annotated[
    str,
    Field(pattern=r"^https?://[A-Za-z0-9_./~%:@?=&#+-]+$", max_length=300),
    Says("must be an address in ASCII characters that begins with https:// or http://"),
]


class Method(_Part):
    """What is submitted, as its authors call it. All of it is public."""

    title: Text = Field(description="of the method or of the paper")
    authors: list[Text] = Field([], max_length=100)
    paper: Link | None = Field(None, description="address, http or https")
    code: Link | None = Field(None, description="address, http or https")

    @property
    def summary(self) -> str:
        """The method in one line."""
        return "; ".join(filter(None, [self.title, ", ".join(self.authors), self.paper, self.code]))


class Submission(_Part):
    """A finished run."""

    format: Literal[2]
    method: Method | None = Field(None, description="what is submitted; null: not said")
    suite: Suite = Field(
        description='the suite as it was run; paths in its tasks are {"path": …}, relative to the suite file'
    )
    sources: list[PluginFile] = Field(description="the plugin files that are not in installed packages")
    kinds: list[list[dict[str, Any]]] = Field(
        description="lists of values in the order of values.json, each with its fields and with an empty `value`"
    )
    cells: list[Cell] = Field(min_length=1)
    costs: list[Cost]
    provenance: Provenance
    older: bool = Field(
        False, exclude=True, description="converted from an earlier format, whose keys this harness does not reproduce"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Submission:
        _refuse_machine_fields(self)
        if len(self._grids) < len(self.suite.grids):
            raise ValueError("two grids have the same name")
        for number, kind in enumerate(self.kinds):
            for place in kind:
                _check_place(place, number)
        size = [len(json.dumps(kind)) for kind in self.kinds]
        if sum(size[cell.kind] for cell in self.cells if cell.kind is not None and cell.kind < len(size)) > EXPANDED:
            raise ValueError(f"its values, written out, are longer than {EXPANDED >> 20} MiB")
        by_key: dict[str, Cell] = {}
        for cell in self.cells:
            self._check(cell)
            other = by_key.setdefault(cell.key, cell)
            if other is not cell and (
                other.coordinates == cell.coordinates or (other.files, other.failed) != (cell.files, cell.failed)
            ):
                raise ValueError(f"{cell.label}: a duplicate cell, or a job with different values in two cells")
        check_expanded(self.suite, self.cells)
        return self

    def _check(self, cell: Cell) -> None:
        grid = self._grids.get(str(cell.coordinates.get("grid")))
        if grid is None or not _lies_in(grid, cell.coordinates):
            raise ValueError(f"{cell.label}: the suite does not have these coordinates")
        if any(place >= len(self.provenance.machines) for place in cell.machines):
            raise ValueError(f"{cell.label}: it names a machine that the provenance does not have")
        if cell.kind is None:
            if cell.values or VALUES in cell.files or (cell.failed is None) == (not cell.files):
                raise ValueError(f"{cell.label}: the cell must have values, pictures or the reason of its failure")
            return
        if cell.failed is not None or cell.kind >= len(self.kinds) or len(self.kinds[cell.kind]) != len(cell.values):
            raise ValueError(f"{cell.label}: the number of values differs from that of its kind")
        if not self._metrics[cell.kind] <= {quantity.name for quantity in grid.quantities}:
            raise ValueError(f"{cell.label}: its grid does not have the quantities of these values")
        values = self.values(cell)
        costs = self._costs[grid.name]
        for value in values:
            number = value["value"]
            if value["metric"] in costs and number is not None and not 0 <= number <= LARGEST_COST:
                raise ValueError(f"{cell.label}: {value['metric']} is {number:g}, which no job can have taken")
        text = dump_values(values)
        if cell.files.get(VALUES) != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError(f"{cell.label}: the values do not have the digest")

    @cached_property
    def _grids(self) -> dict[str, Grid]:
        return {grid.name: grid for grid in self.suite.grids}

    @cached_property
    def _metrics(self) -> list[set[str]]:
        return [{place["metric"] for place in kind} for kind in self.kinds]

    @cached_property
    def _costs(self) -> dict[str, set[str]]:
        """By grid, the names of the quantities that depend on the machine."""
        return {
            name: {quantity.name for quantity in grid.quantities if quantity.unit in COST_UNITS}
            for name, grid in self._grids.items()
        }

    def values(self, cell: Cell) -> list[Value]:
        """The values of `cell`, as its job wrote them; empty for a cell without values."""
        kind = [] if cell.kind is None else self.kinds[cell.kind]
        return [{**place, "value": value} for place, value in zip(kind, cell.values, strict=True)]

    def machines(self, cell: Cell) -> list[str]:
        """The machines that computed `cell`, each as versions and processor in one line."""
        return [self.provenance.machines[place] for place in cell.machines] or [self.provenance.machine]

    def comparable_values(self, cell: Cell) -> list[Value]:
        """The values of `cell` that do not depend on the machine: all except seconds and memory."""
        costs = self._costs[str(cell.coordinates["grid"])]
        return [value for value in self.values(cell) if value["metric"] not in costs]

    def records(self, suite: Suite | None = None) -> Records:
        """The records of the run. suite: the same suite with this machine's files; None: the submission's suite."""
        return Records(suite or self.suite, frame(self.rows(self.cells)), older=self.older)

    def rows(self, cells: Iterable[Cell]) -> Iterator[dict[str, Any]]:
        """The rows of the records of `cells`: a row for each value, and a row with the reason for each failed cell."""
        suite = {"suite": self.suite.name, "suite_version": self.suite.version}
        for cell in cells:
            track = self._grids[str(cell.coordinates["grid"])].track
            row = {**suite, "track": track, **cell.coordinates, "key": cell.key, "status": "ok"}
            if cell.failed is not None:
                yield {**row, "status": "failed", "note": cell.failed}
            yield from ({**row, **value} for value in self.values(cell))

    def pictures(self) -> Iterator[tuple[str, str]]:
        """File name and digest of each picture in the submission's folder."""
        for cell in self.cells:
            yield from cell.pictures.items()


def picture_name(coordinates: Mapping[str, Any], file: str) -> str:
    """The file name of a picture in the folder of a submission or board.

    coordinates: coordinates of the cell. file: name of the picture in the artifact.
    """
    labels = [str(coordinates[name]) for name in ("grid", "task", "defense", "attacker") if coordinates.get(name)]
    return file_stem(*labels, file)


def specs(suite: Suite) -> Iterator[PluginSpec]:
    """The plugins of `suite`, grid by grid."""
    for grid in suite.grids:
        yield from (spec for _, _, spec in grid.rows(*KINDS))
        yield grid.reference


def _refuse_machine_fields(submission: Submission) -> None:
    """Raise `ValueError` if a part has a field that only the machine that reads it may set: modules and files to
    import."""
    for part in (submission, submission.suite, *specs(submission.suite)):
        for name, field in type(part).model_fields.items():
            if field.exclude and name in part.model_fields_set:
                raise ValueError(f"{name} is not a field of a submission")


def check_expanded(suite: Suite, cells: Iterable[Cell]) -> None:
    """Raise `ValueError` if the values of `cells` without a seed stand for too many values: a board counts each of them
    once for every seed of its grid."""
    seeds = {grid.name: len(grid.seeds) for grid in suite.grids}
    unseeded = (cell for cell in cells if cell.coordinates.get("seed") is None)
    total = sum(len(cell.values) * seeds[str(cell.coordinates["grid"])] for cell in unseeded)
    if total > MOST_VALUES:
        raise ValueError(f"its values without a seed stand for {total}, one for each seed, of at most {MOST_VALUES}")


def _check_place(place: Mapping[str, Any], number: int) -> None:
    try:
        check_value(place)
    except ValidationError as error:
        raise ValueError(f"kinds.{number}: {describe(error):.500}") from None
    if place["value"] is not None:
        raise ValueError(f"kinds.{number}: value: must be null, because cells have the numbers")


def _lies_in(grid: Grid, coordinates: Mapping[str, Any]) -> bool:
    """Whether a grid has this task, row and seed. Only pictures can be of no defense in particular."""
    task, defense, attacker, seed = (coordinates.get(name) for name in ("task", "defense", "attacker", "seed"))
    others = (coordinates.get(name) for name in ("measured_by", "concept", "role", "variant", "split"))
    return (
        task in grid.members
        and (defense in grid.defenses or (defense is None and coordinates.get("measured_by") == PICTURES))
        and (attacker is None or attacker in grid.attackers)
        and (seed is None or seed in grid.seeds)
        and isinstance(coordinates.get("measured_by"), str)
        and not any(isinstance(value, int) for value in others)
    )
