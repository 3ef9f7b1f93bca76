"""The commands that download what a machine lacks."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from huggingface_hub.cli import download, hf
from huggingface_hub.utils import filter_repo_objects
from torch import hub

from harness.diffusion import fetches
from harness.diffusion.protocol import DiffusionProtocol
from harness.errors import UsageError
from harness.plan import available
from harness.selection import Selection
from harness.suite_reader import load

NAME = "CompVis/stable-diffusion-v1-4"
PAPERS = DiffusionProtocol(steps=1, encoders=["clip", "dino", "lpips"])


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose caches are empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(fetches, "base_file", lambda base, name: None)
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_all_that_is_missing_is_named(empty: Path) -> None:
    base, clip, dino, alexnet = fetches.commands(NAME, PAPERS)
    assert base.startswith(f"hf download {NAME} --include ")
    assert clip == "hf download timm/vit_base_patch32_clip_224.openai"
    assert dino == "hf download timm/vit_small_patch16_224.dino"
    assert "torchvision.models.alexnet" in alexnet


def test_what_is_here_is_not_named(empty: Path) -> None:
    (empty / "hub" / "models--timm--vit_small_patch16_224.dino").mkdir(parents=True)
    (empty / "torch" / "checkpoints").mkdir(parents=True)
    (empty / "torch" / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    own = PAPERS.model_copy(update={"encoders": {**PAPERS.encoders, "clip": "clip.pt", "contrastive": None}})
    assert list(fetches.commands("small", own)) == []
    (clip,) = fetches.commands(str(empty), PAPERS)
    assert clip == "hf download timm/vit_base_patch32_clip_224.openai"


def test_a_detectors_weights_are_named_too(empty: Path) -> None:
    protocol = DiffusionProtocol(steps=1, encoders=["contrastive"], detectors=["clip"])
    assert list(fetches.commands("small", protocol)) == ["hf download timm/vit_base_patch32_clip_224.openai"]


def test_the_command_takes_what_the_track_reads_and_no_more(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed command, as hf itself understands it."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(download, "snapshot_download", lambda **fields: asked.update(fields) or str(empty))
    command = shlex.split(next(fetches.commands(NAME, PAPERS)))
    assert CliRunner().invoke(hf.app, command[1:]).exit_code == 0
    here = {"model_index.json", "unet/config.json", "tokenizer/merges.txt", "unet/diffusion_pytorch_model.safetensors"}
    left = {
        "v1-4.ckpt", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "safety_checker/model.safetensors",
    }  # fmt: skip
    patterns = {"allow_patterns": asked["allow_patterns"], "ignore_patterns": asked["ignore_patterns"]}
    assert asked["repo_id"] == NAME
    assert set(filter_repo_objects(sorted(here | left), **patterns)) == here


def test_what_lacks_is_named_with_all_its_commands(empty: Path) -> None:
    """Where the base itself is missing, one line has the commands for the encoders too."""
    with pytest.raises(UsageError) as raised:
        available(load("styles", Selection.of(base="v1-4", defenses=["none"], attackers=["lora"], seeds=1)))
    line = str(raised.value)
    assert line.startswith(f"the base model {NAME} is not on this machine")
    assert all(command in line for command in fetches.commands(NAME, PAPERS))
