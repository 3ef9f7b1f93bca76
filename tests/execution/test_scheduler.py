"""Runs end to end: complete, resumable, and a fault fails its own cells only."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import RunError
from harness.execution import scheduler
from harness.execution.executors import Serial
from harness.store import Store
from tests.helpers import FAULTY, ROOT, SLOW
from tests.runs import TRACK, TWO_LAYER, plan, run, write_suite


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY)
    return path


@pytest.fixture
def transient(tmp_path: Path) -> Path:
    """The suite, on a track whose models are transient."""
    track = TRACK.read_text()
    line = "    task: Task\n    steps: int | None = None\n"
    assert line in track
    (tmp_path / "track.py").write_text(track.replace(line, "    transient = True\n" + line))
    return write_suite(tmp_path, lambda suite: suite.update(plugins=["track.py"]))


def test_a_run_has_every_cell():
    result = run()
    assert not result.failed
    assert set(result.values["status"]) == {"ok"}
    assert set(result.values["key"]) == {cell.job.key for cell in result.plan.cells}


def test_a_second_run_computes_nothing(monkeypatch):
    first = run()
    monkeypatch.setattr(scheduler, "perform", lambda *_: pytest.fail("a job was run again"))
    pd.testing.assert_frame_equal(run().values, first.values)


@pytest.mark.parametrize("keep", [False, True])
def test_transient_models_are_dropped_unless_kept(transient, keep):
    made = run(transient, keep=keep).plan
    models = [key for key, job in made.jobs.items() if job.transient]
    assert len(models) == 8
    assert [Store().has(key) for key in models] == [keep] * 8


def test_a_dropped_model_is_made_again_when_it_is_needed(transient, tmp_path):
    first = run(transient, defenses=["none"])
    both = run(transient)
    rows = both.values[both.values["defense"] == "none"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, first.values)
    pd.testing.assert_frame_equal(run(transient, store=tmp_path / "fresh").values, both.values)


@pytest.mark.parametrize("file", ["values.json", "model.safetensors", "manifest.json"])
def test_damaged_artifacts_are_computed_again(file):
    first = run()
    for path in sorted(Store().root.rglob(file))[:3]:
        path.write_bytes(b"damage")
    for path in sorted(Store().root.rglob("values.json"))[:5]:
        path.write_bytes(b"damage")
    pd.testing.assert_frame_equal(run().values, first.values)
    assert list((Store().root / "damaged").iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nan", "attacker nan yielded a loss of nan at step 2"),
        ("early", "attacker early ended after 1 of 50 steps"),
        ("empty", "attacker empty yielded nothing"),
        ("plain", "attacker plain returned float; it must be a generator"),
        ("raises", "KeyError at faulty.py:"),
    ],
)
def test_a_faulty_attacker_fails_its_own_cells_only(faulty, name, reason):
    rows = {"defenses": ["none"], "plugins": [faulty]}
    result = run(attackers=["full_descent", name], **rows)
    broken = result.values[result.values["attacker"] == name]
    assert set(broken["status"]) == {"failed"}
    assert broken["note"].str.contains(reason, regex=False).all()
    assert set(result.values[result.values["attacker"] == "full_descent"]["status"]) == {"ok"}
    assert run(attackers=[name], **rows).failed  # a failure is never kept as a result


def test_what_depends_on_a_failed_job_fails_for_the_same_reason(faulty):
    result = run(defenses=["none", "absent"], attackers=["full_descent"], plugins=[faulty])
    broken = result.values[result.values["defense"] == "absent"]
    assert set(broken["status"]) == {"failed"}
    assert set(broken["note"]) == {"a data package is not installed; pip install it"}
    assert set(result.values[result.values["defense"] == "none"]["status"]) == {"ok"}


class Dying:
    """An executor of two workers, one of which dies whenever it gets the job `deadly`."""

    workers = 2
    separate = True

    def __init__(self, deadly: str) -> None:
        self.deadly, self.submitted = deadly, []

    def submit(self, function, key, *arguments, gpu=False):
        self.submitted.append(key)
        future = Future()
        if key == self.deadly:
            future.set_exception(BrokenExecutor())
        else:
            future.set_result(function(key, *arguments))
        return future

    def stop(self, at_once):
        pass


def test_a_job_whose_worker_died_runs_once_more_alone():
    made = plan()
    deadly = next(key for key, job in made.jobs.items() if job.plugin and job.plugin.kind == "attacker")
    executor = Dying(deadly)
    failed = scheduler.run(made, Store(), executor)
    assert executor.submitted.count(deadly) == 2
    assert "its worker process died twice" in failed[deadly]


def test_editing_a_plugin_recomputes_what_depends_on_it(tmp_path):
    path = tmp_path / "mine.py"
    source = FAULTY.replace("raise KeyError", "while True: yield 1.0  #")
    path.write_text(source)
    rows = {"defenses": ["none"], "attackers": ["full_descent", "raises"], "plugins": [str(path)]}
    assert not run(**rows).failed
    assert not plan(**rows).missing(Store())
    # as a new process sees it
    code = (
        "import json; from harness.store import Store; from tests.runs import plan;"
        f"missing = plan(**{rows!r}).missing(Store()).values();"
        "print(json.dumps([[job.name, job.plugin.name if job.plugin else None] for job in missing]))"
    )
    path.write_text(source + "\nEDITED = True\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    missing = json.loads(done.stdout)
    assert {name for stage, name in missing if stage == "adapt"} == {"raises"}
    assert not any(name == "full_descent" for _, name in missing)


def test_a_full_store_stops_the_run_and_keeps_finished_jobs(tmp_path):
    """No file may grow beyond 1000 bytes: the weights do not fit, values do."""
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from harness.cli import main
sys.argv = ["immunebench", "run", {TWO_LAYER!r}, "--workers", "1", "--out", {str(tmp_path / "out")!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("immunebench:")]
    assert "free some space and run the same command again" in line
    assert not run().failed


def test_a_worker_that_cannot_use_the_store_stops_the_run(monkeypatch):
    """Else it would take one job after the other, and all of them would fail."""
    store = Store()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("harness.store.store._check_locks", full)
    with pytest.raises(RunError, match=r"No space left on device; .*: free some space"):
        scheduler.run(plan(), store, Serial())
    assert not store.keys()


@pytest.mark.parametrize(
    ("workers", "number"), [pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow), (2, signal.SIGINT)]
)
def test_a_signal_stops_and_the_next_run_continues(tmp_path, workers, number):
    path, go = tmp_path / "slow.py", tmp_path / "go"
    path.write_text(SLOW)
    setting = f"attackers.slow.go={go}"
    command = [sys.executable, "-m", "harness.cli", "run", TWO_LAYER, "--workers", str(workers), "--plugin", str(path),
               "--set", setting, "--out", str(tmp_path / "out")]  # fmt: skip
    running = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a background job ignores Ctrl-C
    )  # fmt: skip
    while not go.with_suffix(".waits").exists():
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, number)  # as a terminal does
    messages = running.communicate()[1]
    assert running.returncode == 128 + number
    assert "run the same command to continue" in messages
    assert "Traceback" not in messages
    store, rows = Store(), {"plugins": [path], "settings": [setting]}
    made = plan(**rows)
    assert 0 < len(made.missing(store)) < len(made.jobs)
    assert len(store.ledger()) > 0
    go.touch()
    assert not run(store=store, **rows).failed
    assert {entry["key"] for entry in store.ledger()} == set(made.jobs)
    assert len(store.ledger()) <= len(made.jobs) + workers  # no finished job ran again
