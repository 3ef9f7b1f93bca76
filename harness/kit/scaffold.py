"""What `immunebench new` writes: a small working plugin, to be made into another."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from harness.errors import UsageError

_PROBE_ATTACKER = '''"""Say here what $name is."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.probe import LinearProbe, ProbeAttacker, Split


class $cls(ProbeAttacker):
    """Gradient descent with momentum (Polyak, 1964): put your method here, and its source."""

    deterministic = True  # it draws no random numbers

    rate: float = Field(1.0, gt=0, lt=2, description="step size, in units of one over the loss's largest curvature")
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last step that is kept")

    def adapt(self, model: LinearProbe, data: Split) -> Iterator[torch.Tensor]:
        """One step at a time, for ever: the harness counts, measures and stops."""
        lr = self.rate / model.smoothness(data)
        optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=self.momentum)
        while True:
            loss, model.weight.grad = model.gradient(data)
            optimiser.step()
            yield loss
'''

_PROBE_DEFENSE = '''"""Say here what $name is."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.probe import Extractor, ProbeDefense, ProbeTargets


class $cls(ProbeDefense):
    """Shrinks the inputs along the harmful task's own direction (a control): put your method here, and its source."""

    deterministic = True  # it draws no random numbers; else draw from targets.generator()

    share: float = Field(0.01, gt=0, le=1, description="what is left of that direction")

    def immunize(self, model: Extractor, targets: ProbeTargets) -> Iterator[float]:
        """Change the model in place; yield the loss at every step, a closed form once."""
        direction = targets.harmful.x.T @ targets.harmful.y
        direction /= direction.norm()
        with torch.no_grad():
            model.weight -= (1 - self.share) * torch.outer(model.weight @ direction, direction)
        yield 0.0
'''

_DIFFUSION_ATTACKER = '''"""Say here what $name is."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.diffusion import DiffusionAttacker, Subject, TextToImage


class $cls(DiffusionAttacker):
    """Fine-tuning of the cross-attention alone (Kumari et al., 2023): put your method here, and its source."""

    lr: float = Field(3e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures a step")

    def weights(self, model: TextToImage) -> list[torch.nn.Parameter]:
        """What is trained; the conformance kit checks that nothing else changes."""
        return list(model.weights("cross_attention").values())

    def adapt(self, model: TextToImage, data: Subject) -> Iterator[torch.Tensor]:
        """One step at a time, for ever: the harness counts, measures and stops."""
        optimiser = torch.optim.AdamW(model.unfreeze(self.weights(model)), lr=self.lr)
        for batch in data.batches(self.prompt(data.concept), self.batch_size):
            loss = model.denoising_loss(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield loss.detach()
'''

_DIFFUSION_DEFENSE = '''"""Say here what $name is."""

from collections.abc import Iterator

import torch

from harness import Field
from harness.diffusion import DiffusionDefense, Targets, TextToImage, WeightSet


class $cls(DiffusionDefense):
    """Ascent on the loss of whichever concept has the lowest one now (a control): put your method here, and its source.
    """

    steps: int = Field(20, ge=1, description="steps of the ascent")
    lr: float = Field(3e-4, gt=0, description="AdamW's step size")
    batch_size: int = Field(4, ge=1, description="pictures of each concept a step")
    weights: WeightSet = Field("cross_attention", description="the weights that it changes")

    def immunize(self, model: TextToImage, targets: Targets) -> Iterator[torch.Tensor]:
        """Change the model in place; yield the loss at every step, a closed form once."""
        optimiser = torch.optim.AdamW(model.unfreeze(list(model.weights(self.weights).values())), lr=self.lr)
        each = [subject.batches(subject.concept.prompted(), self.batch_size) for subject in targets]
        retained = targets.kept(self.batch_size)
        try:
            for _ in range(self.steps):
                loss = torch.stack([model.denoising_loss(next(batches)) for batches in each]).min()
                optimiser.zero_grad()
                (model.denoising_loss(next(retained)) - loss).backward()
                optimiser.step()
                yield loss.detach()
        finally:  # also if the harness stops it early
            model.freeze()
'''

_PLUGINS = {
    ("attacker", "probe"): _PROBE_ATTACKER,
    ("defense", "probe"): _PROBE_DEFENSE,
    ("attacker", "diffusion"): _DIFFUSION_ATTACKER,
    ("defense", "diffusion"): _DIFFUSION_DEFENSE,
}

_PROJECT = """[build-system]
requires = ["setuptools>=77,<100"]
build-backend = "setuptools.build_meta"

[project]
name = "$dist"
version = "0.1.0"
description = "The $kind $name for ImmuneBench"
requires-python = ">=3.11"
dependencies = ["immunebench"]

[project.optional-dependencies]
test = ["pytest>=8,<10"]

[project.entry-points."immunebench.${kind}s"]
$name = "$name:$cls"

[tool.setuptools]
py-modules = ["$name"]
"""

_TEST = '''"""The plugin keeps the harness's contract: its conformance kit, on a tiny task."""

import pytest
from harness.kit import checks

from $name import $cls


@pytest.mark.parametrize("check", checks($cls), ids=str)
def test_conforms(check):
    check()
'''


def write(kind: str, name: str, track: str, folder: Path, package: bool = False) -> Path:
    """Write the file NAME.py, or a folder NAME with a package around it, into `folder`; its path. Raises `UsageError`
    for a name that is none, for a track without such a beginning, or if it is there already."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"'{name}' cannot be a plugin's name: write small letters, digits and _, a letter first")
    if (kind, track) not in _PLUGINS:
        there = ", ".join(" ".join(of) for of in _PLUGINS)
        raise UsageError(f"there is no beginning for track '{track}' and kind {kind}; there are: {there}")
    words = {
        "name": name,
        "kind": kind,
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "dist": f"immunebench-{name.replace('_', '-')}",
    }
    path = folder / (name if package else f"{name}.py")
    if path.exists():
        raise UsageError(f"{path} exists; choose another name, or move it away")
    files = {plugin_file(path): _PLUGINS[kind, track]}
    if package:
        files |= {path / "pyproject.toml": _PROJECT, path / "tests" / f"test_{name}.py": _TEST}
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).substitute(words), encoding="utf-8")
    return path


def plugin_file(path: Path) -> Path:
    """The plugin's own file, of what `write` made."""
    return path if path.suffix else path / f"{path.name}.py"
