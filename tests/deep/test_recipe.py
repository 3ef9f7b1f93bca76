"""The training recipe on a few pictures: it resumes where it stopped and writes what an extractor reads."""

import gzip

import numpy as np
import pytest
import torch

from harness.deep import extractors, recipe
from harness.errors import RunError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set of 32 pictures, whose classes are their brightness, in batches of 8."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 32), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (labels[:, None] * 25 + random.integers(0, 9, (count, 784))).astype(np.uint8)
        header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (count, 28, 28))
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels.tobytes())
    monkeypatch.setattr(recipe, "ROWS", 8)
    monkeypatch.setattr(recipe, "SETTINGS", {"vit_small": recipe.Setting(2, 1e-3)})
    return folder


@pytest.mark.slow
def test_training_resumes_and_its_weights_are_read(data, tmp_path, monkeypatch):
    whole = recipe.train("vit_small", data, tmp_path / "whole")

    def stop(network, data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "evaluate", stop)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                recipe.train("vit_small", data, tmp_path / "stopped")
    assert recipe.train("vit_small", data, tmp_path / "stopped") == whole
    first, second = ((tmp_path / folder / "vit_small.safetensors").read_bytes() for folder in ("whole", "stopped"))
    assert first == second
    monkeypatch.setattr(extractors, "WEIGHTS", tmp_path / "whole")
    extractor = extractors.load("vit_small", 28)
    assert extractor.tail(extractor.activations(torch.rand(2, 3, 28, 28))).shape == (2, 96)
    with pytest.raises(RunError, match="set `size: 28` in the task"):
        extractors.load("vit_small", 32)


def test_a_kill_while_the_state_is_written_loses_one_epoch(data, tmp_path, monkeypatch):
    recipe.train("vit_small", data, tmp_path / "whole")
    save, written = torch.save, []

    def killed(saved, path):
        written.append(path)
        save(saved, path)
        if len(written) == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            recipe.train("vit_small", data, tmp_path / "killed")
    assert torch.load(tmp_path / "killed" / "vit_small.state.pt", weights_only=True)["epochs"] == 1
    recipe.train("vit_small", data, tmp_path / "killed")
    first, second = ((tmp_path / folder / "vit_small.safetensors").read_bytes() for folder in ("whole", "killed"))
    assert first == second


def test_missing_files_are_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"has no train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        recipe.read(tmp_path, "train")
    monkeypatch.setattr(extractors, "WEIGHTS", tmp_path)
    with pytest.raises(
        RunError, match=r"has no weights here: train them with `python -m harness.deep.recipe vit_small"
    ):
        extractors.load("vit_small", 28)
