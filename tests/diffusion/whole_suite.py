"""A suite of two erased concepts, two attackers and three defenses on any base model, as short as a suite can be; and
pipelines of random weights with the sizes of Stable Diffusion 1."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from harness.diffusion.abstract import V1
from harness.diffusion.small.networks import tokenizer
from tests.diffusion.helpers import STYLES

CONCEPTS = STYLES + "captions: captions.txt\nconcepts: {marvo: , telune: , obrick: }\n"
DEFENSES = {
    "none": {},
    "ascent": {"steps": 1, "weights": "keys_values"},
    "mima": {"steps": 1, "weights": "keys_values", "captions": 2},
    "compose": {"steps": 1, "captions": 2},
}
"""The undefended row and three defenses that ascend on keys and values."""
ATTACKERS = {"lora": {"lr": 0.01, "batch_size": 1}, "dreambooth_lora": {"lr": 0.01, "batch_size": 1}}


def write_suite(
    folder: Path,
    base: str | Path,
    defenses: dict = DEFENSES,
    attackers: dict = ATTACKERS,
    names: tuple[str, ...] = ("marvo", "telune"),
) -> Path:
    """Write the suite for a base model into `folder`; returns the file. It erases the concepts `names` with UCE."""
    folder.mkdir(exist_ok=True)
    (folder / "styles.yaml").write_text(CONCEPTS)
    (folder / "captions.txt").write_text("a photo of a bag\na photo of a shoe\n")
    tasks = {"base": str(base), "concepts": "styles.yaml", "groups": [names], "others": 0}
    protocol = {
        "steps": 2, "measure_at": [1, 2], "training_images": 1, "images": 1, "kept_images": 1, "attacked_images": 0,
        "sampling": {"steps": 2, "guidance": 2}, "encoders": ["efficientnet_lite0"], "sheets": 0,
    }  # fmt: skip
    grid = {
        "name": "styles", "track": "diffusion", "tasks": [tasks | {"checkpointing": True}], "protocol": protocol,
        "defenses": defenses, "attackers": attackers,
    }  # fmt: skip
    suite = {"format": 1, "name": "whole", "version": 1, "title": "A whole suite", "seeds": 1, "grids": [grid]}
    path = folder / "suite.yaml"
    path.write_text(json.dumps(suite))
    return path


def write_stable_diffusion(folder: Path, side: int) -> None:
    """Write a pipeline of random weights with the sizes of Stable Diffusion 1 (a U-Net of 860 million) for pictures of
    `side` pixels into `folder`: 2.1 GB of half precision."""
    torch.manual_seed(0)
    words = tokenizer()
    words.model_max_length = V1["text_encoder"]["max_position_embeddings"]
    tokens = {name: getattr(words, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    text = CLIPTextConfig(**V1["text_encoder"], **tokens, num_attention_heads=12, hidden_act="quick_gelu")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(**V1["vae"]).half(),
        text_encoder=CLIPTextModel(text).half(),
        tokenizer=words,
        unet=UNet2DConditionModel(**V1["unet"] | {"sample_size": side // 8}).half(),
        scheduler=DDIMScheduler(**V1["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
