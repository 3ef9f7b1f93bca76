"""Cells to jobs, each with its content key.

A job is a pure function of its inputs, one plugin with its hyper-parameters, a seed and its parents' artifacts.
Its key hashes just these, so what cells share is computed once; it never holds labels, paths, workers or devices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.plugin import PluginSpec
from harness.store import Store
from harness.suite import Suite


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One step of computing a cell.

    track, stage, version: who carries it out; raise the stage's version when its code changes what it computes.
    inputs: JSON values. parents: jobs whose artifacts it reads, by role.

    The rest are run-time matters and not part of the key. transient: large and only read by other jobs, so the runner
    may drop it when these are done. where: what lies where on this machine (folders of data and weights that the
    inputs name by digest). gpu: a GPU speeds it up. work: how much there is to do, in the stage's own unit; costs of
    earlier jobs are taken by it.
    """

    track: str
    stage: str
    version: int
    inputs: Mapping[str, Any]
    plugin: PluginSpec | None = None
    seed: int | None = None
    parents: Mapping[str, Job] = field(default_factory=dict)
    transient: bool = False
    where: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False
    work: float = 1.0

    @cached_property
    def key(self) -> str:
        """SHA-256 of the job's identity, in hexadecimal."""
        return digest(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """All that the result depends on."""
        return {
            "track": self.track,
            "stage": self.stage,
            "version": self.version,
            "inputs": self.inputs,
            "plugin": self.plugin.identity if self.plugin else None,
            "seed": self.seed,
            "parents": {role: parent.key for role, parent in self.parents.items()},
        }

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the store notes beside the artifact."""
        plugin = {"plugin": self.plugin.name, "call": digest(self.plugin.identity)[:16]} if self.plugin else {}
        return {**self.identity, "plugin": None, "call": None, **plugin, "work": self.work, "transient": self.transient}


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces, no NaN), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seed_of(*depends_on: Any) -> int:
    """A seed (63 bits) drawn from what a random draw may depend on, so that nothing else ever changes it."""
    return int(digest(list(depends_on))[:16], 16) >> 1


@dataclass(frozen=True)
class Cell:
    """One point of the grid: its coordinates and the job that measures it."""

    coordinates: Mapping[str, Any]
    job: Job


@dataclass(frozen=True)
class Plan:
    """A suite's cells, and every job they need, parents before children, what shares a parent close together."""

    suite: Suite
    cells: tuple[Cell, ...]
    jobs: Mapping[str, Job]

    def missing(self, store: Store) -> dict[str, Job]:
        """The jobs to run: those whose artifact is wanted, by a cell or by a missing job, and not there (of a cell:
        not there undamaged)."""
        measured = {cell.job.key for cell in self.cells}
        wanted = set(measured)
        missing: set[str] = set()
        for key, job in reversed(list(self.jobs.items())):  # children before parents
            there = store.open(key) is not None if key in measured else store.has(key)
            if key in wanted and not there:
                missing.add(key)
                wanted.update(parent.key for parent in job.parents.values())
        return {key: job for key, job in self.jobs.items() if key in missing}

    def describe(self, job: Job) -> str:
        """The cell a job is for, to people."""
        return self._labels.get(job.key, job.stage)

    @cached_property
    def _labels(self) -> dict[str, str]:
        labels: dict[str, str] = {}
        for cell in self.cells:
            at = cell.coordinates
            label = " · ".join(str(at[name]) for name in ("task", "defense", "attacker") if at.get(name))
            for job in ancestry(cell.job):
                labels.setdefault(job.key, label)
        return labels


def make(suite: Suite) -> Plan:
    """The plan of a suite."""
    cells: list[Cell] = []
    jobs: dict[str, Job] = {}
    for grid in suite.grids:
        common = {"suite": suite.name, "suite_version": suite.version, "grid": grid.name, "track": grid.track.name}
        seen = set()
        for coordinates, job in grid.track.measurements(grid):
            # What draws no random numbers is one cell, not one a seed.
            identity = (coordinates["defense"], coordinates.get("attacker"), job.key)
            if identity not in seen:
                seen.add(identity)
                cells.append(Cell({**common, **coordinates}, job))
                for needed in ancestry(job):
                    jobs.setdefault(needed.key, needed)
    return Plan(suite, tuple(cells), jobs)


def ancestry(job: Job) -> Iterator[Job]:
    """A job's ancestors and itself, parents first."""
    for parent in job.parents.values():
        yield from ancestry(parent)
    yield job
