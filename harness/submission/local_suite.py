"""The suite of a submission with the plugins and files of this machine, from which a plan can be made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from harness import checkpoints
from harness.errors import UsageError, describe, nearest
from harness.files import user_path
from harness.plugin import PluginSpec
from harness.ranking import covering
from harness.registry import Registry, installed
from harness.submission.anonymise import placed
from harness.submission.schema import InvalidSubmission, Submission
from harness.suite import Grid, Suite
from harness.suite_file import read
from harness.suite_grid import describe_grid


@dataclass(frozen=True)
class LocalSuite:
    """A submission's suite on this machine.

    suite: the suite; plugins that can run here have a module, the others have none. skipped: why some plugins cannot
    run here. problems: fields of the submission that differ from those of its track or its metrics here.
    """

    suite: Suite
    skipped: list[str]
    problems: list[str]


def installed_suite(suite: str) -> Path | None:
    """The file of the suite installed under the name `suite`, without `@base`; None if there is none."""
    name = suite.partition("@")[0]
    return next((Path(entry.file) for entry in installed().all("suite") if entry.name == name and entry.file), None)


def plugin_files(suite: str, plugins: Sequence[Path] = ()) -> list[Path]:
    """The plugin files of the suite installed under the name `suite`, and `plugins`, each once."""
    path = installed_suite(suite)
    own = [user_path(plugin, path.parent) for plugin in read(path).plugins] if path else []
    return list(dict.fromkeys(user_path(file).resolve() for file in (*own, *plugins)))


def localise(
    submission: Submission,
    folder: Path,
    plugins: Sequence[Path] = (),
    folders: Mapping[str, Path] = MappingProxyType({}),
) -> LocalSuite:
    """Complete the suite of a submission with the plugins and files of this machine.

    submission: the submission. folder: folder to which its paths are relative. plugins: plugin files of this machine.
    folders: folders of the weights of its checkpoints, by row. A plugin that is missing here, or has another digest, or
    a checkpoint without a folder stays as the submission describes it: its jobs can be planned but not run. Raises
    `UsageError` for a track that is missing here, for a folder of a row that is no checkpoint or has other weights, and
    `InvalidSubmission` for tasks or a protocol
    that the track refuses, and for a plugin whose description differs from the plugin here.
    """
    rows = [label for grid in submission.suite.grids for label in grid.defenses if _is_checkpoint(grid, label)]
    for label in folders:
        if label not in rows:
            raise UsageError(f"--checkpoint {label}: the submission has no such checkpoint; {nearest(label, rows)}")
    reader = _Reader(installed().with_files(plugins), folder, submission, folders)
    grids = [reader.grid(grid) for grid in submission.suite.grids]
    local = {"grids": grids, "plugins": tuple(plugins), "folder": folder}
    skipped = list(dict.fromkeys(reader.skipped))
    return LocalSuite(submission.suite.model_copy(update=local), skipped, reader.problems)


class _Reader:
    def __init__(self, registry: Registry, folder: Path, submission: Submission, folders: Mapping[str, Path]) -> None:
        self.skipped: list[str] = []
        self.problems: list[str] = []
        self._registry, self._folder, self._sources = registry, folder, submission.sources
        self._folders = folders

    def grid(self, grid: Grid) -> Grid:
        """The grid with this machine's plugins, and with the fields that follow from its track."""
        where = f"grid '{grid.name}'"
        try:
            track = self._registry.track(grid.track, where)
        except UsageError as error:
            hint = "; the submission contains plugin files: read them, then run them by --trust" * bool(self._sources)
            raise UsageError(f"{error}{hint}") from None
        try:
            tasks = [track.single_task_model.model_validate(task) for task in self._place(grid.tasks)]
            protocol = track.protocol_model.model_validate(self._place(grid.protocol))
        except ValidationError as error:
            raise InvalidSubmission(f"{where}: {describe(error):.500}") from None
        if protocol.reference != grid.reference.name:
            raise InvalidSubmission(f"{where}: the reference differs from the one that its protocol names")
        local = describe_grid(
            self._registry,
            track,
            tasks,
            protocol,
            name=grid.name,
            defenses={label: self._defense(label, spec) for label, spec in grid.defenses.items()},
            attackers={label: self._spec(spec) for label, spec in grid.attackers.items()},
            metrics={label: self._spec(spec) for label, spec in grid.metrics.items()},
            seeds=grid.seeds,
            reference=self._spec(grid.reference),
            threat_models=covering(grid.threat_models, grid.attackers),
            sweeps=grid.sweeps,
            ensemble=grid.ensemble,
            tuned={
                label: {defense: self._spec(spec) for defense, spec in specs.items()}
                for label, specs in grid.tuned.items()
            },
            changed=grid.changed,
        )
        self.problems += [
            f"{where}: the field {field} differs from that of its track and metrics"
            for field in _differences(grid, local)
        ]
        if local.reference.module and local.reference.params != self._defaults(local.reference):
            self.problems.append(f"{where}: the settings of its reference are not the plugin's defaults")
        return local

    def _place(self, value: Any) -> Any:
        try:
            return placed(value, self._folder)
        except ValueError as error:
            raise InvalidSubmission(str(error)) from None

    def _defaults(self, spec: PluginSpec) -> dict[str, Any]:
        return self._registry.get("defense", spec.name).spec({}, "reference").params

    def _defense(self, label: str, spec: PluginSpec) -> PluginSpec:
        """The plugin of the row `label`, with the folder of its weights if it is a checkpoint."""
        here = self._spec(spec)
        if spec.name != checkpoints.PLUGIN or not here.module:
            return here
        if label not in self._folders:
            digest = spec.params["digest"]
            self.skipped.append(f"the weights of '{label}' (SHA-256 {digest}) are needed: --checkpoint {label}=DIR")
            return spec
        here = here.model_copy(update={"folder": str(self._folders[label])})
        checkpoints.weights_of(here)
        return here

    def _spec(self, spec: PluginSpec) -> PluginSpec:
        """The plugin of this machine, or the submission's spec if it cannot run here."""
        self._place(spec.params)  # refuses files outside of the folder
        where = f"{spec.kind} '{spec.name}'"
        try:
            here = self._registry.get(spec.kind, spec.name).spec(spec.params, where)
        except UsageError as error:
            from_file = spec.package is None and self._sources
            hint = f"{where} is a plugin file in the submission: read it, then run it by --trust"
            self.skipped.append(hint if from_file else str(error))
            return spec
        if here.source != spec.source:
            self.skipped.append(f"the code of {where} here differs from that in {spec.package or 'the submission'}")
            return spec
        if here.model_dump(exclude={"package"}) != spec.model_dump(exclude={"package"}):
            raise InvalidSubmission(f"{where} is {here.call} here, but {spec.call} in the submission: it was changed")
        return here


def _is_checkpoint(grid: Grid, label: str) -> bool:
    return grid.defenses[label].name == checkpoints.PLUGIN


def _differences(grid: Grid, local: Grid) -> Iterator[str]:
    """The derived fields that differ from those here. Quantities of metrics that are missing here are not compared."""
    for field in ("ranking", "members", "threat_models"):
        if getattr(grid, field) != getattr(local, field):
            yield field
    expected = [quantity.identity for quantity in local.quantities]
    given = [quantity.identity for quantity in grid.quantities]
    if any(not spec.module for spec in local.metrics.values()):
        names = {quantity.name for quantity in local.quantities}
        given = [identity for identity in given if identity[0] in names]
    if given != expected:
        yield "quantities"
