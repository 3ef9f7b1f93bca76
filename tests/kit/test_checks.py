"""The conformance kit: it passes what is right and says in words what is wrong."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kit import Fault, checks, scaffold
from harness.registry import Catalogue, named
from tests.helpers import immunebench

BUILT_IN = [(entry.kind, entry.name) for kind in ("attacker", "defense") for entry in Catalogue().all(kind)]


def faults(cls, preset: str | None = None) -> dict[str, str]:
    """What each failing check says."""
    found = {}
    for check in checks(cls, preset):
        try:
            check()
        except Fault as fault:
            found[str(check)] = str(fault)
    return found


@pytest.mark.parametrize(("kind", "name"), BUILT_IN, ids=lambda of: of)
def test_all_built_in_plugins_conform(kind, name):
    cls = Catalogue().get(kind, name).load()
    assert faults(cls, "small" if "small" in cls.presets else None) == {}


ATTACK = '''"""An attack (test)."""
import torch
from harness import Field
from harness.probe import ProbeAttacker


class Attack(ProbeAttacker):
    """Gradient descent (Cauchy, 1847)."""

    rate: float = Field(1.0, gt=0, lt=2, description="in units of one over the curvature")

    def adapt(self, model, data):
        size = self.rate / model.smoothness(data)
        # at first
        while True:
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(size * gradient)
            yield loss
'''
DEFENSE = '''"""A defense (test)."""
import torch
from harness import Field
from harness.diffusion import DiffusionDefense, WeightSet


class Defense(DiffusionDefense):
    """A step into nowhere (control)."""

    weights: WeightSet = Field("keys_values", description="what is changed")

    def immunize(self, model, targets):
        for step in range(20):
            # at a step
            with torch.no_grad():
                for weight in model.weights("keys_values").values():
                    weight.mul_(0.999)
            yield 0.0
'''


def planted(tmp_path: Path, source: str, old: str, new: str) -> dict[str, str]:
    assert old in source
    path = tmp_path / "planted.py"
    path.write_text(source.replace(old, new))
    (entry,) = named(str(path))
    return faults(entry.load())


@pytest.mark.parametrize("source", [ATTACK, DEFENSE])
def test_plugins_without_a_fault_pass(tmp_path, source):
    assert planted(tmp_path, source, "(test)", "(a test)") == {}


STEP = "            model.weight.data.sub_(size * gradient)\n"
FAULTS = {
    "no description": (ATTACK, ', description="in units of one over the curvature"', "", "fields", "no description"),
    "no bound": (ATTACK, "1.0, gt=0, lt=2, ", "1.0, ", "fields", "is a number without a bound"),
    "no source": (ATTACK, "(Cauchy, 1847)", "", "docstring", "names no source"),
    "no docstring": (ATTACK, '    """Gradient descent (Cauchy, 1847)."""\n', "", "docstring", "no docstring"),
    "a docstring that is made": (ATTACK, '"""Gradient descent (Cauchy, 1847)."""', '__doc__ = "Descent" + " (1847)."',
                                 "listing", "cannot be read from its source"),
    "not picklable": (ATTACK, "    def adapt", "    def __getstate__(self):\n        raise TypeError('a lock')\n\n"
                      "    def adapt", "pickles", "cannot be pickled: a lock"),
    "a device": (ATTACK, "# at first", "torch.zeros(1, device='cuda:0') if False else 0", "device", "'cuda:0'"),
    "moves to a device": (ATTACK, "# at first", "data.x.cuda() if False else 0", "device", "by .cuda()"),
    "raises": (ATTACK, "# at first", "raise ValueError('nothing')", "runs", "does not run: ValueError: nothing"),
    "no yield": (ATTACK, "        while True:", "        return None\n        while True:", "runs", "yielded nothing"),
    "nan": (ATTACK, "yield loss", "yield float('nan')", "runs", "a loss of nan"),
    "no number": (ATTACK, "yield loss", "yield 'low'", "runs", "yielded str"),
    "global random numbers": (ATTACK, "# at first", "torch.rand(1)", "random_numbers", "numbers of torch"),
    "numpy's too": (ATTACK, "# at first", "__import__('numpy').random.rand()", "random_numbers", "of numpy"),
    "others' seed": (ATTACK, "# at first", "size *= 0.5 + torch.initial_seed() % 97 / 200", "random_numbers",
                     "changes with random numbers that others"),
    "a clock": (ATTACK, "# at first", "size *= 1 + 1e-6 * (__import__('time').time_ns() % 1009)", "repeats",
                "two results"),
    "changes its data": (ATTACK, "# at first", "data.x.mul_(0.999)", "changes", "changes the data it is given: x"),
    "changes nothing": (ATTACK, STEP, "", "changes", "changes nothing"),
    "other weights": (DEFENSE, "# at a step", "model.weights('unet')['conv_in.bias'].data.add_(1)", "changes",
                      "says it leaves alone: unet.conv_in.bias"),
    "text encoder": (DEFENSE, "# at a step", "next(model.text_encoder.parameters()).data.add_(1)", "changes",
                     "leaves alone: text_encoder"),
    "yields too often": (ATTACK, "            yield loss", "            yield loss\n            yield loss", "progress",
                         "nothing has moved between yields 1 and 2"),
    "memory": (ATTACK, STEP, STEP + "            kept.append(loss.clone())\n", "memory", "rose by"),
    "memory of a defense": (DEFENSE, "            yield 0.0", "            yield kept.append(torch.ones(1)) or 0.0",
                            "memory", "rose by"),
    "training mode": (DEFENSE, "# at a step", "model.unet.train()", "condition_of_the_model", "is in training mode"),
    "another dtype": (DEFENSE, "# at a step", "model.vae.double()", "condition_of_the_model", "is of torch.float64"),
    "a hook": (DEFENSE, "# at a step", "model.unet.register_forward_hook(lambda *_: None)", "condition_of_the_model",
               "hooks"),
    "gradients on": (DEFENSE, "# at a step", "model.unet.requires_grad_(True)", "condition_of_the_model",
                     "are on"),
    "no gradients at all": (ATTACK, "# at first", "torch.set_grad_enabled(False)", "condition_of_the_model",
                            "gradients are off in torch as a whole"),
    "ends": (ATTACK, "while True:", "for _ in range(60):", "goes_on", "it ended after 60 steps"),
    "weak": (ATTACK, "self.rate / model", "1e-6 * self.rate / model", "breaks_the_undefended", "does not break"),
    "grows weaker": (ATTACK, "yield loss", "size *= 1.06\n            yield loss", "twice_the_steps", "grows weaker"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "old", "new", "check", "told"), FAULTS.values(), ids=FAULTS)
def test_planted_faults_are_caught(tmp_path, source, old, new, check, told):
    if "kept" in new:
        source = source.replace("        # at first", "        kept = []").replace(
            "        for step", "        kept = []\n        for step"
        )
    try:
        found = planted(tmp_path, source, old, new)
    finally:
        __import__("torch").set_grad_enabled(True)
    assert told in found.get(check, ""), found


BEGINNINGS = [(kind, track) for kind in ("attacker", "defense") for track in ("probe", "diffusion")]


@pytest.mark.parametrize(("kind", "track"), BEGINNINGS)
def test_plugin_templates_conform(tmp_path, kind, track):
    path = scaffold.write(kind, "my_own", track, tmp_path)
    (entry,) = named(str(path))
    assert (entry.kind, entry.name) == (kind, "my_own")
    assert faults(entry.load()) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "track"), BEGINNINGS)
def test_plugin_templates_run_in_quick(tmp_path, kind, track):
    from harness import api

    path = scaffold.write(kind, "my_own", track, tmp_path)
    row = {"attackers": ["my_own"]} if kind == "attacker" else {"defenses": ["none", "my_own"]}
    result = api.run("quick", plugins=[path], seeds=1, **row)
    assert not result.failed
    assert "my_own" in set(result.records[kind].dropna())


@pytest.mark.slow
def test_plugin_templates_and_the_example_track_are_strictly_typed(tmp_path):
    """Against the public face, as a third party's own type check would."""
    root = Path(__file__).parents[2]
    files = [scaffold.write(kind, f"my_{kind}_{track}", track, tmp_path) for kind, track in BEGINNINGS]
    command = [sys.executable, "-m", "mypy", "--strict", "--allow-untyped-calls", "--config-file", "pyproject.toml",
               "--cache-dir", str(tmp_path / "cache"), *files, root / "docs" / "examples" / "two_layer.py"]  # fmt: skip
    done = subprocess.run([str(part) for part in command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_package_registers_and_its_test_passes(tmp_path):
    """As installed: its folder and entry points are on the path, in a process of their own."""
    package = scaffold.write("attacker", "my_own", "probe", tmp_path, package=True)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package / "immunebench_my_own-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    for group, plugins in project["entry-points"].items():
        lines = "".join(f"{name} = {place}\n" for name, place in plugins.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    env = {**os.environ, "PYTHONPATH": str(package)}
    listed = subprocess.run([sys.executable, "-m", "harness.cli", "list", "attackers"], env=env, capture_output=True,
                            text=True, check=True).stdout  # fmt: skip
    assert any(line.split()[:2] == ["my_own", "probe"] for line in listed.splitlines())
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "tests")],
                            env=env, capture_output=True, text=True, check=False)  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert "15 passed" in tested.stdout


