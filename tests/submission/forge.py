"""Makes submissions of the small suite of two layers, and changes their content as a forger would."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from harness.execution import executors, scheduler
from harness.metric import dump_values
from harness.plan import make
from harness.selection import Selection
from harness.store import Store
from harness.submission import pack
from harness.suite_reader import load

ROOT = Path(__file__).parents[2]
TWO_LAYER = ROOT / "docs" / "examples" / "two_layer.py"
OLD = Path(__file__).parent / "submissions" / "tiny" / "tiny.json.gz"
"""A submission of format 1; it stays as it is."""

SUITE = f"""
format: 1
name: small
version: 3
title: Two layers, quickly
seeds: 2
plugins: ['{TWO_LAYER}']
grids:
  - name: teachers
    track: two_layer
    tasks: [{{teacher: 1}}, {{teacher: 2}}]
    protocol: {{steps: 5}}
    defenses:
      none:
      shrinking: {{share: 0.05}}
      strong: {{plugin: shrinking, share: 0.01}}
    attackers:
      full_descent: {{lr: 0.1}}
    metrics:
      sharpness:
"""

BAD = {"task": "1", "defense": "shrinking", "seed": 2, "measured_by": "sharpness"}
"""A cell of it that a cheat would like to be better."""

ATTACK = '''"""A plugin file."""

import torch

from harness import Attacker, Field


class MyAttack(Attacker):
    """Steps down by hand (nobody, 2026)."""

    track = "two_layer"
    deterministic = True
    lr: float = Field(0.1, gt=0, description="step size")

    def adapt(self, model, data):
        """One step at a time."""
        while True:
            loss = (model(data.x) - data.y).square().mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients):
                    parameter.sub_(gradient, alpha=self.lr)
            yield loss
'''


def suite_file(folder: Path, **changes: Any) -> Path:
    """The small suite's file, with other fields: `seeds=4`, `grids__0__protocol__steps=4`."""
    content = yaml.safe_load(SUITE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = content
        for parent in parents:
            part = part[int(parent)] if isinstance(part, list) else part[parent]
        part[last] = value
    file = folder / f"{content['name']}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def run(suite: Path | str, folder: Path, store: Path | None = None, **selection: Any) -> Path:
    """Run a suite as the command does, into the folder `folder/run`, which it returns."""
    plan, artifacts = make(load(str(suite), Selection.of(**selection))), Store(store)
    opening = pack.opening(plan, artifacts)
    failed = scheduler.run(plan, artifacts, executors.Serial())
    out = folder / "run"
    out.mkdir(parents=True, exist_ok=True)
    pack.read_write.write(pack.pack(plan, artifacts, failed, opening), out / pack.RUN)
    pack.copy_pictures(plan, artifacts, failed, out)
    return out


def submitted(suite: Path | str, folder: Path, **options: Any) -> Path:
    """The submission of a run."""
    path, _ = pack.submit(run(suite, folder, **options), folder / "sub.json.gz")
    return path


def content_of(path: Path) -> dict[str, Any]:
    """The JSON of a submission."""
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content


def write_content(content: Any, path: Path) -> Path:
    """Write JSON as a submission is written, whatever it says."""
    data = json.dumps(content, ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def reseal(content: dict[str, Any], cell: dict[str, Any]) -> None:
    """Write the digest that a cell's values have now."""
    kind = content["kinds"][cell["kind"]]
    values = [{**place, "value": value} for place, value in zip(kind, cell["values"], strict=True)]
    cell["files"]["values.json"] = hashlib.sha256(dump_values(values).encode()).hexdigest()


def find(content: dict[str, Any], **coordinates: Any) -> dict[str, Any]:
    """The first cell with these coordinates."""
    return next(cell for cell in content["cells"] if coordinates.items() <= cell["coordinates"].items())


def add_picture(content: dict[str, Any], folder: Path, data: bytes = b"picture") -> Path:
    """A submission in `folder` with the picture `teachers__1__none__sheet.png`, whose content is `data`."""
    where = {"grid": "teachers", "task": "1", "defense": "none", "measured_by": "pictures"}
    digest = hashlib.sha256(b"picture").hexdigest()
    content["cells"].append({"coordinates": where, "key": "5" * 64, "files": {"sheet.png": digest}})
    folder.mkdir(exist_ok=True)
    (folder / "teachers__1__none__sheet.png").write_bytes(data)
    return write_content(content, folder / "sub.json.gz")
