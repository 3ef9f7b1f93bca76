"""What `immunebench new` writes: it conforms, runs, is typed, and installs as a package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kit import scaffold
from harness.registry import named
from tests.kit.test_checks import faults

TRACKS = ("probe", "diffusion", "deep")
PLUGINS = [("attacker", False), ("defense", False), ("metric", False), ("metric", True)]
TEMPLATES = [(track, kind, attacked) for track in TRACKS for kind, attacked in PLUGINS]


@pytest.mark.parametrize(
    ("track", "kind", "attacked"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] == "diffusion" else ()) for case in TEMPLATES],
)
def test_a_new_plugin_conforms(tmp_path, track, kind, attacked):
    path = scaffold.write(kind, "my_own", track, tmp_path, attacked=attacked)
    (entry,) = named(str(path))
    assert (entry.kind, entry.name) == (kind, "my_own")
    assert "plugin" not in path.read_text().lower()
    assert faults(entry.load()) == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adam", "attacker 'adam' exists .*attackers.adam:Adam"),
        ("torch", "a Python module is called 'torch', and a file torch.py would hide it"),
        ("random", "a Python module is called 'random'"),
    ],
)
@pytest.mark.parametrize("package", [False, True])
def test_a_name_that_is_taken_is_refused(tmp_path, name, message, package):
    with pytest.raises(UsageError, match=message):
        scaffold.write("attacker", name, "probe", tmp_path, package=package)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("track", "kind", "attacked"), [case for case in TEMPLATES if case[0] != "deep"])
def test_a_new_plugin_runs_in_quick(tmp_path, track, kind, attacked):
    from harness import api

    path = scaffold.write(kind, "my_own", track, tmp_path, attacked=attacked)
    rows = {"attacker": {"attackers": ["my_own"]}, "defense": {"defenses": ["none", "my_own"]}}.get(kind, {})
    result = api.run("quick", plugins=[path], seeds=1, **rows)
    assert not result.failed
    column = "measured_by" if kind == "metric" else kind
    assert "my_own" in set(result.records[column].dropna())


@pytest.mark.slow
def test_new_plugins_and_the_example_of_a_track_are_strictly_typed(tmp_path):
    """Against the public names, as a third party's own type check would."""
    root = Path(__file__).parents[2]
    files = [
        scaffold.write(kind, f"my_{kind}_{track}_{attacked}".lower(), track, tmp_path, attacked=attacked)
        for track, kind, attacked in TEMPLATES
    ]
    command = [sys.executable, "-m", "mypy", "--strict", "--allow-untyped-calls", "--config-file", "pyproject.toml",
               "--cache-dir", str(tmp_path / "cache"), *files, root / "docs" / "examples" / "two_layer.py"]  # fmt: skip
    done = subprocess.run([str(part) for part in command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("track", "kind", "attacked", "count"),
    [("probe", "attacker", False, 17), pytest.param("probe", "metric", True, 15, marks=pytest.mark.slow)],
)
def test_a_package_registers_and_its_test_passes(tmp_path, track, kind, attacked, count):
    """As installed: its folder and entry points are on the path, in a process of their own."""
    package = scaffold.write(kind, "my_own", track, tmp_path, package=True, attacked=attacked)
    info = package / "immunebench_my_own-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: immunebench-my-own\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[immunebench.{kind}s]\nmy_own = my_own:MyOwn\n")
    assert (
        f'[project.entry-points."immunebench.{kind}s"]\nmy_own = "my_own:MyOwn"'
        in (package / "pyproject.toml").read_text()
    )
    env = {**os.environ, "PYTHONPATH": str(package)}
    listed = subprocess.run([sys.executable, "-m", "harness.cli", "list", f"{kind}s"], env=env, capture_output=True,
                            text=True, check=True).stdout  # fmt: skip
    assert any(line.split()[:2] == ["my_own", track] for line in listed.splitlines())
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests")],
                            env=env, capture_output=True, text=True, check=False)  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert f"{count} passed" in tested.stdout


def test_what_cannot_be_written_is_refused(tmp_path):
    for name in ("My", "1st", "class", "../up", ""):
        with pytest.raises(UsageError, match="cannot be a plugin's name"):
            scaffold.write("attacker", name, "probe", tmp_path)
    with pytest.raises(UsageError, match="no template for a plugin of track 'xyz'; there are: deep, diffusion, probe"):
        scaffold.write("attacker", "mine", "xyz", tmp_path)
    with pytest.raises(UsageError, match=r"no template for a plugin of track '../probe'"):
        scaffold.write("attacker", "mine", "../probe", tmp_path)
    with pytest.raises(UsageError, match="--attacked is for metrics"):
        scaffold.write("attacker", "mine", "probe", tmp_path, attacked=True)
    scaffold.write("attacker", "mine", "probe", tmp_path)
    with pytest.raises(UsageError, match="exists; choose another name"):
        scaffold.write("attacker", "mine", "probe", tmp_path)
