"""Runs that are cut off at any moment, share a store, or fill it: nothing finished is lost, done twice or wrong."""

import itertools
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
import pytest
import yaml

from harness import api
from harness.execution import scheduler as runner
from harness.execution.executors import Serial
from harness.plan import make
from harness.store import Store
from harness.suite import load
from tests.helpers import SLOW, figures


def _run(suite: str, store: Path, out: Path) -> None:
    api.run(suite, workers=1, store=store, out=out)


@pytest.fixture
def forked(forkserver):
    """Starts `_run` in a process of its own at once, for its modules are loaded already."""

    def start(*arguments) -> multiprocessing.Process:
        process = forkserver.Process(target=_run, args=arguments)
        process.start()
        return process

    return start


def board(out: Path) -> str:
    """The leaderboard's bytes."""
    return (out / "leaderboard.csv").read_text()


def harm(store: Path, draw: random.Random) -> None:
    """What a power cut may leave: a file that was not written to its end."""
    files = sorted(path for path in store.rglob("*") if path.is_file() and "locks" not in path.parts)
    files = [path for path in files if path.name not in ("store.json", "ledger.jsonl")]
    if files:
        path = draw.choice(files)
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)])


@pytest.mark.parametrize("kills", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_after_a_kill_at_any_moment_the_next_run_finishes(tiny, tmp_path, forked, kills):
    draw = random.Random(1)
    reference = figures(api.run(str(tiny), workers=1, store=tmp_path / "reference"))
    for name in ("warm", "measured"):
        began = time.monotonic()
        forked(str(tiny), tmp_path / name, tmp_path / "out").join()
        whole = time.monotonic() - began
    killed, finished = 0, 0
    while killed < kills or not finished:
        store, out = tmp_path / f"store{finished}", tmp_path / f"out{finished}"
        running = forked(str(tiny), store, out)
        running.join(draw.uniform(0, whole))
        if running.exitcode is None:
            running.kill()
            running.join()
            killed += 1
            if draw.random() < 0.2:
                harm(store, draw)
            continue
        assert running.exitcode == 0
        first = board(out)
        again = api.run(str(tiny), workers=1, store=store, out=out)
        pd.testing.assert_frame_equal(figures(again), reference)
        assert board(out) == first  # to the byte
        Store(store).collect()
        assert not [path for part in ("tmp", "locks", "runs") for path in (store / part).iterdir()]
        finished += 1


def test_two_runs_on_one_store_do_each_job_once(tiny, tmp_path, forked):
    store = Store()
    running = [forked(str(tiny), store.root, tmp_path / f"out{i}") for i in range(2)]
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert len(store.ledger()) == len(make(load(str(tiny))).jobs)
    assert board(tmp_path / "out0") == board(tmp_path / "out1")


def test_artifacts_that_another_run_needs_are_not_dropped(tiny):
    """Both need the weights; who is done first leaves them, who is last drops them."""
    plan = make(load(str(tiny)))
    store = Store()
    weights = {key for key, job in plan.jobs.items() if job.transient}
    with store.needing(plan.jobs):
        assert not runner.run(plan, store, Serial())
        assert all(store.has(key) for key in weights)
    store.discard(next(key for key, job in plan.jobs.items() if job.stage == "rir"))
    for key in set(plan.missing(store)) & weights:
        assert store.has(key)
    assert store.collect()[1] == len(weights)


def test_the_order_of_jobs_changes_nothing(tiny, tmp_path):
    plan = make(load(str(tiny)))
    reference = None
    for seed in range(3):
        draw, jobs, left = random.Random(seed), {}, dict(plan.jobs)
        while left:  # any order with parents before children
            ready = [key for key, job in left.items() if all(parent.key in jobs for parent in job.parents.values())]
            key = draw.choice(ready)
            jobs[key] = left.pop(key)
        store = Store(tmp_path / str(seed))
        assert not runner.run(replace(plan, jobs=jobs), store, Serial())
        found = figures(api.run(str(tiny), workers=1, store=store.root))
        reference = found if reference is None else reference
        pd.testing.assert_frame_equal(found, reference)


def edited(suite: Path, change) -> Path:
    content = yaml.safe_load(suite.read_text())
    change(content["grids"][0])
    path = suite.with_name("edited.yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def added(grid):
    grid["defenses"] = {"whitening": None, **dict(reversed(grid["defenses"].items()))}
    grid["attackers"] = {"lbfgs": None, **dict(reversed(grid["attackers"].items()))}


def learning_rate(grid):
    grid["attackers"]["adam"] = {"lr": 0.2}


def epochs(grid):
    grid["defenses"]["condition_number"]["epochs"] = 2


def policies(grid):
    grid["protocol"]["much"] = 100


ROWS = ("none", "random_init", "condition_number")


@pytest.mark.parametrize(
    ("change", "immunized", "attacked"),
    [
        (added, {"whitening"}, {*itertools.product(["whitening"], ["gradient_descent", "adam", "lbfgs"]),
                                *itertools.product(ROWS, ["lbfgs"])}),
        (learning_rate, set(), {*itertools.product(ROWS, ["adam"])}),
        (epochs, {"condition_number"}, {*itertools.product(["condition_number"], ["gradient_descent", "adam"])}),
        (policies, set(), set()),
    ],
)  # fmt: skip
def test_a_change_recomputes_what_depends_on_it_and_nothing_else(tiny, change, immunized, attacked):
    """Further rows in another order; a hyper-parameter of an attacker, of a defense; a setting of the measurement."""
    api.run(str(tiny), workers=1, keep=True)
    jobs = make(load(str(edited(tiny, change)))).missing(Store()).values()
    assert {job.plugin.name for job in jobs if job.stage == "immunize"} == immunized
    found = {(job.parents["model"].plugin.name, job.plugin.name) for job in jobs if job.stage == "attack"}
    assert found == attacked
    assert jobs


@pytest.mark.xdist_group("cluster")
def test_a_cluster_that_loses_a_worker_midway(tiny, tmp_path, cluster):
    """The slow attacker goes on only once its worker was killed, or the run would be over before."""
    plugin, go = tmp_path / "slow.py", tmp_path / "go"
    plugin.write_text(SLOW)
    rows = {"attackers": ["adam", "slow"], "plugins": [plugin], "settings": [f"attackers.slow.go={go}"]}
    found = []
    where = cluster.scheduler_address
    running = threading.Thread(target=lambda: found.append(api.run(str(tiny), cluster=where, **rows)))
    running.start()
    while not go.with_suffix(".waits").exists():
        assert running.is_alive()
        time.sleep(0.05)
    os.kill(int(go.with_suffix(".waits").read_text()), signal.SIGKILL)
    go.touch()
    running.join()
    (result,) = found
    assert not result.failed
    reference = api.run(str(tiny), workers=1, store=tmp_path / "serial", **rows)
    pd.testing.assert_frame_equal(figures(result), figures(reference))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_a_store_filled_to_the_brim(tiny, tmp_path):
    """A file system of 300 KiB: the run stops with one line; with more room it goes on to the same figures."""
    store = tmp_path / "small"
    store.mkdir()
    command = f"{sys.executable} -m harness.cli run {tiny} --workers 1 --out {tmp_path / 'out'}"
    script = f"""
mount -t tmpfs -o size=300k none {store} || exit 77
export IMMUNEBENCH_STORE={store}
{command}; echo "exit $?"
mount -o remount,size=100m {store}
{command} >/dev/null; echo "exit $?"
wc -l < {store}/ledger.jsonl
"""
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode in (1, 77):
        pytest.skip("no file system may be mounted here: " + done.stderr.strip()[-200:])
    assert done.stdout.split("\n")[:2] == ["exit 1", "exit 0"]
    assert "make room and run the same command again" in done.stderr
    assert int(done.stdout.split("\n")[2]) == len(make(load(str(tiny))).jobs)  # each once
    records = pd.read_parquet(tmp_path / "out" / "records.parquet")
    expected = api.run(str(tiny), workers=1).records
    keep = ~expected["metric"].isin(["seconds", "peak_mb"])
    assert list(records[keep]["value"]) == list(expected[keep]["value"])
