"""One contract for all executors: the same records, and no fault of a job or a worker ends the run."""

import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from harness import api
from harness.errors import RunError, UsageError
from harness.execution import deadline, executors
from harness.plan import make
from harness.store import Store
from harness.suite import load
from tests.helpers import MINE, SUITE, figures

pytestmark = pytest.mark.xdist_group("cluster")

UNRULY = '''
"""Defenses that break their worker."""
import os
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
    """The tiny suite's records, computed in this process."""
    folder = tmp_path_factory.mktemp("serial")
    (folder / "tiny.yaml").write_text(SUITE)
    return figures(api.run(str(folder / "tiny.yaml"), workers=1, store=folder / "store"))


@pytest.fixture(params=["serial", "processes", "dask"])
def where(request, cluster) -> dict:
    """`api.run`'s arguments that choose each executor."""
    return {
        "serial": {"workers": 1},
        "processes": {"workers": 2},
        "dask": {"cluster": cluster.scheduler_address},
    }[request.param]


def test_every_executor_gives_the_same_records_and_survives_unruly_jobs(tiny, serial, unruly, tmp_path, where):
    """One job kills its worker, one does so once and must be run again, one hangs; the others' cells are whole.

    The time limit is on in a second run, in which the hanging job alone is left: no slow machine fails another.
    """
    separate, mark = where != {"workers": 1}, tmp_path / "mark"
    dying = ["dies", "dies_once"] if separate else []
    rows = ["none", "random_init", "condition_number", *dying]
    settings = [f"defenses.dies_once.mark={mark}"] if separate else []
    result = api.run(str(tiny), defenses=rows, plugins=[unruly], settings=settings, **where)
    records = figures(result)
    mine = records["defense"].isin(dying)
    pd.testing.assert_frame_equal(records[~mine].reset_index(drop=True), serial)
    if separate:
        notes = records[records["defense"] == "dies"]["note"]
        assert notes.str.contains("its worker process died twice", regex=False).all()
        assert mark.exists()
        assert set(records[records["defense"] == "dies_once"]["status"]) == {"ok"}
    rows = {"defenses": ["none", "sleeps"], "attackers": ["adam"], "plugins": [unruly], "seeds": 1}
    records = api.run(str(tiny), timeout=1, **rows, **where).records
    assert set(records[records["defense"] == "sleeps"]["note"]) == {"took longer than the 1 s allowed"}
    assert set(records[records["defense"] == "none"]["status"]) == {"ok"}
    assert not list((Store().root / "runs").iterdir())


def test_a_worker_that_hangs_is_ended():
    code = """
import sys
from harness.execution import deadline
deadline.GRACE = 0.5
try:
    with deadline.within(0.2, end_process=True):
        __import__("time").sleep(600)
finally:
    print("not reached")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_time_limit_ends_with_its_block():
    with deadline.within(600):
        (watcher,) = (thread for thread in threading.enumerate() if thread.name.endswith("(watch)"))
    watcher.join()  # it ends with the block, so nothing is raised later
    with deadline.within(None):
        assert not any(thread.name.endswith("(watch)") for thread in threading.enumerate())


def test_a_worker_that_has_another_plugin_than_the_plan_says_so(tiny, tmp_path):
    """The file is edited after the plan was made."""
    from harness.execution import scheduler as runner

    path = tmp_path / "mine.py"
    path.write_text(MINE)
    plan = make(load(str(tiny), defenses=["none"], attackers=["my_attack"], plugins=[path]))
    path.write_text(MINE + "\nMORE = 1\n")
    failed = runner.run(plan, Store(), executors.Serial())
    assert all("has another source here" in reason for reason in failed.values())
    assert len(failed) > 0


def test_a_gpu_that_is_not_there_is_an_error_at_once(tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="no GPU is in reach"):
        api.run(str(tiny), gpu=True)
    with pytest.raises(UsageError, match="none of the cluster's 1 workers offers the resource GPU"):
        api.run(str(tiny), gpu=True, cluster="local:1")


def test_there_is_one_worker_per_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
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


def test_a_missing_scheduler_is_one_clear_line(tiny, monkeypatch):
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
