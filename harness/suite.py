"""What a suite file says: versioned grids of tasks × defenses × attackers × seeds, each with a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from harness.errors import UsageError, describe, nearest
from harness.plugin import KINDS, Metric, PluginSpec, Track
from harness.ranking import Tuning
from harness.registry import Catalogue

FORMAT = 1
"""The newest suite file format this harness reads."""


def _numbered(seeds: Any) -> Any:
    """How many: 1 … n."""
    return list(range(1, seeds + 1)) or [seeds] if isinstance(seeds, int) else seeds


Seeds = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), BeforeValidator(_numbered)]


class Row(BaseModel):
    """One defense, attacker or metric of a grid: a plugin and its settings. Any further key is a hyper-parameter."""

    model_config = ConfigDict(extra="allow", frozen=True)

    plugin: str | None = Field(None, description="the plugin's name; by default the row's label")
    preset: str | None = Field(None, description="one of the plugin's named settings, overridden by what follows")

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters the row sets."""
        return dict(self.model_extra or {})


class GridFile(BaseModel):
    """One grid as a suite file writes it."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="as in records; published figures are joined by it")
    track: str = Field(description="whose tasks, protocol and plugins these are")
    tasks: list[dict[str, Any]] = Field(min_length=1, description="blocks of tasks, as the track has them")
    protocol: dict[str, Any] = Field({}, description="budget and what is measured, as the track has it")
    defenses: dict[str, Row] = Field(min_length=1, description="by label")
    attackers: dict[str, Row] = Field({}, description="by label; without any the models alone are measured")
    metrics: dict[str, Row] = Field({}, description="plugins that measure more than the track itself does")
    seeds: Seeds | None = Field(None, description="overrides the suite's")

    @field_validator("defenses", "attackers", "metrics", mode="before")
    @classmethod
    def _bare_labels(cls, rows: Any) -> Any:
        """A row without settings may be left empty: `none:`."""
        return {label: row or {} for label, row in rows.items()} if isinstance(rows, dict) else rows


class BaseModelFile(BaseModel):
    """Another base model for a whole suite: what it changes in every grid."""

    model_config = ConfigDict(extra="forbid")

    tasks: dict[str, Any] = Field({}, description="put over every task")
    protocol: dict[str, Any] = Field({}, description="put over every protocol")
    preset: str | None = Field(None, description="instead of the rows' presets; by default the plugins' defaults")


class SuiteFile(BaseModel):
    """A suite file."""

    model_config = ConfigDict(extra="forbid")

    format: int = Field(description=f"of the file; this harness reads up to {FORMAT}")
    name: str = Field(description="what people type")
    version: int = Field(ge=1, description="raised with every change that moves a figure; versions never mix")
    title: str = Field(description="one line")
    description: str = Field("", description="what it is for, and how its settings were chosen")
    seeds: Seeds = Field(_numbered(5), description="of every cell: how many, which are then 1 … n, or which")
    tuning: Tuning | None = Field(None, description="on which seeds and tasks settings were chosen, for what is chosen "
                                  "and reported on the same flatters")  # fmt: skip
    plugins: list[str] = Field([], description="plugin files, relative to the suite file")
    published: str | None = Field(None, description="a tidy CSV of published figures, relative to the suite file")
    bases: dict[str, BaseModelFile] = Field({}, description="other base models, by the word that chooses one")
    grids: list[GridFile] = Field(min_length=1, description="one for each set of tasks, protocol and rows")


@dataclass(frozen=True)
class Grid:
    """A grid made ready: tasks and protocol checked by its track, rows resolved to plugins."""

    name: str
    track: Track
    tasks: tuple[Any, ...]
    protocol: Any
    defenses: Mapping[str, PluginSpec]
    attackers: Mapping[str, PluginSpec]
    seeds: tuple[int, ...]
    metrics: Mapping[str, PluginSpec] = field(default_factory=dict)
    reference: PluginSpec | None = None
    """The undefended row that a track compares with, whether or not it is among `defenses`."""

    @property
    def said(self) -> list[Metric]:
        """What its figures are: the track's own and those of its metric plugins."""
        return [*self.track.metrics, *(type(spec.build()).about for spec in self.metrics.values())]


