"""Packages in a fresh environment: ours alone, and somebody else's with an attacker and a defense."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.helpers import ROOT

PROJECT = """
[build-system]
requires = ["setuptools>=77,<100"]
build-backend = "setuptools.build_meta"

[project]
name = "outsiders"
version = "1.0"
dependencies = ["immunebench"]

[project.entry-points."immunebench.attackers"]
sign_descent = "outsiders:SignDescent"

[project.entry-points."immunebench.defenses"]
doubled = "outsiders:Doubled"

[tool.setuptools]
py-modules = ["outsiders"]
"""
PLUGINS = '''
import torch

from harness import Field
from harness.probe import ProbeAttacker, ProbeDefense


class SignDescent(ProbeAttacker):
    """Steps of one size (Bernstein et al., 2018)."""

    deterministic = True
    lr: float = Field(1e-2, gt=0, description="step size of the outsiders")

    def adapt(self, model, data):
        while True:
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(self.lr * gradient.sign())
            yield loss


class Doubled(ProbeDefense):
    """All weights twice as large (a control)."""

    deterministic = True

    def immunize(self, model, targets):
        with torch.no_grad():
            model.weight *= 2
        yield 0.0
'''


@pytest.fixture
def python(tmp_path):
    """A fresh environment's interpreter; what immunebench needs is on its path and not installed a second time."""
    folder = tmp_path / "fresh"
    venv.create(folder, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "lib" / version / "site-packages" / "ours.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    """What `python -m ARGUMENTS` prints; nothing of this checkout may be on its path by accident."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(python), "-m", *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


OURS = (
    "harness",
    "defenses",
    "attackers",
    "suites",
    "docs",
    "immunebench.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.mark.slow
def test_the_wheel_alone_runs_beside_folders_of_the_same_names(python, tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    for name in OURS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    for name in ("defenses", "suites", "results", "tests"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise RuntimeError('a file of the user')")
    pip = (Path(sys.executable), work, "pip", "--python", str(python), "--quiet")
    run(*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", str(source))
    part = ["--grid", "digits", "--task", "P0-H1", "--defense", "none", "--defense", "whitening"]
    command = [str(python.parent / "immunebench"), "plan", "quick", *part]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10 cells" in done.stdout
    public = "import harness, immunebench; assert {*harness.__all__} <= {*dir(immunebench)}"
    subprocess.run([str(python), "-P", "-c", public], cwd=work, env=env, check=True)


@pytest.mark.slow
def test_a_package_is_installed_used_and_uninstalled(python, tmp_path):
    package, work = tmp_path / "package", tmp_path / "work"
    package.mkdir()
    work.mkdir()
    (package / "pyproject.toml").write_text(PROJECT)
    (package / "outsiders.py").write_text(PLUGINS)
    pip = (Path(sys.executable), work, "pip", "--python", str(python), "--quiet")
    run(*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", str(package))
    with pytest.raises(PackageNotFoundError):  # it is in the fresh environment alone
        distribution("outsiders")
    assert re.search(r"sign_descent +probe", run(python, work, "harness.cli", "list", "attackers"))
    rows = ["--defense", "none", "--defense", "doubled", "--attacker", "krylov", "--attacker", "sign_descent"]
    part = ["--grid", "house_prices", "--task", "house_prices split 1", "--seeds", "1"]
    made_by = ["harness.cli", "run", "quick", *part, *rows, "--workers", "1", "--out", "out"]
    assert "doubled" in run(python, work, *made_by)
    made = {path.name: path.read_bytes() for path in (work / "out").iterdir()}
    assert b"sign_descent" in made["leaderboard.csv"]

    run(*pip, "uninstall", "--yes", "outsiders")
    assert "sign_descent" not in run(python, work, "harness.cli", "list", "attackers")
    assert "doubled" in run(python, work, "harness.cli", "leaderboard", "out")
    assert {path.name: path.read_bytes() for path in (work / "out").iterdir()} == made
