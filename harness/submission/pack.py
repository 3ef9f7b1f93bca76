"""A finished run to a submission that names no person, machine or folder.

Files that a suite names are told relative to its own file, and by their names alone where they lie elsewhere.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from harness import ranking as protection
from harness.errors import UsageError
from harness.execution.scheduler import ensure
from harness.plan import Plan
from harness.plugin import PluginSpec
from harness.records import FILE, averaging, read_figures
from harness.store import Store, default_root, file_digest
from harness.submission import provenance
from harness.submission import read_write as submission
from harness.submission.schema import FORMAT, Submission
from harness.suite import Suite

RUN = "run.json.gz"
"""What a run leaves in its folder: its submission, not yet checked."""
OF_SUITE = ("suite", "suite_version", "track")
"""Coordinates that a submission says once."""


def opening(plan: Plan, store: Store) -> dict[str, Any]:
    """What a submission says of a run that is about to begin: its suite, its plugins and where it is made."""
    made = {**provenance.gather(), "stages": stages(plan), "computed": len(plan.missing(store))}
    return {"format": FORMAT, **pack_suite(plan.suite), "provenance": made}


def pack(plan: Plan, store: Store, failed: Mapping[str, str], opening: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the submission of a run that has ended, not checked (see `submit`), from its `opening`."""
    kinds = _Numbered()
    cells = []
    for cell in plan.cells:
        at = {name: value for name, value in cell.coordinates.items() if name not in OF_SUITE}
        calls = {name: at.pop(name) for name in list(at) if name.endswith("_call")}
        packed: dict[str, Any] = {"at": at, "calls": calls, "key": cell.job.key}
        if cell.job.key in failed:
            packed["failed"] = _anonymous(failed[cell.job.key])
        else:
            folder = ensure(cell.job, store, plan.suite.plugins)
            figures = read_figures(folder)
            packed["kind"] = kinds.place([{**figure, "value": None} for figure in figures])
            packed["values"] = [figure["value"] for figure in figures]
            packed["files"] = {path.name: file_digest(path) for path in [folder / FILE, *sorted(folder.glob("*.png"))]}
        cells.append(packed)
    return {
        **opening,
        "metrics": averaging(plan.suite),
        "judging": {name: of.model_dump(mode="json") for name, of in protection.judging(plan).items()},
        "kinds": kinds.values,
        "cells": cells,
        "costs": _costs(plan, store),
    }


def pack_suite(suite: Suite) -> dict[str, Any]:
    """The parts of a submission that its cells follow from: `suite`, `plugins` and `sources`."""
    plugins = _Numbered()
    sources: dict[str, str] = {}

    def plugin(spec: PluginSpec) -> int:
        text = Path(spec.file).read_text(encoding="utf-8") if spec.file else None
        digest = None if text is None else hashlib.sha256(text.encode()).hexdigest()
        if text is not None and digest is not None:
            sources[digest] = text
        return plugins.place({
            "kind": spec.kind, "name": spec.name, "params": dict(spec.params), "source": spec.source,
            "deterministic": spec.deterministic, "control": spec.control, "call": repr(spec),
            "package": _package(spec), "file": digest,
        })  # fmt: skip

    grids = [
        {
            "name": grid.name,
            "track": grid.track.name,
            "tasks": [_portable(task.model_dump(mode="json"), suite.folder) for task in grid.tasks],
            "protocol": _portable(grid.protocol.model_dump(mode="json"), suite.folder),
            "defenses": {label: plugin(spec) for label, spec in grid.defenses.items()},
            "attackers": {label: plugin(spec) for label, spec in grid.attackers.items()},
            "metrics": {label: plugin(spec) for label, spec in grid.metrics.items()},
            "seeds": list(grid.seeds),
            "reference": grid.reference and plugin(grid.reference),
        }
        for grid in suite.grids
    ]
    told = {"name": suite.name, "version": suite.version, "title": suite.title, "description": suite.description}
    return {"suite": {**told, "grids": grids}, "plugins": plugins.values, "sources": sources}


class _Numbered:
    """Values, each once, by their place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Where it stands."""
        text = json.dumps(value)
        if text not in self._places:
            self._places[text] = len(self.values)
            self.values.append(value)
        return self._places[text]


def stages(plan: Plan) -> dict[str, int]:
    """The versions of the stages that a plan needs, by track/stage."""
    return {f"{job.track}/{job.stage}": job.version for job in plan.jobs.values()}


