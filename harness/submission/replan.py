"""The plan of a submission, made anew here: its jobs' keys tell whether it is of the configuration that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from harness.errors import UsageError, describe
from harness.plugin import PluginSpec
from harness.registry import Catalogue
from harness.submission import schema
from harness.submission.schema import InvalidSubmission, Submission
from harness.suite import Grid, Suite


@dataclass(frozen=True)
class Claimed(PluginSpec):
    """A plugin as a submission tells of it: to make a plan of, where it need not be installed."""

    told: str = ""

    def __repr__(self) -> str:
        return self.told


class Plugins:
    """The plugins of a submission that can be run here. sources: a folder to write those into that came with it;
    None: they are not trusted. reasons: why some cannot be run."""

    def __init__(self, found: Submission, sources: Path | None) -> None:
        self.reasons: list[str] = []
        self._found, self._sources, self._catalogue = found, sources, Catalogue()

    def find(self, plugin: schema.Plugin) -> PluginSpec | None:
        """That one, or None; raises `InvalidSubmission` if it is another than the submission says."""
        found = self._find(plugin, f"{plugin.kind} '{plugin.name}'")
        if isinstance(found, PluginSpec):
            return found
        if found not in self.reasons:
            self.reasons.append(found)
        return None

    def _find(self, plugin: schema.Plugin, told: str) -> PluginSpec | str:
        """That one, or why it cannot be run."""
        placed(plugin.params, Path())  # no files outside
        if plugin.file is not None and self._sources is None:
            return f"{told} came as a file with the submission; --trust runs it, look at it first"
        try:
            spec = self._here(plugin).get(plugin.kind, plugin.name).spec(plugin.params, told)
        except UsageError as error:
            return str(error)
        if spec.source != plugin.source:
            return f"{told} has another source here than in {plugin.package or 'the submission'}"
        if (spec.params, spec.deterministic, spec.control, repr(spec)) != (
            plugin.params,
            plugin.deterministic,
            plugin.control,
            plugin.call,
        ):
            raise InvalidSubmission(f"{told} is {spec!r} here, not {plugin.call}: the configuration was changed")
        return spec

    def _here(self, plugin: schema.Plugin) -> Catalogue:
        if plugin.file is None:
            return self._catalogue
        assert self._sources is not None
        path = self._sources / f"plugin_{plugin.file[:16]}.py"
        path.write_text(self._found.sources[plugin.file], encoding="utf-8")
        return Catalogue([path])


def installed(suite: str) -> Path | None:
    """The file of the suite that is installed here under that name (less `@base`); None if there is none."""
    name = suite.partition("@")[0]
    return next((Path(of.file) for of in Catalogue().all("suite") if of.name == name and of.file), None)


def suite_of(submission: Submission, folder: Path, find: Callable[[schema.Plugin], PluginSpec | None]) -> Suite:
    """The suite of a submission, to be planned here.

    folder: what its files are relative to. find: the plugin that is at hand here for one of the submission's; None if
    there is none: then its jobs can be planned but not done. Raises `UsageError` for a track that is not installed,
    `InvalidSubmission` for tasks or a protocol that its track refuses.
    """
    catalogue = Catalogue()
    specs = [find(plugin) or _claimed(plugin) for plugin in submission.plugins]
    grids = []
    for grid in submission.suite.grids:
        where = f"grid '{grid.name}'"
        track = catalogue.track(grid.track, where)
        try:
            tasks = [track.single_task_model.model_validate(placed(task, folder)) for task in grid.tasks]
            protocol = track.protocol_model.model_validate(placed(grid.protocol, folder))
        except ValidationError as error:
            raise InvalidSubmission(f"{where}: {describe(error)}") from None
        reference = None if grid.reference is None else specs[grid.reference]
        if getattr(protocol, "reference", None) != (reference and reference.name):
            raise InvalidSubmission(f"{where}: its protocol names another reference than it has")
        grids.append(
            Grid(
                name=grid.name,
                track=track,
                tasks=tuple(tasks),
                protocol=protocol,
                defenses={label: specs[place] for label, place in grid.defenses.items()},
                attackers={label: specs[place] for label, place in grid.attackers.items()},
                seeds=tuple(grid.seeds),
                metrics={label: specs[place] for label, place in grid.metrics.items()},
                reference=reference,
            )
        )
    suite = submission.suite
    return Suite(
        suite.name,
        suite.version,
        suite.title,
        suite.description,
        tuple(grids),
        tuning=submission.tuning,
        folder=folder,
    )


def _claimed(plugin: schema.Plugin) -> PluginSpec:
    told = {"kind", "name", "params", "source", "deterministic", "control"}
    return Claimed(**plugin.model_dump(include=told), module="", attribute="", told=plugin.call)


def placed(value: Any, folder: Path) -> Any:
    """JSON in which `{"path": …}` has become a path in `folder`; raises `InvalidSubmission` for one that leads out of
    it."""
    if isinstance(value, list):
        return [placed(item, folder) for item in value]
    if isinstance(value, dict) and set(value) != {"path"}:
        return {name: placed(item, folder) for name, item in value.items()}
    named = value["path"] if isinstance(value, dict) else value
    if isinstance(named, str) and (PurePath(named).is_absolute() or ".." in re.split(r"[/\\]", named)):
        raise InvalidSubmission(f"the submission names the file {named!r:.80}, outside of its suite's folder")
    return str(folder / str(named)) if isinstance(value, dict) else value
