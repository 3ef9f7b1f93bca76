"""Ensembles: versioned sets of attackers with their settings, threat models and budgets, by track.

A grid of a suite file names an ensemble as `red_team 1`, the name and version of one that a package ships beside its
suites in the file `red_team/1.yaml`, or as a path. The grid to run has its rows written out.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from harness import strict_yaml, tuned_file
from harness.errors import UsageError, describe, nearest
from harness.files import user_path
from harness.labels import Digest, FrozenModel, Label, Name
from harness.registry import installed
from harness.suite_file import GridFile, Rows, SuiteFile, ThreatModelFile

FORMAT = 1
"""The newest format of an ensemble file that this harness reads."""


class Members(FrozenModel):
    """The members of an ensemble for one track."""

    attackers: Rows = Field(
        min_length=1, description="rows by label, as in a suite file; `tuned` is relative to the ensemble file"
    )
    threat_models: dict[Label, ThreatModelFile] = Field({}, description="sets of these attackers, as in a suite file")

    @model_validator(mode="after")
    def _attackers_of_threat_models(self) -> Members:
        for name, model in self.threat_models.items():
            for label in model.attackers:
                if label not in self.attackers:
                    hint = nearest(label, list(self.attackers))
                    raise ValueError(f"threat model '{name}' names '{label}', which is no attacker here; {hint}")
        return self


class EnsembleFile(FrozenModel):
    """The content of an ensemble file."""

    format: int = Field(ge=1, le=FORMAT, description=f"format of the file; this harness reads up to {FORMAT}")
    name: Name = Field(description="name in suite files, before the version")
    version: int = Field(
        ge=1, description="increased with every change of a member, a setting or a threat model; a track may be added"
    )
    rule: str = Field(min_length=1, description="how the members were chosen, and when they change")
    tracks: dict[str, Members] = Field(min_length=1, description="members by track")


class Ensemble(FrozenModel):
    """The ensemble of a grid to run."""

    name: Name
    version: int = Field(ge=1)
    digest: Digest = Field(description="of its members for the grid's track, with their tuned settings")
    attackers: list[Label] = Field(description="labels of its attackers for the grid's track")

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def read(path: Path) -> EnsembleFile:
    """Read the ensemble file `path`; paths of tuned settings become absolute. Raises `UsageError` for an invalid
    file."""
    content = strict_yaml.read(path)
    try:
        file = EnsembleFile.model_validate(content.value)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, content.line)}") from None
    return file.model_copy(
        update={"tracks": {track: _located(members, path) for track, members in file.tracks.items()}}
    )


def _located(members: Members, path: Path) -> Members:
    """The members with absolute paths of tuned settings. path: the ensemble file."""
    rows = {
        label: row if row.tuned is None else row.model_copy(update={"tuned": str(user_path(row.tuned, path.parent))})
        for label, row in members.attackers.items()
    }
    return members.model_copy(update={"attackers": rows})


def digest(members: Members) -> str:
    """SHA-256 of what an ensemble from `read` runs on a track: its members, with the content of their files of tuned
    settings in place of the paths."""
    content = members.model_dump(mode="json", exclude_defaults=True)
    for row in content["attackers"].values():
        if "tuned" in row:
            row["tuned"] = tuned_file.read(Path(row["tuned"])).model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def written_out(file: SuiteFile, path: Path) -> tuple[SuiteFile, dict[str, Ensemble]]:
    """The suite with the attackers and threat models of the ensembles that its grids name, after the grids' own, and
    the ensembles by grid.

    file: the suite. path: its file. Raises `UsageError` for an unknown or invalid ensemble, one without attackers of
    the grid's track, and a label that is in both the grid and the ensemble.
    """
    grids, ensembles = [], {}
    for place, grid in enumerate(file.grids):
        if grid.ensemble is not None:
            where = f"{path.name}{file.line('grids', place, 'ensemble')}, grid '{grid.name}'"
            grid, ensembles[grid.name] = _with_members(grid, grid.ensemble, path, where)
        grids.append(grid)
    return file.model_copy(update={"grids": grids}), ensembles


def _with_members(grid: GridFile, named: str, path: Path, where: str) -> tuple[GridFile, Ensemble]:
    """The grid with the members of the ensemble `named`. path: the suite file. where: place to name in errors."""
    ensemble = _find(named, path, where)
    title = f"{ensemble.name} {ensemble.version}"
    if grid.track not in ensemble.tracks:
        tracks = ", ".join(sorted(ensemble.tracks))
        raise UsageError(f"{where}: {title} has no attackers of track '{grid.track}', only of {tracks}")
    members = ensemble.tracks[grid.track]
    for field, what in (("attackers", "attacker"), ("threat_models", "threat model")):
        for label in getattr(grid, field):
            if label in getattr(members, field):
                raise UsageError(f"{where}: {title} has the {what} '{label}' as well; give the grid's own another name")
    update = {
        "attackers": grid.attackers | members.attackers,
        "threat_models": grid.threat_models | members.threat_models,
    }
    about = Ensemble(
        name=ensemble.name, version=ensemble.version, digest=digest(members), attackers=list(members.attackers)
    )
    return grid.model_copy(update=update), about


def _find(named: str, path: Path, where: str) -> EnsembleFile:
    """The ensemble of a path relative to the suite file `path`, or of a name and version. where: place to name in
    errors."""
    if named.endswith((".yaml", ".yml")):
        file = user_path(named, path.parent)
        if not file.is_file():
            raise UsageError(f"{where}: ensemble file {named} does not exist")
        return read(file)
    entry = installed().get("ensemble", named, where)
    ensemble = read(Path(str(entry.file)))
    if named != (own := f"{ensemble.name} {ensemble.version}"):
        raise UsageError(f"{where}: the file of '{named}' has name and version {own}: {entry.file}")
    return ensemble
