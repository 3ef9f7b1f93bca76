"""The command line as a person uses it."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import main
from tests.helpers import FAULTY, MINE, immunebench, process


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("defenses", "whitening probe θ = (K_P + ρσ₁I)^(-½)"),
        ("attackers", "adam probe Adam on the linear probe"),
        ("suites", "digits probe MNIST digit pairs"),
        ("metrics", "rir probe relative immunization ratio"),
    ],
)
def test_list(what, row):
    done = immunebench("list", what)
    assert done.returncode == 0
    assert row in " ".join(done.stdout.split())


def test_training_the_base_without_its_data(tmp_path):
    done = immunebench("train-base", tmp_path / "base", "--fashion", tmp_path)
    assert done.returncode == 1
    assert "the recipe needs Fashion-MNIST's idx files" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_and_lists_import_no_torch():
    code = """
import sys
from harness.cli import main
for arguments in (["--help"], ["list", "defenses"], ["list", "metrics"], ["run", "--help"], ["verify", "--help"]):
    sys.argv = ["immunebench", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
    assert not {"torch", "pandas", "scipy", "matplotlib", "sklearn"} & set(sys.modules), arguments
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_is_this_one():
    (command,) = entry_points(group="console_scripts", name="immunebench")
    assert command.load() is main


def test_a_process_ends_with_the_exit_code_and_one_line():
    done = process("run", "digts")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "immunebench: unknown suite 'digts'; did you mean digits?\n"


def test_show():
    done = immunebench("show", "attacker", "adam")
    assert done.returncode == 0
    for told in (
        "Kingma & Ba",
        "lr: float = 0.01",
        "[> 0]",
        "step size",
        "attackers.adam:Adam (package immunebench)",
    ):
        assert told in done.stdout
    done = immunebench("show", "defense", "condition_number")
    assert "preset house_prices: epochs=100" in done.stdout


def test_show_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = immunebench("show", "attacker", "my_attack", "--plugin", tmp_path / "mine.py")
    assert "mine.py:MyAttack" in done.stdout


def test_run_plan_and_leaderboard(tiny, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    before = immunebench("plan", tiny)
    assert "tiny version 3: 25 cells, 55 jobs" in before.stdout
    assert "unknown" in before.stdout
    out = tmp_path / "out"
    done = immunebench("run", tiny, "--out", out, "--workers", 1, "--plugin", tmp_path / "mine.py", "--seeds", 1)
    assert done.returncode == 0, done.stderr
    assert "| 1–3 | condition_number |" in " ".join(done.stdout.split())
    assert str(out) in done.stdout
    assert "my_attack" in set(pd.read_csv(out / "leaderboard.csv")["attacker"].dropna())
    after = immunebench("plan", tiny, "--seeds", 1)
    assert "33 need not run" in after.stdout
    assert "estimated time on" in after.stdout
    again = immunebench("leaderboard", out)
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] in done.stdout


def test_rows_and_settings_can_be_selected(tiny, tmp_path):
    out = tmp_path / "out"
    chosen = ["--defense", "none", "--attacker", "adam", "--set", "attackers.adam.lr=1e-3"]
    done = immunebench("run", tiny, "--out", out, "--workers", 1, *chosen)
    assert done.returncode == 0, done.stderr
    calls = pd.read_parquet(out / "records.parquet")["attacker_call"].dropna().unique()
    assert list(calls) == ["Adam(lr=0.001)"]


def test_results_go_where_the_readme_says(tiny, tmp_path):
    done = immunebench("run", tiny, "--workers", 1, "--defense", "none", "--attacker", "adam", cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "results/runs/tiny/leaderboard.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "TINY", "--defense", "whitning"], "did you mean whitening"),
        (["run", "TINY", "--set", "attackers.adam.lr=-1"], "lr: Input should be greater than 0"),
        (["run", "TINY", "--plugin", "absent.py"], "plugin file absent.py does not exist"),
        (["show", "attacker", "adm"], "unknown attacker 'adm'; did you mean adam"),
        (["leaderboard", "nowhere"], "`immunebench run` writes it"),
        (["list", "cats"], "'cats' is not one of"),
        (["run", "TINY", "--seeds", "0"], "Invalid value for '--seeds'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tiny, arguments, told):
    done = immunebench(*(str(tiny) if argument == "TINY" else argument for argument in arguments))
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_run_with_failed_cells_says_so_and_exits_with_1(tiny, tmp_path):
    path: Path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    done = immunebench("run", tiny, "--workers", 1, "--out", tmp_path / "out", "--plugin", path, "--defense", "none",
                       "--attacker", "adam", "--attacker", "early")  # fmt: skip
    assert done.returncode == 1
    assert "4 cells are missing:" in done.stderr
    assert "ended after 1 of 5 steps" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "leaderboard.csv").is_file()
