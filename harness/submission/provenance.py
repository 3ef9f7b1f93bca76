"""Provenance of a run's values: the harness's commit, versions of packages, hardware. It names no person, machine or
folder."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.stage import Stage

PACKAGE = "immunebench"
ROOT = Path(__file__).parents[2]


def gather() -> dict[str, Any]:
    """The fields of a submission's `provenance` that describe this process and machine."""
    return {
        "harness": importlib.metadata.version(PACKAGE),
        "git": git(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": packages(),
        "hardware": hardware(),
    }


def differences(given: Mapping[str, Any]) -> list[str]:
    """What computes values and is another here than in `given`, the `provenance` of a submission: Python, packages, the
    processor and the GPUs, each with both values."""
    here = gather()
    pairs = [("Python", given["python"], here["python"])]
    names = sorted({*given["packages"], *here["packages"]})
    pairs += [(name, given["packages"].get(name), here["packages"].get(name)) for name in names]
    pairs += [("processor", given["hardware"]["cpu"], here["hardware"]["cpu"])]
    pairs += [("GPUs", given["hardware"]["gpus"], here["hardware"]["gpus"])]
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


def packages() -> dict[str, str]:
    """Versions of the packages that the harness requires, by name of the package."""
    versions = {}
    for requirement in importlib.metadata.requires(PACKAGE) or []:
        if "extra ==" not in requirement:
            name = re.match(r"[\w.-]+", requirement)
            assert name is not None
            versions[name.group()] = importlib.metadata.version(name.group())
    return versions


def hardware() -> dict[str, Any]:
    """CPU model with what torch computes by on it (see `_kernels`), logical cores, memory in GiB, and the models of the
    GPUs that torch sees."""
    import psutil
    import torch

    return {
        "cpu": f"{_cpu()} ({_kernels()})",
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _kernels() -> str:
    """The vector instructions and the linear algebra library of torch, and the settings that change the library's
    results."""
    import torch

    library = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    settings = [f"{name}={os.environ[name]}" for name in ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS") if name in os.environ]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *(library.groups() if library else ()), *settings])


def _cpu() -> str:
    """The CPU's model as Linux reports it, else as Python does."""
    try:
        model = re.search(
            r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
    except OSError:
        model = None
    return model.group(1).strip() if model else platform.processor()
