"""Runs that are killed at any moment, share a store, or fill it: nothing finished is lost, done twice or wrong."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from harness.execution import scheduler
from harness.execution.executors import Serial
from harness.interrupts import Stopped, stoppable
from harness.store import Store
from tests import runs
from tests.execution.test_scheduler import transient
from tests.helpers import ROOT, SLOW
from tests.runs import TWO_LAYER, plan, run, write_suite

__all__ = ["transient"]


SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGSTOP")
"""What ends or stops a run, or its terminal."""


def _run(store: Path) -> None:
    """A run that signals end as they end the command."""
    try:
        with stoppable("SIGINT", "SIGTERM", "SIGHUP"):
            run(store=store)
    except Stopped as stop:
        sys.exit(stop.exit_code)


@pytest.fixture
def forked(forkserver):
    """Starts `_run` in a process of its own at once, with its modules loaded."""

    def start(*arguments) -> multiprocessing.Process:
        process = forkserver.Process(target=_run, args=arguments)
        process.start()
        return process

    return start


def damage(store: Path, draw: random.Random) -> None:
    """What a power cut may leave: a file that was not written to its end."""
    files = sorted(path for path in store.rglob("*") if path.is_file() and "locks" not in path.parts)
    files = [path for path in files if path.name not in ("store.json", "ledger.jsonl")]
    if files:
        path = draw.choice(files)
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)])


def signalled(running: multiprocessing.Process, name: str, seconds: float) -> None:
    """Send a signal to a process and wait for its end; a stopped one goes on after some seconds."""
    os.kill(running.pid, getattr(signal, name))
    if name == "SIGSTOP":
        time.sleep(seconds)
        os.kill(running.pid, signal.SIGCONT)
    running.join()


@pytest.mark.parametrize("signals", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_after_a_signal_at_any_moment_the_next_run_does_the_rest(tmp_path, forked, signals):
    draw = random.Random(1)
    reference = run(store=tmp_path / "reference").values
    for name in ("warm", "measured"):
        start = time.monotonic()
        forked(tmp_path / name).join()
        whole = time.monotonic() - start
    sent, finished = 0, 0
    while sent < signals or not finished:
        store = tmp_path / f"store{finished}"
        running = forked(store)
        running.join(draw.uniform(0, whole) if sent < signals else None)
        if running.exitcode is None:
            name = draw.choice(SIGNALS)
            signalled(running, name, draw.uniform(0, 0.1))
            sent += 1
            if running.exitcode:
                assert name != "SIGSTOP"
                if draw.random() < 0.2:
                    damage(store, draw)
                continue
        assert running.exitcode == 0
        pd.testing.assert_frame_equal(run(store=store).values, reference)
        Store(store).collect()
        assert not [path for part in ("tmp", "locks", "runs") for path in (store / part).iterdir()]
        finished += 1


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    """Nothing tells them; the parent has no chance to."""
    plugin, go = tmp_path / "slow.py", tmp_path / "go"
    plugin.write_text(SLOW)
    rows = {"plugins": [str(plugin)], "settings": [f"attackers.slow.go={go}"]}
    code = f"from tests.runs import run; run(workers=2, **{rows!r})"
    running = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not go.with_suffix(".waits").exists():
        assert running.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(running.pid).children(recursive=True)
    assert int(go.with_suffix(".waits").read_text()) in [worker.pid for worker in workers]
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(workers, timeout=100)
    assert not alive


def test_two_runs_on_one_store_do_each_job_once(forked):
    store = Store()
    running = [forked(store.root) for _ in range(2)]
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert len(store.ledger()) == len(plan().jobs)


def test_models_that_another_run_has_pinned_are_not_dropped(transient):
    """Both runs need the models: the first to finish leaves them, the last one drops them."""
    made, store = plan(transient), Store()
    models = {key for key, job in made.jobs.items() if job.transient}
    with store.pin(made.jobs):
        assert not scheduler.run(made, store, Serial())
        assert all(store.has(key) for key in models)
    store.discard(next(key for key, job in made.jobs.items() if job.name == "measure"))
    assert not set(made.missing(store)) & models
    assert store.collect()[1] == len(models)


@pytest.mark.slow
def test_the_order_of_jobs_changes_nothing(tmp_path):
    made = plan()
    frames = []
    for seed in range(3):
        draw, jobs, left = random.Random(seed), {}, dict(made.jobs)
        while left:  # any order with parents before children
            ready = [key for key, job in left.items() if all(parent.key in jobs for parent in job.parents)]
            key = draw.choice(ready)
            jobs[key] = left.pop(key)
        store = Store(tmp_path / str(seed))
        assert not scheduler.run(replace(made, jobs=jobs), store, Serial())
        frames.append(runs.values(made, store, {}))
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def more_rows(grid):
    grid["defenses"] = {"half": {"plugin": "shrinking", "share": 0.5}, **dict(reversed(grid["defenses"].items()))}
    grid["attackers"]["fast"] = {"plugin": "full_descent", "lr": 0.2}


def learning_rate(grid):
    grid["attackers"]["full_descent"] = {"lr": 0.2}


def share(grid):
    grid["defenses"]["shrinking"]["share"] = 0.5


def metric(grid):
    grid["metrics"]["sharpness"] = {"rows": 16}


def metrics(grid):
    grid["metrics"]["coarse"] = {"plugin": "sharpness", "rows": 16}


OLD = ("Undefended()", "Shrinking(share=0.05)")
HALF, SLOWER, FASTER = "Shrinking(share=0.5)", "FullDescent(lr=0.1)", "FullDescent(lr=0.2)"


@pytest.mark.parametrize(
    ("change", "immunized", "attacked"),
    [
        (more_rows, {HALF}, {(HALF, SLOWER), *itertools.product([*OLD, HALF], [FASTER])}),
        (learning_rate, set(), {*itertools.product(OLD, [FASTER])}),
        (share, {HALF}, {(HALF, SLOWER)}),
        (metric, set(), set()),
        (metrics, set(), set()),
    ],
)
def test_a_change_recomputes_what_depends_on_it_and_nothing_else(tmp_path, change, immunized, attacked):
    """Further rows in another order; a hyper-parameter of an attacker, a defense or a metric; a further metric."""
    run()
    jobs = plan(write_suite(tmp_path, lambda suite: change(suite["grids"][0]))).missing(Store()).values()
    models = [job for job in jobs if job.name == "adapt"]
    assert {job.plugin.call for job in models if job.model is None} == immunized
    assert {(job.model.plugin.call, job.plugin.call) for job in models if job.model is not None} == attacked
    assert any(job.name == "measure" for job in jobs)


@pytest.mark.xdist_group("cluster")
def test_a_cluster_that_loses_a_worker(tmp_path, cluster):
    """The slow attacker continues only after its worker was killed."""
    plugin, go = tmp_path / "slow.py", tmp_path / "go"
    plugin.write_text(SLOW)
    rows = {"plugins": [plugin], "settings": [f"attackers.slow.go={go}"]}
    results = []
    running = threading.Thread(target=lambda: results.append(run(cluster=cluster.scheduler_address, **rows)))
    running.start()
    while not go.with_suffix(".waits").exists():
        assert running.is_alive()
        time.sleep(0.05)
    os.kill(int(go.with_suffix(".waits").read_text()), signal.SIGKILL)
    go.touch()
    running.join()
    (result,) = results
    assert not result.failed
    pd.testing.assert_frame_equal(result.values, run(store=tmp_path / "serial", **rows).values)


@pytest.mark.slow
def test_the_death_of_a_clusters_scheduler(tmp_path):
    """While a job runs: the run ends with one line, and the same command here does the rest."""
    plugin, go, about = tmp_path / "slow.py", tmp_path / "go", tmp_path / "scheduler.json"
    plugin.write_text(SLOW)
    dask = [sys.executable, "-m", "dask"]
    options = ["--scheduler-file", about]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": ROOT}
    commands = (["scheduler", "--port", "0"], ["worker", "--nthreads", "1", "--no-nanny"])
    started = [subprocess.Popen([*dask, *command, "--no-dashboard", *options], **quiet) for command in commands]
    try:
        while not about.exists() or not (text := about.read_text()):
            assert started[0].poll() is None
            time.sleep(0.05)
        rows = ["--plugin", plugin, "--set", f"attackers.slow.go={go}", "--out", tmp_path / "out"]
        command = [sys.executable, "-m", "harness.cli", "run", TWO_LAYER, *rows]
        cluster = ["--cluster", json.loads(text)["address"]]
        running = subprocess.Popen([*command, *cluster], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(running)
        while not go.with_suffix(".waits").exists():
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.05)
        started[0].kill()
        _, errors = running.communicate(timeout=300)
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert running.returncode == 1
    assert "are gone; finished jobs are kept: run the same command again" in errors
    assert "Traceback" not in errors
    go.touch()
    assert subprocess.run(command, capture_output=True, check=False, cwd=ROOT).returncode == 0
    assert len(Store().ledger()) == len({entry["key"] for entry in Store().ledger()})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_a_full_file_system(tmp_path):
    """A file system of 100 KiB: the run stops with one message; with more space it continues to the same values."""
    store, values = tmp_path / "small", tmp_path / "values.csv"
    store.mkdir()
    code = f"from tests.runs import run; run().values.to_csv({str(values)!r})"
    script = f"""
mount -t tmpfs -o size=100k none {store} || exit 77
export IMMUNEBENCH_STORE={store}
{sys.executable} -c "{code}"; echo "exit $?"
mount -o remount,size=100m {store}
{sys.executable} -c "{code}"; echo "exit $?"
wc -l < {store}/ledger.jsonl
"""
    command = ["unshare", "-rm", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode in (1, 77):
        pytest.skip("no file system may be mounted here: " + done.stderr.strip()[-200:])
    assert done.stdout.split("\n")[:2] == ["exit 1", "exit 0"]
    assert "free some space and run the same command again" in done.stderr
    assert int(done.stdout.split("\n")[2]) == len(plan().jobs)  # each once
    run(store=tmp_path / "large").values.to_csv(tmp_path / "expected.csv")
    assert values.read_text() == (tmp_path / "expected.csv").read_text()
