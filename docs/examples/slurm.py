"""A suite on a cluster that Slurm runs, one GPU a worker: `python docs/examples/slurm.py styles`, from a login node.

For PBS take `PBSCluster`. Partition, memory and walltime are yours to fill in. The store (IMMUNEBENCH_STORE) and this
Python environment must lie on a file system that all nodes share. What a worker has in hand when its walltime is over
is run once more, on another.
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


def run(suite: str, jobs: int = 8, cluster_class: type = SLURMCluster, **worker: object) -> harness.Result:
    """Run `suite` on the workers of `jobs` Slurm jobs, from when the first of them is there."""
    with cluster_class(**(WORKER | worker)) as cluster, Display() as display:
        cluster.scale(jobs=jobs)
        return harness.run(
            suite, cluster=cluster.scheduler_address, gpu=True, out=f"results/runs/{suite}", progress=display
        )


if __name__ == "__main__":
    run(sys.argv[1])
