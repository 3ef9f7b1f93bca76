"""The cost of a process of its own for plugin code, over the same jobs in the worker's process; `make bench`. No time
is asserted."""

import resource
import time
from pathlib import Path

import pytest

from harness.execution import server
from harness.execution.released import immunize
from harness.execution.worker import ensure
from harness.plugin import PluginSpec
from harness.probe.data import ProbeTargets, Split
from harness.probe.model import Extractor
from harness.registry import installed
from harness.stage import Folders, Stage
from harness.store import Store

JOBS = 5
PLUGIN = '''
"""A defense of a second."""
import time

import torch

from harness import Defense, Field


class Second(Defense):
    """Computes for a second of processor time (test)."""

    track = "any"
    deterministic = True
    adam: bool = Field(False, description="make an optimiser first")

    def immunize(self, model, targets):
        if self.adam:
            torch.optim.Adam([torch.zeros(1, requires_grad=True)])
        end = time.process_time() + 1
        while time.process_time() < end:
            pass
        with torch.no_grad():
            model.weight.mul_(0.5)
        yield 0.0
'''


def model_and_targets():
    """The largest model of the linear track, with its rows."""
    model = Extractor(784)
    x = model.weight.detach()
    rows = Split(x, x[0])
    return model, ProbeTargets(rows, rows, seed=1)


class InStage(Stage, track="benchmark", version=1):
    """A defense within a job, as a track of others runs it."""

    plugin: PluginSpec
    number: int = 0

    def run(self, folders: Folders, out: Path) -> None:
        self.pull(self.plugin.build().generator(*model_and_targets()), out)


class Apart(InStage, track="benchmark", version=1):
    """A defense whose weights are taken over."""

    apart = True

    def run(self, folders: Folders, out: Path) -> None:
        immunize(self, *model_and_targets(), out)


def processor_time() -> float:
    """Of this process and the children that have ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


@pytest.mark.parametrize("adam", [False, True], ids=["", "with Adam"])
@pytest.mark.parametrize("stage", [InStage, Apart])
@pytest.mark.benchmark(group=f"{JOBS} jobs of a second")
def test_isolation(benchmark, tmp_path, monkeypatch, stage, adam):
    """`ratio`: wall time of jobs in processes of their own, over that of the same jobs in this process. The first
    optimiser of a process imports for seconds, which the server of `Apart` does once."""
    (tmp_path / "second.py").write_text(PLUGIN)
    spec = installed().with_files([tmp_path / "second.py"]).get("defense", "second").spec({"adam": adam}, "here")
    jobs = [stage(plugin=spec, number=number) for number in range(2 * JOBS + 1)]
    store = Store(tmp_path / "store")
    ensure(jobs[0], store)  # starts the server, imports the libraries

    def run(some):
        start = time.perf_counter()
        for job in some:
            ensure(job, store)
        return time.perf_counter() - start

    own = benchmark.pedantic(run, args=(jobs[1 : JOBS + 1],), rounds=1)
    monkeypatch.setattr(PluginSpec, "shipped", True)
    here = run(jobs[JOBS + 1 :])
    benchmark.extra_info |= {"ratio": own / here, "alive": server._server is not None}
