"""Where values come from: the checkout, versions and hardware."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import psutil
import pytest

from harness.submission import provenance

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    return tmp_path


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert provenance.git(checkout) == {"commit": commit, "dirty": False}
    (checkout / "notes.txt").write_text("not tracked")
    assert provenance.git(checkout) == {"commit": commit, "dirty": False}
    (checkout / "harness" / "__init__.py").write_text("changed = 1")
    assert provenance.git(checkout) == {"commit": commit, "dirty": True}


def test_no_checkout(checkout, tmp_path_factory, monkeypatch):
    """Nothing around it; an installed copy inside of somebody else's repository; no git."""
    assert provenance.git(tmp_path_factory.mktemp("plain")) is None
    installed = checkout / "venv" / "harness"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert provenance.git(checkout / "venv") is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git(checkout) is None


def test_versions_of_what_the_project_requires():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line).group() for line in required}
    found = provenance.packages()
    assert set(found) == names
    for name in ("torch", "diffusers", "numpy"):
        assert re.match(r"\d+\.\d+", found[name])


def test_hardware():
    found = provenance.hardware()
    assert found["cores"] == psutil.cpu_count()
    assert found["memory_gb"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert re.search(r"\S+ \(\w+.*\)$", found["cpu"])


def test_hardware_names_what_changes_results_on_one_cpu():
    code = "from harness.submission import provenance; print(provenance.hardware()['cpu'])"
    env = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "(DEFAULT, " in done.stdout
    assert "MKL_CBWR=COMPATIBLE" in done.stdout
