"""Makes a submission from a plan and its artifacts."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bounded import file_digest
from harness.errors import ImmuneBenchError, UsageError
from harness.execution.worker import ensure
from harness.files import check_file
from harness.metric import VALUES, read_values
from harness.plan import Plan
from harness.stage import Stage
from harness.store import Store
from harness.submission import provenance, read_write, sources
from harness.submission.anonymise import anonymous, leaks, portable
from harness.submission.run_folder import RUN
from harness.submission.schema import FORMAT, Method, Provenance, Submission, picture_name
from harness.suite import Suite


def opening(plan: Plan, store: Store) -> dict[str, Any]:
    """The fields of a submission that are known before the run of `plan` with `store`: the suite, its plugin files, and
    the provenance."""
    made = {
        **provenance.gather(),
        "stages": provenance.stages(plan.jobs.values()),
        "computed": len(plan.missing(store)),
    }
    files = [source.model_dump() for source in sources.gather(plan.suite.plugins)]
    return {"format": FORMAT, "suite": packed_suite(plan.suite), "sources": files, "provenance": made}


def packed_suite(suite: Suite) -> dict[str, Any]:
    """The suite as JSON; paths in its tasks and protocols are relative to the suite file."""
    content = suite.model_dump(mode="json")
    for grid in content["grids"]:
        grid |= {name: portable(grid[name], suite.folder) for name in ("tasks", "protocol")}
    return content


def pack(plan: Plan, store: Store, failed: Mapping[str, str], opening: Mapping[str, Any]) -> Submission:
    """The submission of a finished run.

    plan: the plan of the run. store: its artifacts, each of which is read once. failed: the reasons of failed jobs, by
    key. opening: the result of `opening` before the run. Raises `InvalidSubmission` for values or pictures that a
    submission may not have.
    """
    kinds, machines = _Kinds(), _Machines(Provenance.model_validate(opening["provenance"]).machine)
    jobs: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        key = cell.job.key
        if key in failed:
            jobs[key] = {"failed": anonymous(failed[key])}
        elif key not in jobs:
            folder, manifest = ensure(cell.job, store), store.manifest(key)
            jobs[key] = {**kinds.pack(folder, manifest["files"]), **machines.pack(manifest.get("machines", []))}
    cells = [{"coordinates": dict(cell.coordinates), "key": cell.job.key, **jobs[cell.job.key]} for cell in plan.cells]
    made = {**opening["provenance"], **machines.fields}
    content = {**opening, "provenance": made, "kinds": kinds.kinds, "cells": cells, "costs": _costs(plan, store)}
    return read_write.parse(content, "the run")


class _Kinds:
    """The kinds of cells met so far."""

    def __init__(self) -> None:
        self.kinds: list[list[dict[str, Any]]] = []
        self._places: dict[str, int] = {}

    def pack(self, artifact: Path, digests: Mapping[str, str]) -> dict[str, Any]:
        """The fields of a cell from the artifact of its job. digests: digests of the artifact's files by name."""
        files = {name: digest for name, digest in digests.items() if name in (VALUES, Path(name).stem + ".png")}
        if VALUES not in files:
            return {"files": files}
        values = read_values(artifact)
        kind = [{**value, "value": None} for value in values]
        place = self._places.setdefault(str(kind), len(self.kinds))
        if place == len(self.kinds):
            self.kinds.append(kind)
        return {"kind": place, "values": [value["value"] for value in values], "files": files}


class _Machines:
    """The machines of the cells that not this machine alone computed. own: this machine."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._places: dict[str, int] = {}

    def pack(self, machines: Sequence[str]) -> dict[str, Any]:
        """The fields of a cell that `machines` computed; artifacts of earlier versions do not name any."""
        if set(machines) <= {self._own}:
            return {}
        return {"machines": [self._places.setdefault(name, len(self._places)) for name in machines]}

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the provenance."""
        return {"machines": list(self._places)} if self._places else {}