@dataclass(frozen=True)
class Suite:
    """A suite made ready."""

    name: str
    version: int
    title: str
    description: str
    grids: tuple[Grid, ...]
    published: Path | None = None
    tuning: Tuning | None = None
    plugins: tuple[Path, ...] = ()
    """Plugin files beside what is installed."""
    folder: Path = Path()
    """The suite file's, which the files it names are relative to."""

    @property
    def tracks(self) -> dict[str, Track]:
        """The tracks of its grids, by name."""
        return {grid.track.name: grid.track for grid in self.grids}


def load(
    suite: str,
    *,
    grids: Sequence[str] = (),
    defenses: Sequence[str] = (),
    attackers: Sequence[str] = (),
    seeds: int | None = None,
    settings: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
) -> Suite:
    """Read a suite by name or file and narrow or widen it.

    grids: keep these only. base: one of the suite's other base models; the suite is then called `name@base`.
    defenses, attackers: keep these rows only; a name that is no row but a plugin becomes a row with its defaults.
    seeds: overrides the number of seeds. settings: `defenses.LABEL.FIELD=VALUE` or `attackers.…`.
    plugins: plugin files; where no rows of their kind are asked for, theirs are added to the suite's.
    Raises `UsageError`.
    """
    path = _find(suite, Catalogue())
    file = read(path)
    if base is not None:
        file = _on(file, base)
    if grids:
        names = [grid.name for grid in file.grids]
        for name in grids:
            if name not in names:
                raise UsageError(f"suite '{file.name}' has no grid '{name}'; {nearest(name, names)}")
        file = file.model_copy(update={"grids": [grid for grid in file.grids if grid.name in grids]})
    files = [*(path.parent / plugin for plugin in file.plugins), *plugins]
    catalogue = Catalogue(files)
    added = {
        kind: [entry.name for entry in catalogue.all(kind) if entry.file and Path(entry.file) in _resolved(plugins)]
        for kind in KINDS
    }
    wanted = {"defense": list(defenses), "attacker": list(attackers), "metric": []}
    changes = [_setting(text) for text in settings]
    used: set[tuple[str, str]] = set()
    in_suite = {kind: {label for grid in file.grids for label in getattr(grid, f"{kind}s")} for kind in KINDS}
    ready = []
    for grid in file.grids:
        where = f"{path.name}, grid '{grid.name}'"
        track = catalogue.track(grid.track, where)
        rows: dict[str, dict[str, PluginSpec]] = {}
        for kind in KINDS:
            given: dict[str, Row] = getattr(grid, f"{kind}s")
            chosen = _choose(kind, given, wanted[kind], added[kind], in_suite[kind], catalogue, track)
            used.update((kind, label) for label in chosen)
            rows[kind] = {}
            for label, row in chosen.items():
                entry = catalogue.get(kind, row.plugin or label, where)
                params = row.params | {f: v for k, at, f, v in changes if (k, at) == (kind, label)}
                rows[kind][label] = entry.spec(params, f"{where}, {kind} '{label}'", row.preset)
                _same_track(rows[kind][label], track, where)
        if not rows["defense"] or (grid.attackers and not rows["attacker"]):
            continue
        tasks, protocol = _checked(track, grid, where, path.parent)
        reference = getattr(protocol, "reference", None)
        ready.append(
            Grid(
                name=grid.name,
                track=track,
                tasks=tasks,
                protocol=protocol,
                defenses=rows["defense"],
                attackers=rows["attacker"],
                metrics=rows["metric"],
                seeds=tuple(dict.fromkeys(_numbered(seeds) or grid.seeds or file.seeds)),
                reference=catalogue.get("defense", reference, where).spec({}, where) if reference else None,
            )
        )
    for kind in KINDS:
        choices = in_suite[kind] | {entry.name for entry in catalogue.all(kind)}
        for label in [*wanted[kind], *(at for k, at, _, _ in changes if k == kind)]:
            if (kind, label) not in used:
                raise UsageError(f"suite '{file.name}' runs no {kind} '{label}'; {nearest(label, list(choices))}")
    if not ready:
        raise UsageError(f"nothing is left to run of suite '{file.name}': every grid is empty after this choice")
    published = path.parent / file.published if file.published else None
    if published and not published.is_file():
        raise UsageError(f"{path.name}: the published figures {published} do not exist")
    return Suite(
        name=file.name,
        version=file.version,
        title=file.title,
        description=file.description,
        grids=tuple(ready),
        published=published,
        tuning=file.tuning,
        plugins=tuple(Path(file).resolve() for file in files),
        folder=path.parent,
    )


