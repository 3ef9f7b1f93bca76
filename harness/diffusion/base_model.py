"""Base models: where their files are, which layouts this track runs, and loading their pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from harness.diffusion.base import FAMILIES
from harness.diffusion.small import PIPELINE
from harness.errors import RunError

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
diffusers_logging.set_verbosity_error()


def load_pipeline(base: str, precision: str = "fp32") -> DiffusionPipeline:
    """Load the pipeline of a base model.

    base: see `locate`. precision: fp32, tf32, bf16 or fp16; tf32 is fp32 here, because the switch of TensorFloat-32
    belongs to the process (see `harness.diffusion.pipeline_stage`). Raises `RunError` if the folder has no such
    pipeline, if it has another layout (see `layout_fault`), or if it cannot be downloaded from the hub.
    """
    if fault := layout_fault(base):
        raise RunError(fault)
    where = locate(base)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    settings: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        if not Path(where).is_dir() and read_config(base, "model_index.json") is None:
            DiffusionPipeline.load_config(where)  # downloads the file that names the family
            if fault := layout_fault(base):
                raise RunError(fault)
        family = FAMILIES[layout(base)]
        settings |= family.loading
        try:
            pipeline = family.pipeline.from_pretrained(where, local_files_only=True, **settings)
        except OSError:
            if Path(where).is_dir():
                raise
            pipeline = family.pipeline.from_pretrained(where, **settings)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        first = str(error).strip().split("\n")[0]
        advice = "give a folder with model_index.json"
        if not Path(where).is_dir():
            advice += (
                f", or download one on a machine with network access by `hf download {base} --local-dir DIR` and "
                "run the suite with `--base DIR`"
            )
        raise RunError(f"cannot load the base model '{base}' as a {layout(base)} ({first:.200}); {advice}") from None
    if fault := layout_fault(base):  # the files of a model on a hub are here now
        raise RunError(fault)
    return pipeline


def locate(base: str) -> str:
    """Folder, or name on the hub, of the base model `base`; `small` is the one that ships with the harness."""
    return str(PIPELINE) if base == "small" else base


_OTHER_INPUTS = (
    "addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "only_cross_attention",
    "dual_cross_attention",
)  # fmt: skip


def layout_fault(base: str) -> str | None:
    """Why the base model `base` (see `locate`) has a layout that this track cannot run, from its configuration files.
    None if it can, or if there are no such files on this machine."""
    kind = layout(base)
    if kind not in FAMILIES:
        return (
            f"the base model '{base}' is a {kind}; this track runs {' and '.join(FAMILIES)} (Stable Diffusion 1, 2 and "
            "XL), whose U-Nets read text by cross-attention: no file in harness/diffusion/base says how this one does"
        )
    unet = read_config(base, "unet/config.json")
    if unet is None:
        return None
    inputs, outputs = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if inputs != outputs:
        return (
            f"the U-Net of the base model '{base}' has {inputs} input and {outputs} output channels, as for "
            "inpainting; this track runs models whose only inputs are latents and text"
        )
    served = FAMILIES[kind].inputs
    if other := [name for name in _OTHER_INPUTS if unet.get(name) and unet[name] != served.get(name)]:
        return (
            f"the U-Net of the base model '{base}' has {other[0]} = {unet[other[0]]}, so it is conditioned on more "
            "than cross-attention to one text, which this track does not know"
        )
    if lacking := [name for name in served if unet.get(name) != served[name]]:
        return (
            f"the U-Net of the base model '{base}' has {lacking[0]} = {unet.get(lacking[0])}, where a {kind} has "
            f"{served[lacking[0]]}"
        )
    blocks = [*unet.get("down_block_types", ["CrossAttn"]), *unet.get("up_block_types", []), unet.get("mid_block_type")]
    if not any("CrossAttn" in block for block in blocks if block):
        return f"the U-Net of the base model '{base}' has no cross-attention, so it reads no text to erase or attack"
    return None


def layout(base: str) -> str:
    """The class of the base model's pipeline; Stable Diffusion's if no file on this machine says another."""
    return str((read_config(base, "model_index.json") or {}).get("_class_name", next(iter(FAMILIES))))


def base_file(base: str, name: str) -> Path | None:
    """The file `name` of the base model `base` (see `locate`); None if it is not on this machine."""
    try:
        return Path(str(cached_file(locate(base), name, local_files_only=True)))
    except (OSError, ValueError):
        return None


def read_config(base: str, name: str) -> dict[str, Any] | None:
    """The content of a JSON file of a base model; None if it cannot be read on this machine."""
    path = base_file(base, name)
    try:
        content = None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
