"""What several test modules use: the command line in this process, plugins and suites to run, hand-made records."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import yaml

from harness import api
from harness.cli import main
from harness.plugin import PluginSpec
from harness.submission import read_write as submission

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
BLOCKS = [
    (page.name, language, block)
    for page in PAGES
    for language, block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)
    if not block.startswith("--8<--")  # the examples in their folder, which have tests of their own
]
FILES = {  # those that name themselves in their first line
    match[1]: block
    for _, language, block in BLOCKS
    if (match := re.match(r'(?:"""|# )([a-z_]+\.(?:py|yaml))', block)) and language in ("python", "yaml")
}


class Done(NamedTuple):
    """How a command ended, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stdout: str
    stderr: str


def immunebench(*arguments: object, cwd: Path | None = None) -> Done:
    """Run the command line in this process, which spares the imports of a fresh one."""
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["immunebench", *map(str, arguments)]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        contextlib.chdir(cwd or Path.cwd()),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, stdout.getvalue(), stderr.getvalue())


def process(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


SUITE = """
format: 1
name: tiny
version: 3
title: House prices, quickly
seeds: 2
grids:
  - name: house_prices
    track: probe
    tasks: [{data: house_prices}]
    protocol: {steps: 5, measure_at: [0, 1, 5]}
    defenses:
      none:
      random_init:
      condition_number: {preset: house_prices, epochs: 1}
    attackers:
      gradient_descent:
      adam: {lr: 0.1}
"""


MINE = '''
"""A plugin file."""
from pydantic import Field
from harness.probe import ProbeAttacker


class MyAttack(ProbeAttacker):
    """Steps down by hand (nobody, 2026).

    More about it.
    """

    lr: float = Field(0.1, gt=0, description="step size")

    def adapt(self, model, data):
        while True:
            loss, gradient = model.gradient(data)
            model.weight.data.sub_(gradient, alpha=self.lr)
            yield loss
'''


FAULTY = '''
"""Attackers that break the contract."""
import torch
from harness.probe import ProbeAttacker, ProbeDefense


class Nan(ProbeAttacker):
    """Yields a loss that is no number (test)."""

    def adapt(self, model, data):
        yield 1.0
        yield float("nan")


class Early(ProbeAttacker):
    """Ends early (test)."""

    def adapt(self, model, data):
        yield 1.0


class Empty(ProbeAttacker):
    """Yields nothing (test)."""

    def adapt(self, model, data):
        return
        yield


class Plain(ProbeAttacker):
    """Is no generator (test)."""

    def adapt(self, model, data):
        return 1.0


class Raises(ProbeAttacker):
    """Raises (test)."""

    def adapt(self, model, data):
        yield 1.0
        raise KeyError("lost")


class Poison(ProbeDefense):
    """Leaves weights that are no numbers (test)."""

    def immunize(self, model, targets):
        model.weight.data.fill_(float("nan"))
        yield 0.0


'''


SLOW = '''
"""A slow attacker."""
import os
import time
from pathlib import Path

from harness import Field
from harness.probe import ProbeAttacker


class Slow(ProbeAttacker):
    """Waits for a file before its first step, and says which process waits (test)."""

    go: str = Field("", description="file to wait for")

    def adapt(self, model, data):
        go = Path(self.go)
        if not go.exists():
            partial = go.with_suffix(f".{os.getpid()}")
            partial.write_text(str(os.getpid()))
            partial.replace(go.with_suffix(".waits"))
        while not go.exists():
            time.sleep(0.02)
        while True:
            yield 1.0
'''


def figures(result: api.Result) -> pd.DataFrame:
    """The records but for what a clock says."""
    records = result.records[~result.records["metric"].isin(["seconds", "peak_mb"])]
    return records.reset_index(drop=True)


def change(tiny: Path, **changes) -> str:
    content = yaml.safe_load(tiny.read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = content
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at[parent]
        at[last] = value
    tiny.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(tiny)


def spec(**changes):
    fields = {
        "kind": "attacker",
        "name": "adam",
        "params": {"lr": 0.01},
        "source": "0" * 64,
        "call": "Adam(lr=0.01)",
        "module": "attackers.adam",
        "attribute": "Adam",
    }
    return PluginSpec(**fields | changes)


KEY = "ab" * 32
ABOUT = {"track": "t", "stage": "s", "plugin": None}


def put(store, content=b"figures", key=KEY, **about):
    with store.write(key, ABOUT | about) as out:
        (out / "data.json").write_bytes(content)


FIXTURE = ROOT / "tests" / "submission" / "submissions" / "tiny" / "tiny.json.gz"
"""Of format 1, by `immunebench submit`; it stays as it is, and loadable, when the format goes on."""


def content_of(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def resealed(content: dict, cell: dict) -> None:
    """Write the digest that the cell's figures have now, as a forger would."""
    kind = content["kinds"][cell["kind"]]
    figures = [{**figure, "value": value} for figure, value in zip(kind, cell["values"], strict=True)]
    cell["files"]["records.json"] = hashlib.sha256(json.dumps(figures).encode()).hexdigest()


def with_sheet(content: dict, folder: Path, data: bytes = b"picture") -> Path:
    """A submission in `folder` of which a job left a contact sheet."""
    content["cells"][0]["files"]["sheet.png"] = hashlib.sha256(b"picture").hexdigest()
    folder.mkdir(exist_ok=True)
    (folder / "house_prices__house_prices__none__sheet.png").write_bytes(data)
    submission.write(content, folder / "sub.json.gz")
    return folder / "sub.json.gz"
