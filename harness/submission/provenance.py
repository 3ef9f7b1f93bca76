"""Where a run's figures come from: the harness's commit, versions, hardware. Nothing in it names a person, a machine
or a folder."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = "immunebench"
ROOT = Path(__file__).parents[2]


def gather() -> dict[str, Any]:
    """What a submission's `provenance` says of this process and machine."""
    return {
        "harness": importlib.metadata.version(PACKAGE),
        "git": git(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": packages(),
        "hardware": hardware(),
    }


def git(root: Path = ROOT) -> dict[str, Any] | None:
    """`commit` and `dirty` (whether a tracked file differs from it) of the checkout that the harness runs from; None if
    it runs from none: an installed copy inside of somebody else's repository is not in its index."""
    try:
        _git(root, "ls-files", "--error-unmatch", "harness/__init__.py")
        return {
            "commit": _git(root, "rev-parse", "HEAD"),
            "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def packages() -> dict[str, str]:
    """Versions of the packages that the harness requires, by name."""
    found = {}
    for requirement in importlib.metadata.requires(PACKAGE) or []:
        if "extra ==" not in requirement:
            name = re.match(r"[\w.-]+", requirement)
            assert name is not None
            found[name.group()] = importlib.metadata.version(name.group())
    return found


def hardware() -> dict[str, Any]:
    """CPU model, logical cores, memory in GiB, and the models of the GPUs that torch sees."""
    import psutil
    import torch

    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _cpu() -> str:
    """The CPU's model as Linux has it, else as Python knows it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor()
