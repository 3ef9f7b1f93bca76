"""The machine: versions and hardware."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest
import torch

from harness import machine

ROOT = Path(__file__).parents[1]


def test_one_line_has_what_decides_the_last_bits():
    line = machine.here()
    assert line.startswith(f"Python {platform.python_version()}, ")
    assert f"torch {torch.__version__.partition('+')[0]}" in line
    assert line.endswith(f"; {machine.processor()}")


def test_versions_of_what_the_project_requires():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line).group() for line in required}
    found = machine.packages()
    assert set(found) == names
    for name in ("torch", "diffusers", "numpy"):
        assert re.match(r"\d+\.\d+", found[name])


def test_hardware():
    found = machine.hardware()
    assert found["cores"] == psutil.cpu_count()
    assert found["memory_gb"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert re.search(r"\S+ \(\w+.*\)$", found["cpu"])


def test_hardware_names_what_changes_results_on_one_cpu():
    code = "from harness import machine; print(machine.hardware()['cpu'])"
    env = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "(DEFAULT, " in done.stdout
    assert "MKL_CBWR=COMPATIBLE" in done.stdout
