"""The weights of a checkpoint in Stable Diffusion's layout, compared with those of its base model.

A checkpoint has the folder of a part if it changes this part: `unet` or a text encoder. They must have the base
model's architecture; an autoencoder must have its weights, because all pictures are encoded and decoded by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness import checkpoints
from harness.diffusion.base_model import base_file, read_config
from harness.diffusion.model import TextToImage
from harness.errors import RunError

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
"""The file of weights in the folder of each part."""
_TRAINED = ("unet", "text_encoder", "text_encoder_2")
_TEXT_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads")
_SETTINGS = {
    "unet/config.json": (
        "_class_name", "act_fn", "attention_head_dim", "down_block_types", "flip_sin_to_cos", "freq_shift",
        "mid_block_type", "norm_eps", "norm_num_groups", "num_attention_heads", "up_block_types",
    ),
    "text_encoder/config.json": _TEXT_SETTINGS,
    "text_encoder_2/config.json": _TEXT_SETTINGS,
    "scheduler/scheduler_config.json": ("prediction_type",),
}  # fmt: skip
"""By file, the settings of an architecture that the sizes of weights do not show."""
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of earlier versions of diffusers, in the autoencoder."""

Weights = Mapping[str, torch.Tensor]


@lru_cache(32)
def fault(folder: Path, base: str, digest: str) -> str | None:
    """Why the weights in `folder` are no released model of the base model `base`, in one line; None if they are, as far
    as the files of the base model are on this machine.

    base: see `harness.diffusion.base_model.locate`. digest: digest of the weights, by which the answer is remembered.
    """
    if missing := _missing(folder):
        return missing
    for part in _parts(folder):
        try:
            given = _read(folder / part / FILES[part])
            path = base_file(base, f"{part}/{FILES[part]}")
            own = given if path is None else _read(path)
        except (SafetensorError, OSError) as error:
            return f"{folder / part / FILES[part]} cannot be read ({error}): copy it again"
        if differs := difference(part, given, own):
            return f"{folder} is no released model of the base model '{base}': {differs}"
    for name, keys in _SETTINGS.items():
        theirs, ours = read_config(str(folder), name) or {}, read_config(base, name) or {}
        for key in keys:
            if theirs.get(key, ours.get(key)) != ours.get(key, theirs.get(key)):
                return (
                    f"{folder} is no released model of the base model '{base}': {key} in {name} is {theirs[key]}, in "
                    f"the base model {ours[key]}"
                )
    return None


def copy_into(model: TextToImage, folder: Path) -> None:
    """Copy the weights in `folder` into `model`, a copy of the base model, in place. Raises `RunError` if they do not
    fit it."""
    for part in _parts(folder):
        given, own = _read(folder / part / FILES[part]), _named(getattr(model.pipeline, part).state_dict())
        if differs := difference(part, given, own):
            raise RunError(f"{folder} is no released model of the base model: {differs}")
        if part in _TRAINED:
            for name, value in given.items():
                if not own[name].copy_(value).isfinite().all():
                    raise RunError(f"{name} of {folder / part} overflows in the task's precision: choose another one")


def difference(part: str, given: Weights, own: Weights) -> str | None:
    """Why a part of a checkpoint does not fit the base model, as a clause; None if it does.

    part: a key of `FILES`. given: the part's weights by name. own: those of the base model.
    """
    for text, names in (("lacks", own.keys() - given.keys()), ("has other weights, e.g.", given.keys() - own.keys())):
        if names:
            return f"its {part} {text} {min(names)}"
    for name, value in given.items():
        if value.shape != own[name].shape:
            return f"{name} of its {part} has size {tuple(value.shape)}, in the base model {tuple(own[name].shape)}"
        if not value.isfinite().all():
            return f"{name} of its {part} has values that are not finite"
        if part not in _TRAINED and not _alike(value, own[name]):
            return (
                f"its {part} has other weights than the base model's; only the U-Net and the text encoders may change"
            )
    return None


def _alike(value: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether two tensors are equal but for rounding to half precision."""
    return torch.allclose(value.float().cpu(), own.float().cpu(), rtol=2**-8, atol=1e-6)


def _parts(folder: Path) -> Iterator[str]:
    return (part for part in FILES if (folder / part).is_dir())


def _missing(folder: Path) -> str | None:
    """What a folder lacks of a released model; None if nothing."""
    index = read_config(str(folder), "model_index.json") or {}
    parts = [part for part in FILES if part in index or (folder / part).is_dir()]
    if not set(parts) & set(_TRAINED):
        return checkpoints.missing_file(folder, f"unet/{FILES['unet']}")
    for part in parts:
        if not (folder / part / FILES[part]).is_file():
            return checkpoints.missing_file(folder, f"{part}/{FILES[part]}")
    return None


def _read(path: Path) -> Weights:
    return _named(load_file(path))


def _named(weights: Weights) -> Weights:
    """Weights under the same names for all versions of the libraries; without the constant `position_ids`."""
    named = {}
    for name, value in weights.items():
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        if not name.endswith("position_ids"):
            named[name.removeprefix("text_model.")] = value
    return named
