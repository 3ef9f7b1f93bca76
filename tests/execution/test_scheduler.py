"""Carrying out a plan: holes, resuming, damage, executors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from harness import api
from harness.errors import UsageError
from harness.execution import scheduler as runner
from harness.plan import make
from harness.store import Store
from harness.suite import load
from tests.helpers import FAULTY, SLOW, figures


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    return path


def test_a_run_has_every_cell(tiny):
    result = api.run(str(tiny), workers=1)
    assert not result.failed
    assert set(result.records["status"]) == {"ok"}
    plan = make(load(str(tiny)))
    assert set(result.records["key"]) == {cell.job.key for cell in plan.cells}
    assert set(result.records["suite_version"]) == {3}
    assert result.records["defense_call"].str.startswith("ConditionNumber(epochs=1, lr=0.005").any()


def test_a_second_run_computes_nothing(tiny, monkeypatch):
    first = api.run(str(tiny), workers=1)
    monkeypatch.setattr(runner, "perform", lambda *_: pytest.fail("a job was run again"))
    second = api.run(str(tiny), workers=1)
    pd.testing.assert_frame_equal(first.records, second.records)


def test_transient_weights_are_dropped_unless_wanted(tiny, tmp_path):
    for keep, expected in ((False, 0), (True, 5)):
        store = Store(tmp_path / str(keep))
        api.run(str(tiny), workers=1, store=store.root, keep=keep)
        assert len(list(store.root.rglob("model.safetensors"))) == expected


def test_dropped_artifacts_are_computed_again_when_needed(tiny):
    first = api.run(str(tiny), attackers=["adam"], workers=1)
    both = api.run(str(tiny), workers=1)
    of_adam = figures(both)[figures(both)["attacker"].fillna("adam") == "adam"]
    pd.testing.assert_frame_equal(of_adam.reset_index(drop=True), figures(first))


@pytest.mark.parametrize("file", ["records.json", "spectrum.safetensors", "manifest.json"])
def test_damaged_artifacts_are_computed_again(tiny, file):
    first = api.run(str(tiny), workers=1)
    for path in sorted(Store().root.rglob(file))[:3]:
        path.write_bytes(b"damage")
    if file != "records.json":
        for path in sorted(Store().root.rglob("records.json"))[:5]:
            path.write_bytes(b"damage")
    second = api.run(str(tiny), workers=1)
    pd.testing.assert_frame_equal(figures(first), figures(second))
    assert list((Store().root / "damaged").iterdir())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nan", "attacker nan yielded a loss of nan at step 2"),
        ("early", "attacker early ended after 1 of 5 steps"),
        ("empty", "attacker empty yielded nothing"),
        ("plain", "attacker plain returned float; it must be a generator"),
        ("raises", "KeyError at faulty.py:"),
    ],
)
def test_a_faulty_attacker_fails_its_cells_alone(tiny, faulty, name, told):
    rows = {"defenses": ["none"], "plugins": [faulty], "workers": 1}
    result = api.run(str(tiny), attackers=["adam", name], **rows)
    broken = result.records[result.records["attacker"] == name]
    assert set(broken["status"]) == {"failed"}
    assert broken["note"].str.contains(told, regex=False).all()
    assert set(result.records[result.records["attacker"] == "adam"]["status"]) == {"ok"}
    row = result.board[result.board["attacker"] == name].iloc[0]
    assert pd.isna(row["value"])
    assert told in row["note"]
    # A failure is never a hit.
    assert api.run(str(tiny), attackers=[name], **rows).failed


def test_a_faulty_defense_fails_its_cells_with_a_reason_in_the_table(tiny, faulty):
    result = api.run(str(tiny), defenses=["none", "poison"], attackers=["adam"], plugins=[faulty], workers=1)
    assert "left weights that are not finite" in str(
        result.tables["probe"].set_index("defense").loc["poison", "missing"]
    )
    assert set(result.records[result.records["defense"] == "none"]["status"]) == {"ok"}


def test_a_missing_data_package_fails_its_grid_alone(tiny, monkeypatch):
    from harness.errors import RunError
    from harness.probe import data

    content = yaml.safe_load(tiny.read_text())
    digits = {"data": "mnist5k", "framing": "single-class", "pairs": [[3, 8]]}
    content["grids"].append({"name": "digits", "track": "probe", "tasks": [digits], "defenses": {"none": None}})
    tiny.write_text(yaml.safe_dump(content))

    def missing():
        raise RunError("data package is not installed; pip install it")

    monkeypatch.setitem(data._TABLES, "house_prices", missing)
    for remembered in (data._raw, data.digest, data.load):
        remembered.cache_clear()
    result = api.run(str(tiny), workers=1)
    by_grid = result.records.groupby("grid")["status"].unique()
    assert list(by_grid["house_prices"]) == ["failed"]
    assert list(by_grid["digits"]) == ["ok"]
    assert "pip install it" in str(result.tables["probe"]["missing"].iloc[0])


def test_editing_a_plugin_recomputes_what_depends_on_it(tiny, tmp_path):
    path = tmp_path / "mine.py"
    source = FAULTY.replace("raise KeyError", "while True: yield 1.0  #")
    path.write_text(source)
    rows = {"defenses": ["none"], "attackers": ["adam", "raises"], "plugins": [str(path)]}
    assert not api.run(str(tiny), workers=1, **rows).failed
    assert not make(load(str(tiny), **rows)).missing(Store())
    # As a new process would see it.
    code = (
        "import json; from harness.suite import load; from harness.plan import make; from harness.store import Store;"
        f"missing = make(load({str(tiny)!r}, **{rows!r})).missing(Store()).values();"
        "print(json.dumps([[job.stage, job.plugin.name if job.plugin else None] for job in missing]))"
    )
    path.write_text(source + "\n# edited\n")
    missing = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert {name for stage, name in missing if stage == "attack"} == {"raises"}
    assert not any(name == "adam" for _, name in missing)


def test_a_full_store_stops_the_run_and_keeps_finished_jobs(tiny, tmp_path):
    """No file may grow beyond 20 KiB: the weights (50 KiB) do not fit."""
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20480, 20480))
from harness.cli import app, main
sys.argv = ["immunebench", "run", {str(tiny)!r}, "--workers", "1", "--out", {str(tmp_path / "out")!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("immunebench:")]
    assert "make room and run the same command again" in line
    api.run(str(tiny), workers=1)


def test_an_unwritable_store_is_refused(tiny):
    with pytest.raises(UsageError, match="cannot write to the store"):
        api.run(str(tiny), store="/proc/here", workers=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_and_the_next_run_goes_on(tiny, tmp_path, workers):
    path, go = tmp_path / "slow.py", tmp_path / "go"
    path.write_text(SLOW)
    rows = {"plugins": [path], "attackers": ["adam", "slow"], "settings": [f"attackers.slow.go={go}"]}
    command = [sys.executable, "-m", "harness.cli", "run", str(tiny), "--workers", str(workers), "--plugin", str(path),
               "--attacker", "adam", "--attacker", "slow", "--set", f"attackers.slow.go={go}",
               "--out", str(tmp_path / "out")]  # fmt: skip
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's would be ignored
    )  # fmt: skip
    while not go.with_suffix(".waits").exists():
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    stderr = running.communicate()[1]
    assert running.returncode == 130
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    store = Store()
    plan = make(load(str(tiny), **rows))
    missing = plan.missing(store)
    assert 0 < len(missing) < len(plan.jobs)
    assert len(store.ledger()) > 0
    again = api.run(str(tiny), attackers=["gradient_descent", "adam"], workers=1)
    assert not again.failed
