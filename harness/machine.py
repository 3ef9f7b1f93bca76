"""What computes values on this machine: Python, the packages, the processor and the GPUs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "immunebench"


@cache
def here() -> str:
    """This machine as `text` describes it."""
    return text(platform.python_version(), packages(), processor())


def text(python: str, packages: Mapping[str, str], processor: str) -> str:
    """A machine in one line: what decides the last bits of a value that is computed without a GPU. Two machines with
    the same line compute the same values.

    python: its version. packages: versions by name. processor: as `processor` gives it.
    """
    versions = [f"Python {python}", *(f"{name} {version}" for name, version in sorted(packages.items()))]
    return f"{', '.join(versions)}; {processor}"


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
    """The processor (see `processor`), its logical cores, memory in GiB, and the models of the GPUs that torch sees."""
    import psutil
    import torch

    return {
        "cpu": processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def processor() -> str:
    """The CPU's model, with what torch computes by on it."""
    return f"{_cpu()} ({_kernels()})"


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
