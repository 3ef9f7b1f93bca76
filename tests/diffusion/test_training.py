"""The recipe's training loop."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing import start_processes

from harness.diffusion.training import training_loop
from harness.diffusion.training.training_loop import Trainer, seconds, train


class Line(Trainer):
    """Fits y = 2 x − 1 on random points; cut off once at its 25th step where the folder says so."""

    name = "line"
    steps = 200
    rows = 16
    lr = 0.1
    warm_up = 5
    save_every = 10
    ema = 0.9

    def __init__(self, folder: Path) -> None:
        self.network = nn.Linear(1, 1)
        self.cut = folder / "cut"
        self.done = 0

    def loss(self, rows: int, draw: torch.Generator) -> torch.Tensor:
        self.done += 1
        if self.done == 25 and self.cut.exists():
            raise KeyboardInterrupt
        x = torch.rand(rows, 1, generator=draw)
        return (self.network(x) - (2 * x - 1)).square().mean()


def _silent(text: str) -> None:
    pass


@pytest.fixture(autouse=True)
def fast_start(forkserver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that need not import torch."""
    monkeypatch.setattr(training_loop, "spawn", partial(start_processes, start_method="forkserver"))


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
    (parted / "cut").touch()
    with pytest.raises(BaseException):  # noqa: B017, PT011 (what a spawned process's end is told as is torch's affair)
        train(Line, parted, seed=1, processes=2, report=_silent)
    assert not (parted / "line.safetensors").exists()
    assert (parted / "line.checkpoint.safetensors").exists()
    (parted / "cut").unlink()
    expected = train(Line, whole, seed=1, processes=2, report=_silent)
    found = train(Line, parted, seed=1, processes=2, report=_silent)
    assert torch.equal(found["weight"], expected["weight"])
    assert torch.equal(found["bias"], expected["bias"])
    assert float(expected["weight"]) == pytest.approx(2, abs=0.05)  # and it learns
    assert float(expected["bias"]) == pytest.approx(-1, abs=0.05)
    assert seconds(Line, parted) >= 0
    assert not list(parted.glob("*.checkpoint.*"))
    other = train(Line, tmp_path, seed=2, processes=2, report=_silent)
    assert not torch.equal(other["weight"], expected["weight"])