def _on(file: SuiteFile, base: str) -> SuiteFile:
    """The suite on another of its base models."""
    if base not in file.bases:
        raise UsageError(f"suite '{file.name}' knows no base '{base}'; {nearest(base, list(file.bases))}")
    changes = file.bases[base]

    def rows(given: Mapping[str, Row]) -> dict[str, Row]:
        return {label: row.model_copy(update={"preset": changes.preset}) for label, row in given.items()}

    grids = [
        grid.model_copy(
            update={
                "tasks": [task | changes.tasks for task in grid.tasks],
                "protocol": grid.protocol | changes.protocol,
                "defenses": rows(grid.defenses),
                "attackers": rows(grid.attackers),
                "metrics": rows(grid.metrics),
            }
        )
        for grid in file.grids
    ]
    return file.model_copy(update={"name": f"{file.name}@{base}", "grids": grids})


def _find(suite: str, catalogue: Catalogue) -> Path:
    if suite.endswith((".yaml", ".yml")):
        if not Path(suite).is_file():
            raise UsageError(f"suite file {suite} does not exist")
        return Path(suite).resolve()
    return Path(str(catalogue.get("suite", suite).file))


def read(path: Path) -> SuiteFile:
    """A suite file as it is written, checked in form only; raises `UsageError`."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no suite: it must be a mapping with format, name, version, title and grids")
    newest = content.get("format")
    if isinstance(newest, int) and newest > FORMAT:
        raise UsageError(f"{path} has suite format {newest}; this harness reads up to {FORMAT}: upgrade immunebench")
    try:
        return SuiteFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error)}") from None


def _resolved(paths: Sequence[str | Path]) -> set[Path]:
    return {Path(path).resolve() for path in paths}


def _choose(
    kind: str,
    given: Mapping[str, Row],
    wanted: Sequence[str],
    added: Sequence[str],
    elsewhere: Set[str],
    catalogue: Catalogue,
    track: Track,
) -> dict[str, Row]:
    """The rows to run: those wanted, else the grid's and those of the added plugin files. A plugin that is no row of
    any of the suite's grids, `elsewhere`, is a further row."""
    if kind == "attacker" and not given:
        return {}  # a grid without attackers measures the models alone
    plugins = {entry.name for entry in catalogue.all(kind) if entry.about["track"] in (track.name, "any")} - elsewhere
    chosen = {}
    for label in wanted or [*given, *(name for name in added if name not in given)]:
        if label in given or label in plugins:
            chosen[label] = given.get(label, Row())
    return chosen


def _same_track(spec: PluginSpec, track: Track, where: str) -> None:
    found = type(spec.build()).track
    if found not in (track.name, "any"):
        raise UsageError(f"{where}: {spec.kind} '{spec.name}' is of track '{found}', the grid of '{track.name}'")


def _checked(track: Track, grid: GridFile, where: str, folder: Path) -> tuple[tuple[Any, ...], Any]:
    """Tasks and protocol. `folder`: the suite file's, which the files a task names are relative to."""
    try:
        blocks = [track.task_model.model_validate(task, context={"folder": folder}) for task in grid.tasks]
        protocol = track.protocol_model.model_validate(grid.protocol)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error)}") from None
    # `Track.task_model` promises expand(), which its type, a model of pydantic's, does not know
    tasks = tuple(task for block in blocks for task in block.expand())  # type: ignore[attr-defined]
    if not tasks:
        raise UsageError(f"{where}: its tasks are empty")
    return tasks, protocol


def _setting(text: str) -> tuple[str, str, str, Any]:
    path, equals, value = text.partition("=")
    parts = path.split(".")
    kind = parts[0].removesuffix("s")
    if not equals or len(parts) < 3 or kind not in KINDS:
        raise UsageError(f"--set {text}: write defenses.LABEL.FIELD=VALUE, attackers.… or metrics.…")
    return kind, ".".join(parts[1:-1]), parts[-1], yaml.safe_load(value)
