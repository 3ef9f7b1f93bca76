"""Suite files: the content of a suite's YAML file, checked in form only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from harness import strict_yaml
from harness.errors import UsageError, describe, nearest
from harness.files import user_path
from harness.labels import FrozenModel, Label, Name, Text, file_name
from harness.ranking import ThreatModel
from harness.registry import installed
from harness.track import MOST_SEEDS

FORMAT = 1
"""The newest suite file format that this harness reads."""


def counted(seeds: Any) -> Any:
    """A number of seeds n as the seeds 1 … n; a list as it is. Raises `ValueError` for anything else."""
    if isinstance(seeds, list):
        return seeds
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"must be a list of seeds, or their number, from 1 to {MOST_SEEDS}")
    return list(range(1, seeds + 1))


Seeds = Annotated[
    list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=MOST_SEEDS), BeforeValidator(counted)
]


class Tuning(FrozenModel):
    """The seeds and tasks on which a suite's settings were chosen."""

    seeds: list[int] = Field(description="empty: no seed, the settings are the papers' or the plugins' defaults")
    tasks: list[Label] = Field([], description="labels of tasks; empty: all tasks of the suite")

    def covers(self, task: str, seed: int | None) -> bool:
        """Whether settings were chosen on this task and seed. seed: None for a value without random draws, for which
        the task alone decides."""
        if seed is None:
            return task in self.tasks
        return seed in self.seeds and (not self.tasks or task in self.tasks)


