"""One contract for all executors: the same values, and no fault of a job or a worker ends the run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from distributed import Client

from harness import api
from harness.errors import RunError, UsageError
from harness.execution import dask_cluster, deadline, executors, gpu, scheduler
from harness.plugin import PluginSpec
from harness.stage import Stage
from harness.store import Store
from tests.helpers import SLOW
from tests.runs import TWO_LAYER, plan, run, write_suite

UNRULY = '''
"""Defenses that break their worker."""
import os
import signal
import time
from pathlib import Path

from harness import Defense, Field


class Dies(Defense):
    """Ends its process (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        yield 0.0
        os._exit(9)


class DiesOnce(Defense):
    """Its process is killed the first time, as if there were no memory left (test)."""

    track = "two_layer"
    mark: str = Field("", description="file that exists after the first time")

    def immunize(self, model, targets):
        yield 0.0
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Sleeps(Defense):
    """Does not end, and ignores exceptions (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass
        yield
'''
TIMEOUT = 6
"""Seconds; a job that does not sleep takes milliseconds, and its worker has imported torch before it starts."""


@pytest.fixture
def everywhere(cluster):
    """How to run on each executor with workers of its own, by name."""
    return {"processes": {"workers": 2}, "dask": {"cluster": cluster.scheduler_address}}


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> pd.DataFrame:
    """The suite's values, computed in this process."""
    return run(store=tmp_path_factory.mktemp("serial")).values


@pytest.fixture
def unruly(tmp_path: Path) -> dict:
    """What to run: one task and one seed, with the unruly defenses. No attacker, since the first optimiser of a process
    imports for seconds."""

    def one_cell(suite):
        suite["seeds"] = 1
        suite["grids"][0] |= {"tasks": [{"teacher": 1}], "attackers": {}}

    (tmp_path / "unruly.py").write_text(UNRULY)
    return {"suite": write_suite(tmp_path, one_cell), "plugins": [tmp_path / "unruly.py"]}


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("name", ["processes", "dask"])
def test_the_same_values_everywhere(everywhere, serial, name):
    result = run(**everywhere[name])
    assert not result.failed
    pd.testing.assert_frame_equal(result.values, serial)
    assert not list((Store().root / "runs").iterdir())


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("name", ["processes", "dask"])
def test_workers_that_die_or_hang_fail_their_own_cells_only(everywhere, unruly, name):
    result = run(**unruly, defenses=["none", "dies", "sleeps"], timeout=TIMEOUT, **everywhere[name])
    rows = result.values.groupby("defense")
    assert rows["status"].unique().map(list).to_dict() == {"dies": ["failed"], "none": ["ok"], "sleeps": ["failed"]}
    notes = rows["note"].unique()
    assert list(notes["dies"]) == ["plugin code ended its process with exit code 9: raise an error"]
    assert list(notes["sleeps"]) == [f"took longer than the {TIMEOUT} s allowed"]


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("name", ["processes", "dask"])
def test_a_job_whose_worker_died_runs_once_more(everywhere, unruly, tmp_path, name):
    mark = tmp_path / "mark"
    settings = [f"defenses.dies_once.mark={mark}"]
    result = run(**unruly, defenses=["none", "dies_once"], settings=settings, **everywhere[name])
    assert mark.exists()
    assert not result.failed


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
def test_a_worker_of_a_cluster_that_is_lost_midway_costs_nothing_but_time(cluster, tmp_path):
    """Killed from outside while it runs a job: another worker runs the job once more."""
    go, lost = tmp_path / "go", []

    def attacked_slowly(suite):
        suite["seeds"] = 1
        suite["grids"][0] |= {
            "tasks": [{"teacher": 1}],
            "defenses": {"none": None},
            "attackers": {"slow": {"go": str(go)}},
        }

    def lose() -> None:
        waits = go.with_suffix(".waits")
        while not waits.exists():
            time.sleep(0.02)
        above = {process.pid for process in psutil.Process(int(waits.read_text())).parents()}
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            lost.extend(above & set(client.run(os.getpid).values()))
        os.kill(lost[0], signal.SIGKILL)
        go.touch()

    (tmp_path / "slow.py").write_text(SLOW)
    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    suite = write_suite(tmp_path, attacked_slowly)
    result = run(suite, plugins=[tmp_path / "slow.py"], cluster=cluster.scheduler_address)
    thread.join(60)
    assert len(lost) == 1
    assert not result.failed


def test_a_job_that_takes_too_long_fails_in_this_process_too(unruly):
    result = run(**unruly, defenses=["none", "sleeps"], timeout=TIMEOUT)
    notes = result.values[result.values["defense"] == "sleeps"]["note"]
    assert set(notes) == {f"took longer than the {TIMEOUT} s allowed"}
    assert set(result.values[result.values["defense"] == "none"]["status"]) == {"ok"}


HANGS = {
    "": "time.sleep(1000)",
    "holds the lock": "ctypes.PyDLL(None).sleep(1000)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("hangs", HANGS.values(), ids=HANGS)
def test_a_worker_that_hangs_is_ended(hangs):
    """Also in a C library that holds Python's lock, where no thread of Python runs, and when it is stopped."""
    code = f"""
import ctypes, os, signal, time
from harness.execution import deadline
deadline.GRACE = 0.5
try:
    with deadline.within(0.2, end_process=True):
        {hangs}
finally:
    print("not reached")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode in (1, -signal.SIGKILL)
    assert ended.stdout == ""


def test_one_worker_with_a_time_limit_is_a_process_of_its_own(monkeypatch):
    """A call that hangs in C cannot be ended in the process that waits for it."""
    assert not executors.choose(1).separate
    assert executors.choose(1, separate=True).separate

    def choose(*arguments, separate):
        raise UsageError(f"separate: {separate}")

    monkeypatch.setattr(executors, "choose", choose)
    for timeout in (None, 5.0):
        with pytest.raises(UsageError, match=f"separate: {timeout is not None}"):
            api.run(TWO_LAYER, workers=1, timeout=timeout)


def test_a_deadline_that_is_met_does_nothing():
    steps = []
    with deadline.within(0.5, end_process=True):
        with deadline.within(1000, end_process=True):
            steps.append("in time")
        assert deadline._ends
    assert not deadline._ends
    time.sleep(0.7)
    with deadline.within(None):
        steps.append("without one")
    assert steps == ["in time", "without one"]


def test_a_worker_with_other_code_than_the_plan_says_so(monkeypatch):
    """Another version of the plugin is installed on the worker."""
    made = plan(defenses=["none"])
    monkeypatch.setattr(PluginSpec, "build", lambda spec: OtherCode())
    failed = scheduler.run(made, Store(), executors.Serial())
    assert all("has other code here" in reason for reason in failed.values())
    assert failed


class OtherCode:
    """A plugin whose code differs from the plan's."""

    def source(self) -> str:
        return "f" * 64


def test_a_missing_gpu_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(gpu, "count", lambda: 0)
    with pytest.raises(UsageError, match="torch finds no GPU on this machine"):
        executors.choose(gpu=True)
    with pytest.raises(UsageError, match="none of the cluster's 1 workers has the resource GPU"):
        executors.choose(gpu=True, cluster="local:1")


def test_one_worker_for_each_gpu_or_more_if_asked(monkeypatch):
    monkeypatch.setattr(gpu, "count", lambda: 2)
    assert executors.default_workers() == 2
    shared = executors.local(3)
    try:
        visible = [shared.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(6)]
        assert {future.result() for future in visible} <= {"0", "1"}
        assert shared.submit(os.getenv, "CUBLAS_WORKSPACE_CONFIG").result() == ":4096:8"
    finally:
        shared.stop(at_once=True)


def test_each_worker_claims_a_gpu_of_its_own(tmp_path):
    code = """
import os, subprocess, sys
from harness.execution import gpu
gpu.claim(2)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
if len(sys.argv) > 1:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "5,7"}
    subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], env=env)
"""
    env = {"CUDA_VISIBLE_DEVICES": "5,7", "PATH": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, code, code], capture_output=True, text=True, env=env, check=True)
    first, second, third = done.stdout.split()
    assert (first, second) == ("5", "7")
    assert third in ("5", "7")  # shared, since all are claimed


def test_a_cluster_that_cannot_be_reached_is_refused(monkeypatch):
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 1)
    for address, message in (
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp"),
        ("local:none", "give the address of a scheduler"),
    ):
        with pytest.raises(UsageError, match=message):
            executors.choose(cluster=address)
    with pytest.raises(UsageError, match="choose one of the two"):
        executors.choose(workers=2, cluster="local:2")


def test_a_worker_that_does_not_see_the_store_stops_the_run():
    """Another store lies under the same path."""
    store = Store()

    class Elsewhere(executors.Serial):
        def submit(self, function, *arguments, gpu=False):
            (store.root / "store.json").write_text('{"format": 2, "identity": "another"}')
            return super().submit(function, *arguments)

    with pytest.raises(RunError, match="does not see the run's store"):
        scheduler.run(plan(), store, Elsewhere())


def test_jobs_that_a_gpu_speeds_up_are_sent_to_one(monkeypatch):
    sent = []

    class Records(executors.Serial):
        def submit(self, function, *arguments, gpu=False):
            sent.append(gpu)
            return super().submit(function, *arguments)

    monkeypatch.setattr(Stage, "gpu", True)
    assert not scheduler.run(plan(), Store(), Records())
    assert sent
    assert all(sent)
