"""Provenance of a run's values: the harness's commit, versions of packages, hardware. It names no person, machine or
folder."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import machine
from harness.stage import Stage
from harness.submission.schema import Provenance

ROOT = Path(__file__).parents[2]


def gather() -> dict[str, Any]:
    """The fields of a submission's `provenance` that describe this process and machine."""
    return {
        "harness": importlib.metadata.version(machine.PACKAGE),
        "git": git(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": machine.packages(),
        "hardware": machine.hardware(),
    }


def differences(given: Provenance, machines: Sequence[int] = ()) -> list[str]:
    """What computes values and is another here than where cells were computed, each with both values.

    given: the provenance of their submission. machines: of the cells (see `Cell.machines`). For cells of the run's own
    machine these are Python, packages, the processor and the GPUs, else the whole machines.
    """
    if machines:
        others = [name for name in (given.machines[place] for place in machines) if name != machine.here()]
        return [f"{', '.join(others)} there, {machine.here()} here"] if others else []
    here = gather()
    pairs: list[tuple[str, Any, Any]] = [("Python", given.python, here["python"])]
    names = sorted({*given.packages, *here["packages"]})
    pairs += [(name, given.packages.get(name), here["packages"].get(name)) for name in names]
    pairs += [("processor", given.hardware.cpu, here["hardware"]["cpu"])]
    pairs += [("GPUs", given.hardware.gpus, here["hardware"]["gpus"])]
    return [f"{name}: {there or 'none'} there, {own or 'none'} here" for name, there, own in pairs if there != own]


def stages(jobs: Iterable[Stage]) -> dict[str, int]:
    """The versions of the stages of `jobs`, by track/stage."""
    return {f"{job.track}/{job.name}": job.version for job in jobs}


def git(root: Path = ROOT) -> dict[str, Any] | None:
    """The git commit (`commit`) of the checkout at `root`, and whether a tracked file differs from it (`dirty`).

    None if the harness does not run from its checkout; a copy installed inside another repository is not in that
    repository's index and also gives None.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", "harness/__init__.py")
        return {
            "commit": _git(root, "rev-parse", "HEAD"),
            "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]  # writes nothing
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", check=True, timeout=30)
    return done.stdout.strip()
