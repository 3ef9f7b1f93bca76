"""The plan of a submission, made anew here: its jobs' keys tell whether it is of the configuration that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from harness import submission as schema
from harness.catalogue import Catalogue
from harness.errors import describe
from harness.plugin import PluginSpec
from harness.submission import InvalidSubmission, Submission
from harness.suite import Grid, Suite


@dataclass(frozen=True)
class Claimed(PluginSpec):
    """A plugin as a submission tells of it: to make a plan of, where it need not be installed."""

    told: str = ""

    def __repr__(self) -> str:
        return self.told


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
                reference=reference,
            )
        )
    suite = submission.suite
    return Suite(suite.name, suite.version, suite.title, suite.description, tuple(grids), folder=folder)


def _claimed(plugin: schema.Plugin) -> PluginSpec:
    told = {"kind", "name", "params", "source", "deterministic"}
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
