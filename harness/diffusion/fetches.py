"""The commands that download what a grid needs and this machine lacks: a base model, weights of encoders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from harness.diffusion.base_model import base_file, locate
from harness.diffusion.protocol import DiffusionProtocol

REPOSITORIES = {"clip": "timm/vit_base_patch32_clip_224.openai", "dino": "timm/vit_small_patch16_224.dino"}
"""The repositories on the hub with the default weights of encoders."""
PARTS = " ".join(
    [f"--include '{files}'" for files in ("*.json", "*.txt", "*/*.safetensors")]
    + [f"--exclude '{files}'" for files in ("*fp16*", "*non_ema*", "safety_checker/*")]
)
"""Selects the files of a pipeline that this track reads; hf takes one pattern after each option."""
ALEXNET = "python -c \"import torchvision; torchvision.models.alexnet(weights='IMAGENET1K_V1')\""
"""Downloads the default weights of the encoder lpips, which are not on the hub."""


def commands(base: str, protocol: DiffusionProtocol) -> Iterator[str]:
    """Yield the commands that download the base model `base` (see `harness.diffusion.base_model.locate`) and the
    default weights of the protocol's encoders and detectors, of which this machine has nothing."""
    detectors = {name: detector.path for name, detector in protocol.detectors.items()}
    default = {name for weights in (protocol.encoders, detectors) for name, path in weights.items() if path is None}
    if not Path(locate(base)).is_dir() and base_file(base, "model_index.json") is None:
        yield f"hf download {base} {PARTS}"
    for name, repository in REPOSITORIES.items():
        cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        if name in default and not cached.is_dir():
            yield f"hf download {repository}"
    if "lpips" in default and not _alexnet():
        yield ALEXNET


def _alexnet() -> bool:
    from torch import hub

    return any(Path(hub.get_dir(), "checkpoints").glob("alexnet-*"))
