"""A whole run at Stable Diffusion's size: UCE, three defenses and two attackers on two concepts, on random weights, at
64×64 pixels on the CPU.

`pytest tests/benchmarks/test_real_size.py --benchmark-only` takes 20 minutes, 12 GB of memory and 2 GB of disk.
"""

from pathlib import Path

import pytest

from harness.store import Store
from tests.diffusion.whole_suite import write_stable_diffusion, write_suite
from tests.helpers import process


@pytest.mark.benchmark(group="a whole suite at Stable Diffusion's size, 64 pixels")
def test_a_whole_suite(benchmark, tmp_path: Path) -> None:
    """The highest resident memory of its jobs, and the job that had it, in `extra_info`."""
    write_stable_diffusion(tmp_path / "base", 64)
    suite = write_suite(tmp_path, tmp_path / "base")
    done = benchmark.pedantic(process, ("run", suite, "--workers", 1, "--out", tmp_path / "out"), rounds=1)
    assert done.returncode == 0, done.stderr
    largest = max(Store().ledger(), key=lambda entry: entry["peak_mb"])
    benchmark.extra_info |= {"peak_gb": largest["peak_mb"] * 2**20 / 1e9, "stage": largest["stage"]}
