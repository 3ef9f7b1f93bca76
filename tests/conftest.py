"""What all tests share: an own store, no network, one torch thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.registry import installed

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def store_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a store of its own."""
    monkeypatch.setenv("IMMUNEBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "store"


@pytest.fixture(scope="session")
def build():
    """`build("attacker", "adam", lr=0.1)`: a built-in plugin by name."""

    def make(kind: str, name: str, preset: str | None = None, **params):
        return installed().get(kind, name).spec(params, "test", preset).build()

    return make


SUITE = """
format: 1
name: tiny
version: 3
title: House prices, quickly
seeds: 2
grids:
  - name: house_prices
    track: probe
    tasks: [{data: house_prices}]
    protocol: {steps: 5, measure_at: [0, 1, 5]}
    defenses:
      none:
      random_init:
      condition_number: {preset: house_prices, epochs: 1}
    attackers:
      gradient_descent:
      adam: {lr: 0.1}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A suite file that runs in a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path