class Row(FrozenModel):
    """One defense, attacker or metric of a grid: a plugin and its settings. All other keys are hyper-parameters."""

    model_config = ConfigDict(extra="allow")

    plugin: str | None = Field(None, description="the plugin's name; by default the row's label")
    preset: str | None = Field(
        None, description="one of the plugin's named settings; the row's own settings override it"
    )
    tuned: str | None = Field(
        None,
        description="attackers only: a file of `immunebench tune`, relative to the suite file; the attacker has the "
        "settings that were searched for each defense, for the row of this label or else of the plugin's name",
    )
    tuned_on: Label | None = Field(
        None,
        description="with `tuned`: the settings searched against this defense, on all defenses (transfer); own: those "
        "of the suite that was tuned",
    )
    sweep: dict[str, Annotated[list[Any], Field(min_length=2, max_length=50)]] = Field(
        {},
        max_length=1,
        description="defenses only: a hyper-parameter with its values, from the weakest defense to the strongest; each "
        "value is a row, and the board compares the defense at equal retention",
    )

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters that the row sets."""
        return dict(self.model_extra or {})


Rows = dict[Label, Annotated[Row, BeforeValidator(lambda row: {} if row is None else row)]]
"""Rows by label; a row without settings may be left empty: `none:`."""


class TuningTasks(FrozenModel):
    """The tasks and seeds of a grid on which `immunebench tune` searches settings of attackers; none is reported."""

    tasks: list[dict[str, Any]] = Field(min_length=1, description="blocks of tasks, as the track defines them")
    seeds: Seeds = Field(description="a list, or a number n for the seeds 1 … n")


class ThreatModelFile(ThreatModel):
    """A threat model of a suite file."""

    outcome: str | None = Field(  # type: ignore[assignment]
        None,
        description="one of the track's outcomes, which says how far an attack has got; null: the value that ranks",
    )


class GridFile(FrozenModel):
    """One grid of a suite file."""

    name: Name = Field(description="name in records; published values refer to it")
    track: str = Field(description="track that defines the tasks, the protocol and the plugins")
    tasks: list[dict[str, Any]] = Field(min_length=1, description="blocks of tasks, as the track defines them")
    protocol: dict[str, Any] = Field({}, description="budget and measured steps, as the track defines them")
    defenses: Rows = Field(min_length=1, description="rows by label")
    attackers: Rows = Field({}, description="rows by label; empty: only released models are measured")
    threat_models: dict[Label, ThreatModelFile] = Field(
        {}, description="sets of attackers, each a column of the board; empty: one of all attackers"
    )
    ensemble: str | None = Field(
        None,
        description="further attackers with their threat models: name and version of an ensemble (`red_team 1`), or a "
        "path `….yaml`, relative to the suite file",
    )
    tuning: TuningTasks | None = Field(
        None, description="tasks and seeds on which `immunebench tune` searches settings of attackers; never reported"
    )
    metrics: Rows = Field({}, description="metrics beyond the track's own, or other settings of the latter")
    seeds: Seeds | None = Field(None, description="seeds of this grid instead of the suite's")


class BaseModelFile(FrozenModel):
    """Another base model for a whole suite, with its changes in every grid."""

    tasks: dict[str, Any] = Field({}, description="fields that replace those of every block of tasks")
    protocol: dict[str, Any] = Field({}, description="fields that replace those of every protocol")
    preset: str | None = Field(
        None,
        description="preset of every row instead of the row's own, of its sweep and of tuned settings, which hold for "
        "one base model; null: the plugins' defaults",
    )
    attackers: Rows = Field({}, description="further attacker rows of every grid that has attackers, as they stand")
    metrics: Rows = Field({}, description="further metric rows of every grid, as they stand")


def _stripped(text: Any) -> Any:
    """A folded block (`title: >`) without the line break that ends it."""
    return text.rstrip("\n") if isinstance(text, str) else text


class SuiteFile(FrozenModel):
    """The content of a suite file."""

    format: int = Field(ge=1, le=FORMAT, description=f"format of the file; this harness reads up to {FORMAT}")
    name: Name = Field(description="name of the suite on the command line")
    version: int = Field(
        ge=1, description="increased with every change that changes a value; values of two versions are never mixed"
    )
    title: Annotated[Text, BeforeValidator(_stripped)] = Field(description="one line")
    description: str = Field("", description="purpose of the suite, and how its settings were chosen")
    seeds: Seeds = Field(counted(5), description="seeds of every cell: a list, or a number n for the seeds 1 … n")
    tuning: Tuning | None = Field(
        None,
        description="seeds and tasks on which settings were chosen; values on the same seeds and tasks are optimistic",
    )
    plugins: list[str] = Field([], description="plugin files, relative to the suite file")
    published: str | None = Field(None, description="a tidy CSV of published values, relative to the suite file")
    bases: dict[Name, BaseModelFile] = Field({}, description="other base models, by their name in `--base`")
    grids: list[GridFile] = Field(min_length=1, description="one for each set of tasks, protocol and rows")

    _content: strict_yaml.Content = PrivateAttr(strict_yaml.Content(None, {}))

    @model_validator(mode="after")
    def _names_of_files(self) -> SuiteFile:
        for base in self.bases:
            file_name(f"{self.name}@{base}")
        names = [grid.name for grid in self.grids]
        for place, name in enumerate(names):
            if same := [other for other in names[:place] if other.casefold() == name.casefold()]:
                raise ValueError(f"two grids have one name, {same[0]} and {name} (files know no case): rename one")
        return self

    def line(self, *path: str | int) -> str:
        """The line of the part at `path` as `, line 7`, for messages; empty if it is unknown."""
        line = self._content.line(*path)
        return "" if line is None else f", line {line}"


def on_base(file: SuiteFile, base: str) -> tuple[SuiteFile, dict[str, str]]:
    """The suite with the changes of another base model, and further fields of all its tasks.

    base: NAME, one of the suite's base models; NAME=FOLDER, the same with the model in a folder on this machine, which
    becomes the field `base`; or FOLDER alone if the suite has one other base model only. Raises `UsageError` if the
    suite has no such base model, or if there is no such folder.
    """
    name, equals, folder = base.partition("=")
    if equals and not folder:
        raise UsageError(f"--base {base}: name a folder after =, or leave = out")
    if name not in file.bases and user_path(base).is_dir():
        if not file.bases:
            raise UsageError(
                f"suite '{file.name}' has no form for another base model; --set tasks.base={base} runs the tasks of a "
                "text-to-image suite as they are, with the weights in the folder"
            )
        if len(file.bases) == 1:
            (name,), folder = file.bases, base
        else:
            forms = " or ".join(f"{name}={base}" for name in file.bases)
            raise UsageError(f"suite '{file.name}' runs other base models in several forms; write --base {forms}")
    if name not in file.bases:
        raise UsageError(f"suite '{file.name}' has no base '{name}'; {nearest(name, list(file.bases))}")
    if folder and not user_path(folder).is_dir():
        raise UsageError(f"--base {base}: there is no folder '{folder}'")
    changes = file.bases[name]

    def rows(given: Mapping[str, Row]) -> dict[str, Row]:
        changed: dict[str, Any] = {"preset": changes.preset, "sweep": {}, "tuned": None, "tuned_on": None}
        return {label: row.model_copy(update=changed) for label, row in given.items()}

    grids = [
        grid.model_copy(
            update={
                "tasks": [task | changes.tasks for task in grid.tasks],
                "protocol": grid.protocol | changes.protocol,
                "defenses": rows(grid.defenses),
                "attackers": {**rows(grid.attackers), **(changes.attackers if grid.attackers else {})},
                "metrics": {**rows(grid.metrics), **changes.metrics},
            }
        )
        for grid in file.grids
    ]
    fields = {"base": str(user_path(folder).resolve())} if folder else {}
    return file.model_copy(update={"name": f"{file.name}@{name}", "grids": grids}), fields


def find(suite: str | Path) -> Path:
    """The file of `suite`, a name or a path; raises `UsageError` if there is none."""
    if not isinstance(suite, str | Path):
        raise UsageError(f"a suite is a name or a path, not {suite!r:.80}")
    path = user_path(suite)
    if isinstance(suite, Path) or path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"suite file {suite} does not exist")
        return path.resolve()
    return Path(str(installed().get("suite", suite).file))


def read(path: Path) -> SuiteFile:
    """Read the suite file `path` and check its form only; raises `UsageError` for an invalid file."""
    content = strict_yaml.read(path)
    if not isinstance(content.value, dict):
        raise UsageError(f"{path} is no suite: it must be a mapping with format, name, version, title and grids")
    newest = content.value.get("format")
    if isinstance(newest, int) and newest > FORMAT:
        raise UsageError(f"{path} has suite format {newest}; this harness reads up to {FORMAT}: upgrade immunebench")
    try:
        file = SuiteFile.model_validate(content.value)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, content.line)}") from None
    file._content = content
    return file
