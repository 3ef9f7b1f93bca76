"""The suite of a submission with the plugins and files of this machine, so that a plan can be made of it here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import UsageError, describe
from harness.plugin import PluginSpec
from harness.registry import Registry, installed
from harness.submission.anonymise import placed
from harness.submission.schema import InvalidSubmission, Submission
from harness.suite import Grid, Suite, describe_grid, read

DERIVED = ("ranking", "members", "quantities")
"""Fields of a grid that its track and its metrics determine."""


@dataclass(frozen=True)
class LocalSuite:
    """A submission's suite on this machine.

    suite: its plugins that can run here have a module, the others have none. skipped: why some plugins cannot run
    here. problems: fields of the submission that its track or its metrics determine otherwise.
    """

    suite: Suite
    skipped: list[str]
    problems: list[str]


def installed_suite(suite: str) -> Path | None:
    """The file of the suite that is installed under a name (less `@base`); None if there is none."""
    name = suite.partition("@")[0]
    return next((Path(entry.file) for entry in installed().all("suite") if entry.name == name and entry.file), None)


def plugin_files(suite: str, plugins: Sequence[Path] = ()) -> list[Path]:
    """The plugin files of the suite that is installed under a name, and `plugins`, each once."""
    path = installed_suite(suite)
    own = [path.parent / plugin for plugin in read(path).plugins] if path else []
    return list(dict.fromkeys(file.resolve() for file in (*own, *plugins)))


def localise(submission: Submission, folder: Path, plugins: Sequence[Path] = ()) -> LocalSuite:
    """The suite of a submission on this machine.

    folder: the files that it names are relative to it. plugins: plugin files of this machine. A plugin whose code here
    has another digest, or that is not here, stands as the submission describes it: its jobs can be planned but not
    run. Raises `UsageError` for a track that is not here, and `InvalidSubmission` for tasks or a protocol that the
    track refuses and for a plugin that is another than the submission says.
    """
    reader = _Reader(installed().with_files(plugins), folder, submission)
    grids = [reader.grid(grid) for grid in submission.suite.grids]
    local = {"grids": grids, "plugins": tuple(plugins), "folder": folder}
    skipped = list(dict.fromkeys(reader.skipped))
    return LocalSuite(submission.suite.model_copy(update=local), skipped, reader.problems)


class _Reader:
    def __init__(self, registry: Registry, folder: Path, submission: Submission) -> None:
        self.skipped: list[str] = []
        self.problems: list[str] = []
        self._registry, self._folder, self._sources = registry, folder, submission.sources

    def grid(self, grid: Grid) -> Grid:
        """A grid with this machine's plugins, and what its track says of it."""
        where = f"grid '{grid.name}'"
        try:
            track = self._registry.track(grid.track, where)
        except UsageError as error:
            hint = "; plugin files came with the submission: --trust runs them, read them first" * bool(self._sources)
            raise UsageError(f"{error}{hint}") from None
        try:
            tasks = [track.single_task_model.model_validate(task) for task in self._place(grid.tasks)]
            protocol = track.protocol_model.model_validate(self._place(grid.protocol))
        except ValidationError as error:
            raise InvalidSubmission(f"{where}: {describe(error):.500}") from None
        if protocol.reference != grid.reference.name:
            raise InvalidSubmission(f"{where}: its protocol names another reference than it has")
        local = describe_grid(
            self._registry,
            track,
            tasks,
            protocol,
            name=grid.name,
            defenses={label: self._spec(spec) for label, spec in grid.defenses.items()},
            attackers={label: self._spec(spec) for label, spec in grid.attackers.items()},
            metrics={label: self._spec(spec) for label, spec in grid.metrics.items()},
            seeds=grid.seeds,
            reference=self._spec(grid.reference),
            changed=grid.changed,
        )
        self.problems += [f"{where} has another {what} here" for what in _differences(grid, local)]
        if local.reference.module and local.reference.params != self._defaults(local.reference):
            self.problems.append(f"{where}: its reference has other settings than the plugin's defaults")
        return local

    def _place(self, value: Any) -> Any:
        try:
            return placed(value, self._folder)
        except ValueError as error:
            raise InvalidSubmission(str(error)) from None

    def _defaults(self, spec: PluginSpec) -> dict[str, Any]:
        return self._registry.get("defense", spec.name).spec({}, "reference").params

    def _spec(self, spec: PluginSpec) -> PluginSpec:
        """The plugin of this machine, or the submission's spec if it cannot run here."""
        self._place(spec.params)  # refuses files outside of the folder
        where = f"{spec.kind} '{spec.name}'"
        try:
            here = self._registry.get(spec.kind, spec.name).spec(spec.params, where)
        except UsageError as error:
            from_file = spec.package is None and self._sources
            hint = f"{where} came as a file with the submission; --trust runs it, read it first"
            self.skipped.append(hint if from_file else str(error))
            return spec
        if here.source != spec.source:
            self.skipped.append(f"{where} has other code here than in {spec.package or 'the submission'}")
            return spec
        if here.model_dump(exclude={"package"}) != spec.model_dump(exclude={"package"}):
            raise InvalidSubmission(f"{where} is {here.call} here, not {spec.call}: the configuration was changed")
        return here


def _differences(grid: Grid, local: Grid) -> Iterator[str]:
    """The derived fields that the submission has otherwise. Quantities of metrics that are not here are unknown."""
    unknown = any(not spec.module for spec in local.metrics.values())
    for field in DERIVED:
        given, expected = getattr(grid, field), getattr(local, field)
        if field == "quantities" and unknown:
            given = [quantity for quantity in given if quantity.name in {other.name for other in expected}]
        if given != expected:
            yield field