@pytest.mark.parametrize(("kind", "track"), BEGINNINGS)
def test_a_package_names_the_plugin_that_it_holds(tmp_path, kind, track):
    """The plugin is the file that conforms, its entry point is of its kind, and its test asks for all checks."""
    package = scaffold.write(kind, "my_own", track, tmp_path / "package", package=True)
    alone = scaffold.write(kind, "my_own", track, tmp_path)
    assert (package / "my_own.py").read_text() == alone.read_text()
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {f"immunebench.{kind}s": {"my_own": "my_own:MyOwn"}}
    assert "checks(MyOwn)" in (package / "tests" / "test_my_own.py").read_text()


def test_wrong_names_tracks_and_existing_files_are_refused(tmp_path):
    for name in ("My", "1st", "class", "../up", ""):
        with pytest.raises(UsageError, match="cannot be a plugin's name"):
            scaffold.write("attacker", name, "probe", tmp_path)
    with pytest.raises(UsageError, match="no beginning for track 'audio'"):
        scaffold.write("attacker", "mine", "audio", tmp_path)
    scaffold.write("attacker", "mine", "probe", tmp_path)
    with pytest.raises(UsageError, match="exists; choose another name"):
        scaffold.write("attacker", "mine", "probe", tmp_path)


def test_the_command_lists_faults_and_exits_with_one(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(ATTACK.replace("(Cauchy, 1847)", ""))
    done = immunebench("check", path)
    assert done.returncode == 1
    assert done.stdout.count("FAULT") == 1
    assert "FAULT  docstring: the docstring names no source" in done.stdout
    with pytest.raises(UsageError, match=r"no plugin is called 'adm'.*did you mean adam"):
        named("adm")