def _package(spec: PluginSpec) -> str | None:
    """The installed package of a plugin, with its version."""
    for point in importlib.metadata.entry_points(group=f"immunebench.{spec.kind}s", name=spec.name):
        if point.module == spec.module and point.dist:
            return f"{point.dist.name} {point.dist.version}"
    return None


def _costs(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """By stage, of the plan's jobs, whenever they were done: an artifact that is gone has left its line in the
    ledger."""
    ledger = {entry["key"]: entry for entry in store.ledger() if "key" in entry}
    found: dict[tuple[str, str], list[Mapping[str, Any] | None]] = defaultdict(list)
    for key, job in plan.jobs.items():
        try:
            found[job.track, job.stage].append(store.manifest(key))
        except (OSError, ValueError):  # not there, or another run drops it just now
            found[job.track, job.stage].append(ledger.get(key))
    costs = []
    for (track, stage), jobs in found.items():
        known = [job for job in jobs if job is not None]
        peaks = [job["peak_mb"] for job in known if job.get("peak_mb") is not None]
        costs.append({
            "track": track, "stage": stage, "jobs": len(jobs), "metered": len(known),
            "seconds": sum(job["seconds"] for job in known), "peak_mb": max(peaks, default=None),
        })  # fmt: skip
    return costs


def _portable(value: Any, folder: Path) -> Any:
    """JSON in which a path of this machine has become `{"path": …}`."""
    if isinstance(value, dict):
        return {name: _portable(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, folder) for item in value]
    if not isinstance(value, str) or not PurePath(value).is_absolute():
        return value
    path = Path(value)
    return {"path": path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name}


def _machine() -> tuple[list[str], re.Pattern[str]]:
    """What names this machine and its user: folders, the longest first, and names."""
    folders = {str(Path.home()), os.getcwd(), str(default_root())} - {os.sep}
    names = [platform.node()]
    with contextlib.suppress(KeyError, OSError, ImportError):  # a user without a name
        names.append(getpass.getuser())
    either = "|".join(re.escape(name) for name in names if name)
    return sorted(folders, key=len, reverse=True), re.compile(rf"\b(?:{either})\b" if either else r"(?!)")


def _anonymous(reason: str) -> str:
    """Why a job failed, without folders, the names of this machine and its user, and what steers a terminal."""
    folders, names = _machine()
    for folder in folders:
        reason = reason.replace(folder + os.sep, "")
    reason = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,()]+[/\\])+", "", reason)
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+", " ", names.sub("…", reason))


def submit(run: Path, out: Path | None = None) -> tuple[Path, Submission]:
    """Check what a run left in its folder and write it, with its contact sheets beside it, to `out`; by default
    `results/submissions/SUITE/NAME.json.gz`, NAME being the folder's. Raises `UsageError`, also where it would tell of
    this machine, and `InvalidSubmission`."""
    if not (run / RUN).is_file():
        raise UsageError(f"{run} holds no {RUN}; `immunebench run --out {run}` leaves it, also of what is in the store")
    found = submission.read(run / RUN)
    content = found.model_dump(mode="json", exclude_unset=True)
    if told := list(_leaks(content, _machine()[0])):
        raise UsageError(
            f"{run / RUN} tells of folders of this machine, at {', '.join(told[:3])}: name these files relative to the "
            "suite file, and run it again"
        )
    name = f"{run.resolve().name}{submission.SUFFIX}"
    path = out or Path("results/submissions") / found.suite.name / name
    for picture, digest in found.pictures():
        if (path.parent / picture).is_file() and file_digest(path.parent / picture) != digest:
            raise UsageError(
                f"{path.parent} has another picture {picture}, of another submission: choose --out elsewhere"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    submission.write(content, path)
    for picture, _ in found.pictures():
        if not (path.parent / picture).is_file():
            shutil.copyfile(run / picture, path.parent / picture)
    return path, found


def _leaks(value: Any, folders: Sequence[str], where: str = "") -> Iterator[str]:
    """The places in JSON that name one of these folders, or are a path that none but this machine has."""
    if isinstance(value, str) and (PurePath(value).is_absolute() or any(folder in value for folder in folders)):
        yield where
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _leaks(item, folders, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _leaks(item, folders, f"{where}.{place}")
