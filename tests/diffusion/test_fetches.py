"""The commands that download what a machine lacks."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from torch import hub

from harness.diffusion import fetches

NAME = "CompVis/stable-diffusion-v1-4"
PAPERS = {"clip": None, "dino": None, "lpips": None}


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
    assert list(fetches.commands("small", PAPERS | {"clip": "clip.pt", "contrastive": None})) == []
    assert list(fetches.commands(str(empty), {"clip": None})) == ["hf download timm/vit_base_patch32_clip_224.openai"]
