"""Runs a suite on a Slurm cluster, one GPU for each worker: `python docs/examples/slurm.py styles` on a login node.

For PBS use `PBSCluster`. Set partition, memory and walltime. The store (IMMUNEBENCH_STORE) and this Python environment
must be on a file system that all nodes share. A job that is running when its worker's walltime ends runs once more, on
another worker.
"""

import sys

from dask_jobqueue import SLURMCluster

import harness
from harness.execution.progress import Display

WORKER = {
    "cores": 1,  # jobs at once
    "processes": 1,
    "memory": "32GB",
    "walltime": "24:00:00",
    "queue": "gpu",
    "job_extra_directives": ["--gres=gpu:1"],
    "worker_extra_args": ["--resources", "GPU=1"],
}


def run(suite: str, jobs: int = 4, cluster_class: type = SLURMCluster, **worker: object) -> harness.Result:
    """Run `suite` on the workers of `jobs` Slurm jobs, from when the first of them is there."""
    with cluster_class(**(WORKER | worker)) as cluster, Display() as display:
        cluster.scale(jobs=jobs)
        return harness.run(
            suite, cluster=cluster.scheduler_address, gpu=True, out=f"results/runs/{suite}", progress=display
        )


if __name__ == "__main__":
    run(sys.argv[1])
