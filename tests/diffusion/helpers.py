"""A pipeline in Stable Diffusion's layout, made on the spot with sizes of its own, and pictures of noise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from harness import plan
from harness.diffusion import Concept, ConceptData, TextToImage
from harness.diffusion.small.networks import tokenizer
from harness.execution import scheduler
from harness.execution.executors import local
from harness.metric import read_values
from harness.records import frame
from harness.selection import Selection
from harness.store import Store
from harness.suite import Suite
from harness.suite_reader import load

SIDE = 16
STYLES = """
format: 2
kind: style
prompt: an artwork by {}
class_prompt: an artwork
class_word: artwork
"""
"""The beginning of a file of styles."""
SAMPLING = {"sampler": "ddim", "steps": 3, "guidance": 2.0}


def pipeline(prediction: str = "epsilon", channels: int = 4) -> StableDiffusionPipeline:
    """Untrained weights: what is tested is what the harness does with them."""
    torch.manual_seed(0)
    tokens = CLIPTokenizer(**_vocabulary(), model_max_length=20)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, cross_attention_dim=24, attention_head_dim=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=channels,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=SIDE, scaling_factor=0.5,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=20, bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokens, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(prediction_type=prediction, clip_sample=False, steps_offset=1),
        requires_safety_checker=False,
    )  # fmt: skip


def second_pipeline() -> StableDiffusionPipeline:
    """Untrained weights in Stable Diffusion 2's layout: it predicts the velocity, projects linearly around attention,
    and has another number of heads in each block and another activation in the text encoder."""
    plain = pipeline("v_prediction")
    changes = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
    settings = {name: value for name, value in plain.unet.config.items() if not name.startswith("_")}
    text = CLIPTextConfig(**plain.text_encoder.config.to_dict() | {"hidden_act": "gelu"})
    return StableDiffusionPipeline(
        **plain.components | {"unet": UNet2DConditionModel(**settings | changes), "text_encoder": CLIPTextModel(text)},
        requires_safety_checker=False,
    )


def xl_pipeline() -> StableDiffusionXLPipeline:
    """Untrained weights in Stable Diffusion XL's layout, with its zeros for the empty prompt and its scheduler."""
    plain = pipeline()
    text = plain.text_encoder.config
    second = CLIPTextModelWithProjection(CLIPTextConfig(**text.to_dict() | {"hidden_size": 16, "projection_dim": 12}))
    unet = UNet2DConditionModel(
        **{name: value for name, value in plain.unet.config.items() if not name.startswith("_")}
        | {"cross_attention_dim": 24 + 16, "addition_embed_type": "text_time",
         "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 12}
    )  # fmt: skip
    words = CLIPTokenizer(**_vocabulary(), model_max_length=20, pad_token="!")
    return StableDiffusionXLPipeline(
        vae=plain.vae, text_encoder=plain.text_encoder, text_encoder_2=second, tokenizer=plain.tokenizer,
        tokenizer_2=words, unet=unet, scheduler=EulerDiscreteScheduler(prediction_type="epsilon"),
        add_watermarker=False,
    )  # fmt: skip


def _vocabulary() -> dict:
    state = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    return {"vocab": state["vocab"], "merges": [tuple(pair) for pair in state["merges"]]}


def write_pictures(folder: Path, count: int, side: int = SIDE, seed: int = 0) -> None:
    """Pictures of noise, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(noise(1, seed + i, side)[0]).save(folder / f"{i}.png")


def noise(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Pictures of noise, (count, side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def subject(model: TextToImage, concept: Concept, seed: int = 7, count: int = 5, side: int = SIDE) -> ConceptData:
    """What an attacker gets."""

    return ConceptData(concept, noise(count, side=side), model, seed, noise(4, 3, side))


class Measured(NamedTuple):
    """A run: its records, why jobs failed, and its plan and store."""

    records: pd.DataFrame
    failed: Mapping[str, str]
    plan: plan.Plan
    store: Store


def load_suite(suite: Path, **selection) -> Suite:
    """A suite with the plugins in the file beside it, if there is one."""
    beside = [file for file in [suite.parent / "plugins.py"] if file.exists()]
    return load(str(suite), Selection.of(**{"plugins": beside, **selection}))


def run_suite(suite: Path, **selection) -> Measured:
    """Run it in this process, with the default store."""
    made, store = plan.make(load_suite(suite, **selection)), Store()
    failed = scheduler.run(made, store, local(1))
    rows = []
    for cell in made.cells:
        if cell.job.key in failed:
            rows.append({**cell.coordinates, "status": "failed", "note": failed[cell.job.key]})
        else:
            values = read_values(store.folder(cell.job.key))
            rows += [{**cell.coordinates, "status": "ok", **value} for value in values]
    return Measured(frame(rows), failed, made, store)
