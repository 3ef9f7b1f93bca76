"""The example for a batch system: the job that it submits, and a run without Slurm."""

import runpy

import pytest

from tests.runs import EXAMPLES, TWO_LAYER

EXAMPLE = EXAMPLES / "slurm.py"


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE))


def test_the_job_scripts_ask_for_a_gpu(example):
    from dask_jobqueue import PBSCluster, SLURMCluster

    with SLURMCluster(**example["WORKER"], scheduler_options={"dashboard_address": None}) as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p gpu", "#SBATCH --gres=gpu:1", "#SBATCH -t 24:00:00", "--resources GPU=1", "--nthreads 1"):
        assert line in script
    with PBSCluster(**example["WORKER"], scheduler_options={"dashboard_address": None}) as cluster:
        assert "#PBS -q gpu" in cluster.job_script()


@pytest.mark.slow
def test_a_run_through_a_batch_system(example, tmp_path, monkeypatch):
    """dask-jobqueue's LocalCluster starts each job as a process here."""
    from dask_jobqueue.local import LocalCluster

    from harness import api

    monkeypatch.chdir(tmp_path)
    mine = {
        "queue": None,
        "job_extra_directives": [],
        "walltime": None,
        "memory": "2GB",
        "log_directory": str(tmp_path),
    }
    mine = {name: value for name, value in (example["WORKER"] | mine).items() if value is not None}
    run = example["run"]
    run.__globals__["WORKER"] = mine
    result = run(TWO_LAYER, jobs=2, cluster_class=LocalCluster, scheduler_options={"dashboard_address": None})
    assert not result.failed
    reference = api.run(TWO_LAYER, workers=1, store=tmp_path / "reference")
    machine = ["seconds", "peak_mb"]
    ours, theirs = (each.records[~each.records["metric"].isin(machine)] for each in (result, reference))
    assert list(ours["value"]) == list(theirs["value"])
