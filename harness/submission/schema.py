"""What a submission says: the JSON that holds a finished run, so that others can check it.

It holds the suite as it was run, every cell with its figures and the digests of its artifact, what it cost, and where
it was computed. What repeats is written once: `kinds` has the figures of a kind of cell without their values, a cell
has the values. A cell's figures are, to the byte, the `records.json` of its measuring job, so their digest is checked
by writing them again. Contact sheets lie beside the file, under names that follow from the cell.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Set
from functools import cached_property
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import RunError
from harness.ranking import Judging, Tuning
from harness.records import FILE, SCHEMA, assemble, dump_figures, picture_name

FORMAT = 1
"""The newest format of a submission that this harness reads and the one that it writes."""

COSTS = ("s", "MiB")
"""Units of what a machine takes."""
EXPANDED = 512 * 2**20
"""Bytes of all its figures, each with its coordinates; what says more is refused."""

Name = Annotated[str, Field(pattern=r"^\w[\w .,+=()@-]*$", max_length=100)]
"""What a folder or a picture may be called."""
_LABEL = r"^\w[\w .,:;+=()@'°/-]*$"
Label = Annotated[str, Field(pattern=_LABEL, max_length=300)]
"""What stands in a table."""
Text = Annotated[
    str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$", max_length=20000)
]
"""One line, without what steers a terminal."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, in hexadecimal")]
ArtifactFile = Annotated[str, Field(pattern=r"^\w[\w.-]*\.(json|png)$", max_length=100)]
Index = Annotated[int, Field(ge=0)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Coordinate = Annotated[str, Field(pattern="^(grid|task|defense|attacker|seed|concept|role|policy|split|step)$")]
"""Columns of the records that place a cell."""
Call = Annotated[str, Field(pattern="^(defense|attacker)_call$")]
FigureColumn = Annotated[str, Field(pattern="^(metric|value|concept|role|policy|split|step|note)$")]
"""Columns of the records that a figure fills."""


class InvalidSubmission(RunError):
    """A submission that is none, is damaged, or says what cannot be. Exit code 1."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Plugin(_Part):
    """A defense, attacker or further metric with its settings."""

    kind: Literal["defense", "attacker", "metric"]
    name: Label
    params: dict[str, Any] = Field(description="all of its fields")
    source: Digest = Field(description="of what its source does")
    deterministic: bool
    control: bool = Field(description="a yardstick, not on trial")
    call: Text = Field(description="the call that makes it")
    package: Text | None = Field(description="the installed package that holds it, with its version; null: a file")
    file: Digest | None = Field(description="of a plugin file, its text in `sources`")


class Grid(_Part):
    """A grid as it was run. Numbers of plugins are places in `plugins`."""

    name: Name
    track: Label
    tasks: list[dict[str, Any]] = Field(min_length=1, description='single tasks; files they name are {"path": …}, '
                                        "relative to the suite file")  # fmt: skip
    protocol: dict[str, Any]
    defenses: dict[Label, Index] = Field(min_length=1)
    attackers: dict[Label, Index]
    metrics: dict[Label, Index] = Field({}, description="plugins that measure more than the track itself does")
    seeds: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=100)
    reference: Index | None = Field(description="what stands for no defense")


class Suite(_Part):
    """A suite as it was run."""

    name: Name
    version: int = Field(ge=1)
    title: str
    description: str
    grids: list[Grid] = Field(min_length=1)


class Cell(_Part):
    """One point of a grid, measured or failed."""

    at: dict[Coordinate, Label | Integer | None] = Field(description="its coordinates, as columns of the records")
    calls: dict[Call, Text]
    key: Digest = Field(description="of the measuring job")
    failed: Text | None = Field(None, description="the reason of a hole")
    kind: Index | None = Field(None, description="its place in `kinds`; null: a hole")
    values: list[Integer | float | None] = Field([], description="of the figures of its kind")
    files: dict[ArtifactFile, Digest] = Field({}, description="of its artifact: records.json and pictures")

    @property
    def label(self) -> str:
        """The cell, to people."""
        return " · ".join(str(value) for value in self.at.values() if value is not None)


class Averaging(_Part):
    """How a metric is read."""

    unit: Text | None
    scale: Literal["linear", "log"]


class Cost(_Part):
    """What the jobs of a stage took, each counted once."""

    track: Label
    stage: Label
    jobs: int = Field(ge=0)
    metered: int = Field(ge=0, description="of so many jobs the cost is known; seconds and memory are theirs")
    seconds: float = Field(ge=0, description="their sum")
    peak_mb: float | None = Field(description="MiB: the highest resident memory of a worker; null: unknown")


class Git(_Part):
    """The harness's checkout."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    dirty: bool = Field(description="whether a tracked file differed from the commit")


class Hardware(_Part):
    """The machine."""

    cpu: Text
    cores: int | None
    memory_gb: float = Field(description="GiB")
    gpus: list[Text]


class Provenance(_Part):
    """Where, when and by what the run was made."""

    harness: Text = Field(description="version of the harness")
    git: Git | None = Field(description="null: not run from a checkout")
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    python: Text
    system: Text
    packages: dict[Text, Text] = Field(description="versions")
    hardware: Hardware
    stages: dict[Text, int] = Field(description="versions of the stages, by track/stage")
    computed: int = Field(ge=0, description="jobs computed by the run itself; what else it needed of the plan was in "
                          "its store already")  # fmt: skip

    @property
    def told(self) -> str:
        """One line, for people."""
        commit = f" at {self.git.commit[:12]}{' and changes' if self.git.dirty else ''}" if self.git else ""
        libraries = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        machine = ", ".join([self.hardware.cpu, f"{self.hardware.cores} cores", *self.hardware.gpus])
        return f"{self.date}, immunebench {self.harness}{commit}, Python {self.python}, {libraries}; {machine}"


class Submission(_Part):
    """A finished run."""

    format: Literal[1]
    suite: Suite
    plugins: list[Plugin]
    sources: dict[Digest, Annotated[str, Field(max_length=10**6)]] = Field(description="texts of plugin files")
    metrics: dict[Label, dict[Label, Averaging]] = Field(description="by track and name")
    judging: dict[Name, Judging] = Field(description="by grid")
    kinds: list[list[dict[FigureColumn, Text | Integer | None]]] = Field(
        description="lists of figures, each with its coordinates as columns of the records, in the order in which "
        "the digest has them; `value` stands empty"
    )
    cells: list[Cell] = Field(min_length=1)
    costs: list[Cost]
    provenance: Provenance

    @model_validator(mode="after")
    def _consistent(self) -> Submission:
        for digest, text in self.sources.items():
            if hashlib.sha256(text.encode()).hexdigest() != digest:
                raise ValueError(f"the plugin source {digest[:12]} has another digest")
        for plugin in self.plugins:
            if plugin.file is not None and plugin.file not in self.sources:
                raise ValueError(f"{plugin.kind} '{plugin.name}' has no source")
        for grid in self.suite.grids:
            used = [*grid.defenses.values(), *grid.attackers.values(), *grid.metrics.values(), grid.reference or 0]
            if max(used) >= len(self.plugins):
                raise ValueError(f"grid '{grid.name}' names a plugin that is not there")
        if len(self._tracks) < len(self.suite.grids):
            raise ValueError("two grids have one name")
        if set(self.judging) != set(self._tracks):
            raise ValueError("judging is of other grids")
        if any(of.tuning != self.tuning for of in self.judging.values()):
            raise ValueError("two grids were tuned otherwise")
        for figure in (figure for kind in self.kinds for figure in kind):
            if "value" not in figure or figure["value"] is not None or not _typed(figure, {"metric"}):
                raise ValueError(f"no figure: {figure!r:.80}")
        size = [len(json.dumps(kind)) for kind in self.kinds]
        if sum(size[cell.kind] for cell in self.cells if cell.kind is not None and cell.kind < len(size)) > EXPANDED:
            raise ValueError(f"its figures, written out, are longer than {EXPANDED >> 20} MiB")
        seen: dict[str, Cell] = {}
        for cell in self.cells:
            self._check(cell)
            other = seen.setdefault(cell.key, cell)
            if other is not cell and (other.at == cell.at or (other.files, other.failed) != (cell.files, cell.failed)):
                raise ValueError(f"{cell.label}: the cell is there twice, or its job with other figures")
        return self

    def _check(self, cell: Cell) -> None:
        if cell.at.get("grid") not in self._tracks or not _typed(cell.at, {"task", "defense"}):
            raise ValueError(f"{cell.label}: other coordinates than records have")
        if cell.kind is None:
            if cell.failed is None or cell.values or cell.files:
                raise ValueError(f"{cell.label}: the cell is neither measured nor failed")
            return
        if cell.failed is not None or cell.kind >= len(self.kinds) or len(self.kinds[cell.kind]) != len(cell.values):
            raise ValueError(f"{cell.label}: other figures than its kind has")
        text = dump_figures(self.figures(cell))
        if cell.files.get(FILE) != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError(f"{cell.label}: the figures are not those of the digest")

    @property
    def tuning(self) -> Tuning | None:
        """On what its suite's settings were chosen."""
        return next(iter(self.judging.values())).tuning

    @cached_property
    def _tracks(self) -> dict[str, str]:
        return {grid.name: grid.track for grid in self.suite.grids}

    def figures(self, cell: Cell) -> list[dict[str, Any]]:
        """The figures of a measured cell, as its job left them."""
        assert cell.kind is not None
        kind = self.kinds[cell.kind]
        return [{**figure, "value": value} for figure, value in zip(kind, cell.values, strict=True)]

    def is_cost(self, cell: Cell, figure: Mapping[str, Any]) -> bool:
        """Whether a figure is what a machine took, which no other one takes alike."""
        of_track = self.metrics.get(self._tracks[str(cell.at["grid"])], {})
        return figure["metric"] in of_track and of_track[figure["metric"]].unit in COSTS

    def coordinates(self, cell: Cell) -> dict[str, Any]:
        """A cell's coordinates, as the plan has them."""
        common = {"suite": self.suite.name, "suite_version": self.suite.version}
        return {**common, "track": self._tracks[str(cell.at["grid"])], **cell.at, **cell.calls}

    def records(self) -> pd.DataFrame:
        """The run's records (`harness.records.SCHEMA`)."""
        measured = {cell.key: self.figures(cell) for cell in self.cells if cell.failed is None}
        failed = {cell.key: cell.failed for cell in self.cells if cell.failed is not None}
        averaging = {track: {name: how.model_dump() for name, how in of.items()} for track, of in self.metrics.items()}
        cells = ((self.coordinates(cell), cell.key) for cell in self.cells)
        return assemble(cells, measured, failed, averaging, self.judging)

    def pictures(self) -> Iterator[tuple[str, str]]:
        """The pictures that lie beside the file: name and digest of each."""
        for cell in self.cells:
            for file, digest in cell.files.items():
                if file.endswith(".png"):
                    yield picture_name(cell.at, file), digest


def _typed(columns: Mapping[str, Any], needed: Set[str]) -> bool:
    """Whether columns of the records, `needed` ones among them, have values of their types, or none; labels, but for
    notes."""

    def right(name: str, value: Any) -> bool:
        if SCHEMA[name] != "string":
            return isinstance(value, int)
        return isinstance(value, str) and (name == "note" or re.match(_LABEL, value) is not None)

    return all(columns.get(name) is not None for name in needed) and all(
        value is None or right(name, value) for name, value in columns.items()
    )
