"""One contract for all executors: the same records, and no fault of a job or a worker ends the run."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness import api
from harness.errors import RunError, UsageError
from harness.execution import deadline, executors
from harness.plan import make
from harness.store import Store
from harness.suite import load
from tests.execution.test_scheduler import figures

EVERYWHERE = {"serial": {"workers": 1}, "processes": {"workers": 2}, "dask": {"cluster": "local:2"}}
APART = {name: where for name, where in EVERYWHERE.items() if name != "serial"}

UNRULY = '''
"""Defenses that break their worker."""
import os
import time
from pathlib import Path

from harness import Field
from harness.probe import ProbeDefense


class Dies(ProbeDefense):
    """Takes its process with it (test)."""

    def immunize(self, model, targets):
        yield 0.0
        os._exit(9)


class DiesOnce(ProbeDefense):
    """Takes its process with it the first time (test)."""

    mark: str = Field("", description="file that says it was the first time")

    def immunize(self, model, targets):
        yield 0.0
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os._exit(9)


class Sleeps(ProbeDefense):
    """Does not end, and passes over errors (test)."""

    def immunize(self, model, targets):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass
        yield
'''


@pytest.fixture
def unruly(tmp_path: Path) -> Path:
    path = tmp_path / "unruly.py"
    path.write_text(UNRULY)
    return path


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> pd.DataFrame:
    """The tiny suite's figures, run here."""
    from tests.conftest import SUITE

    folder = tmp_path_factory.mktemp("serial")
    (folder / "tiny.yaml").write_text(SUITE)
    return figures(api.run(str(folder / "tiny.yaml"), workers=1, store=folder / "store"))


@pytest.mark.parametrize("where", EVERYWHERE.values(), ids=EVERYWHERE)
def test_the_same_records_everywhere(tiny, serial, where):
    result = api.run(str(tiny), **where)
    assert not result.failed
    pd.testing.assert_frame_equal(figures(result), serial)
    assert not list((Store().root / "runs").iterdir())


@pytest.mark.parametrize("where", APART.values(), ids=APART)
def test_a_job_that_kills_its_worker_is_a_hole_and_the_rest_goes_on(tiny, unruly, where):
    result = api.run(str(tiny), defenses=["none", "random_init", "dies"], plugins=[unruly], **where)
    notes = result.records[result.records["defense"] == "dies"]["note"]
    assert notes.str.contains("its worker process died twice", regex=False).all()
    assert set(result.records[result.records["defense"] != "dies"]["status"]) == {"ok"}


@pytest.mark.parametrize("where", APART.values(), ids=APART)
def test_what_was_in_hand_of_a_worker_that_died_is_run_once_more(tiny, unruly, tmp_path, where):
    mark = tmp_path / "mark"
    result = api.run(
        str(tiny),
        defenses=["none", "dies_once"],
        plugins=[unruly],
        settings=[f"defenses.dies_once.mark={mark}"],
        **where,
    )
    assert mark.exists()
    assert not result.failed


@pytest.mark.parametrize("where", EVERYWHERE.values(), ids=EVERYWHERE)
def test_a_job_that_takes_too_long_is_a_hole(tiny, unruly, where):
    rows = {"defenses": ["none", "sleeps"], "attackers": ["adam"], "plugins": [unruly], "seeds": 1}
    result = api.run(str(tiny), timeout=20, **rows, **where)
    notes = result.records[result.records["defense"] == "sleeps"]["note"]
    assert set(notes) == {"took longer than the 20 s allowed"}
    assert set(result.records[result.records["defense"] == "none"]["status"]) == {"ok"}


def test_a_worker_that_hangs_is_ended():
    code = """
import sys
from harness.execution import deadline
deadline.GRACE = 0.5
try:
    with deadline.within(0.2, end_process=True):
        __import__("time").sleep(1000)
finally:
    print("not reached")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_deadline_that_is_kept_does_nothing():
    steps = []
    with deadline.within(0.05):
        steps.append("in time")
    time.sleep(0.2)
    with deadline.within(None):
        steps.append("without one")
    assert steps == ["in time", "without one"]


def test_a_worker_that_has_another_plugin_than_the_plan_says_so(tiny, tmp_path):
    """The file is edited after the plan was made."""
    from harness.execution import scheduler as runner
    from tests.test_plugin import MINE

    path = tmp_path / "mine.py"
    path.write_text(MINE)
    plan = make(load(str(tiny), defenses=["none"], attackers=["my_attack"], plugins=[path]))
    path.write_text(MINE + "\nMORE = 1\n")
    failed = runner.run(plan, Store(), executors.Serial())
    assert all("has another source here" in reason for reason in failed.values())
    assert len(failed) > 0


def test_a_gpu_that_is_not_there_is_an_error_at_once(tiny, monkeypatch):
    monkeypatch.setattr(executors, "_gpus", lambda: 0)
    with pytest.raises(UsageError, match="no GPU is in reach"):
        api.run(str(tiny), gpu=True)
    with pytest.raises(UsageError, match="none of the cluster's 1 workers offers the resource GPU"):
        api.run(str(tiny), gpu=True, cluster="local:1")


def test_a_worker_a_gpu(monkeypatch):
    monkeypatch.setattr(executors, "_gpus", lambda: 2)
    assert executors.default_workers() == 2
    with pytest.raises(UsageError, match="one worker a GPU at most"):
        executors.local(3)


def test_each_worker_takes_a_gpu_of_its_own(tmp_path):
    code = """
import os, subprocess, sys
from harness.execution.executors import claim_gpu
claim_gpu(2)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
if len(sys.argv) > 1:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "5,7"}
    subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], env=env)
"""
    env = {"CUDA_VISIBLE_DEVICES": "5,7", "PATH": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, code, code], capture_output=True, text=True, env=env, check=True)
    first, second, third = done.stdout.split()
    assert (first, second) == ("5", "7")
    assert third in ("5", "7")  # shared, for all are held


def test_no_scheduler_no_run(tiny, monkeypatch):
    from harness.execution import dask_cluster as cluster

    monkeypatch.setattr(cluster, "CONNECT", 1)
    for address, told in (
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp"),
        ("local:none", "write the address"),
    ):
        with pytest.raises(UsageError, match=told):
            api.run(str(tiny), cluster=address)


def test_a_worker_that_does_not_see_the_store_says_so(tiny, tmp_path, monkeypatch):
    """A store of another machine lies under this path."""
    store = Store()

    class Elsewhere(executors.Serial):
        def submit(self, function, *arguments, gpu=False):
            (store.root / "store.json").write_text('{"format": 1, "identity": "of another machine"}')
            return super().submit(function, *arguments)

    from harness.execution import scheduler as runner

    with pytest.raises(RunError, match="does not see the store"):
        runner.run(make(load(str(tiny))), store, Elsewhere())
