"""What the README tells people to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.startswith(".venv/bin/immunebench")
]


def python_block(start: str) -> str:
    (block,) = [block for language, block in BLOCKS if language == "python" and block.startswith(start)]
    return block


def immunebench(command: str, folder: Path) -> None:
    arguments = shlex.split(command.removeprefix(".venv/bin/immunebench "))
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [pytest.param(line, marks=pytest.mark.slow if re.search("run styles|release", line) else ()) for line in COMMANDS
     if "train-base" not in line],  # an hour and more, and needs its training data; the loop has a test of its own
)  # fmt: skip
def test_commands(command, tmp_path):
    (tmp_path / "signed.py").write_text(python_block('"""signed.py"""'))
    command = command.replace("tcp://head:8786", "local:2")
    if "store import" in command:
        immunebench("store export baselines.tar quick", tmp_path)
    if "results/" in command:
        immunebench("run house_prices --seeds 1 --workers 1 --defense none --attacker adam", tmp_path)
        immunebench("submit results/runs/house_prices", tmp_path)
    alone = re.search("immunebench (run|verify) ", command) and "--cluster" not in command
    small = " --seeds 1" * (" run " in command) + " --workers 1" * bool(alone)
    immunebench(command.partition("#")[0] + small, tmp_path)
    if "--plugin" in command:
        assert "signed_descent" in (tmp_path / "results/runs/house_prices/leaderboard.csv").read_text()


def test_the_python_example():
    names: dict = {}
    exec(python_block("import harness"), names)
    assert set(names["result"].records["defense"]) == {"none", "whitening"}
    assert "<table" in names["result"]._repr_html_()  # what a notebook shows


def test_the_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
    assert {"quick", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", ["signed", "bias_tuning", "weakest"])
def test_the_examples_conform(name, tmp_path):
    path = tmp_path / f"{name}.py"
    path.write_text(python_block(f'"""{name}.py"""'))
    immunebench(f"check {path}", tmp_path)
