"""What all tests share: an own store, no network, one torch thread."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from harness.registry import installed
from tests.helpers import SUITE

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no timing decides
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def store_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a store of its own."""
    monkeypatch.setenv("IMMUNEBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "store"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` need one. Ctrl-C has Python's own handler, which an import of dask_jobqueue replaces."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a module's fixture or the fork server run in one worker (`--dist loadgroup`), so that it is made
    once."""
    for item in items:
        definitions = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
        shared = any(definition[-1].scope == "module" for definition in definitions.values())
        if item.get_closest_marker("xdist_group") is not None:
            continue
        if shared or "forkserver" in definitions:
            item.add_marker(pytest.mark.xdist_group(item.path.stem if shared else "forkserver"))


@pytest.fixture(scope="session")
def cluster():
    """A Dask cluster of two workers; who uses it is in the group of tests `cluster`, so that it is started once."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture(scope="session")
def forkserver() -> BaseContext:
    """Starts processes in which the costly modules are loaded already, among them what torch's optimisers import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.api", "tests.runs", "torch.distributed", "torch._dynamo"])
    return context


@pytest.fixture(scope="session")
def build():
    """`build("attacker", "adam", lr=0.1)`: a built-in plugin by name."""

    def make(kind: str, name: str, preset: str | None = None, **params):
        return installed().get(kind, name).spec(params, "test", preset).build()

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A suite file that runs in a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path