def _costs(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """The costs of the plan's jobs by stage, from this run or an earlier one; the ledger has the costs of artifacts
    that were deleted."""
    ledger = {entry["key"]: entry for entry in store.ledger() if "key" in entry}
    entries: dict[tuple[str, str], list[Mapping[str, Any] | None]] = defaultdict(list)
    for job in plan.jobs.values():
        entries[job.track, job.name].append(_entry(job, store) or ledger.get(job.key))
    costs = []
    for (track, stage), jobs in entries.items():
        known = [job for job in jobs if job is not None]
        peaks = [job["peak_mb"] for job in known if job.get("peak_mb") is not None]
        seconds = sum(job["seconds"] for job in known)
        counts = {"jobs": len(jobs), "metered": len(known)}
        costs.append(
            {"track": track, "stage": stage, **counts, "seconds": seconds, "peak_mb": max(peaks, default=None)}
        )
    return costs


def _entry(job: Stage, store: Store) -> Mapping[str, Any] | None:
    try:
        return store.manifest(job.key)
    except (OSError, ValueError):  # the artifact does not exist, or another run is deleting it
        return None


def copy_pictures(plan: Plan, store: Store, failed: Mapping[str, str], out: Path) -> None:
    """Copy the pictures in the artifacts of cells into the folder `out`, under names that contain the cell's
    coordinates. failed: failed jobs by key, which have no artifact."""
    for cell in plan.cells:
        if cell.job.key not in failed:
            for path in sorted(ensure(cell.job, store).glob("*.png")):
                shutil.copyfile(path, out / picture_name(cell.coordinates, path.name))


def submit(
    run: Path, out: Path | None = None, method: Method | None = None, force: bool = False
) -> tuple[Path, Submission]:
    """Check the submission of a run and copy it, with its pictures, to the submissions.

    run: folder of the run. out: file to write; by default `results/submissions/SUITE/NAME.json.gz`, where NAME is the
    name of the run's folder. method: what is submitted; None: not said. force: replace a file of other content, with
    its pictures. Returns the file and the submission. Raises `UsageError` if the folder has no submission, if the
    submission has an earlier format, names folders of this machine, would overwrite another's picture, cannot be
    written or, without `force`, would replace a file of other content; raises `InvalidSubmission` for an invalid file.
    """
    if not (run / RUN).is_file():
        raise UsageError(f"{run} has no {RUN}; `immunebench run SUITE --out {run}` writes it")
    submission = read_write.read(run / RUN)
    if submission.older:
        made_by = submission.provenance.commit
        raise UsageError(f"{run / RUN} was written by an earlier harness ({made_by}): run the suite again")
    if method is not None:
        submission = submission.model_copy(update={"method": method})
    if named := leaks(submission.model_dump(mode="json")):
        raise UsageError(
            f"{run / RUN} names folders of this machine, at {', '.join(named[:3])}: make these paths relative to the "
            "suite file, and run the suite again"
        )
    path = out or Path("results/submissions") / submission.suite.name / f"{run.resolve().name}{read_write.SUFFIX}"
    if not path.name.endswith((".json", ".json.gz")):
        raise UsageError(f"cannot write {path}: the name of a submission ends with .json or .json.gz")
    check_file(path)
    replaces = path.is_file()
    if replaces and not force and not _holds(path, submission):
        raise UsageError(f"{path} has other content: --force replaces it, --out FILE writes elsewhere")
    beside = {path.parent / name: digest for name, digest in submission.pictures()}
    pictures = [
        picture for picture, digest in beside.items() if not picture.is_file() or file_digest(picture) != digest
    ]
    if not replaces and (others := [picture.name for picture in pictures if picture.is_file()]):
        raise UsageError(
            f"{path.parent} has a different picture {others[0]} of another submission: choose another --out"
        )
    read_write.write(submission, path)
    for picture in pictures:
        shutil.copyfile(run / picture.name, picture)
    return path, submission


def _holds(path: Path, submission: Submission) -> bool:
    """Whether the file `path` and the pictures beside it are those of `submission`."""
    try:
        return read_write.read(path) == submission
    except ImmuneBenchError:
        return False
