"""Models without numbers: the memory and the arithmetic of a computation, counted without computing it.

The U-Net and the autoencoder of an abstract model have shapes and no values (`torch._subclasses.FakeTensor`), so a
pipeline of any size fits anywhere and a training step takes seconds. The text encoder is a real one of a single random
layer, because some methods solve equations with text embeddings; the size of the base model's own is added.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import CLIPTextConfig, CLIPTokenizer

from harness.demands import Work
from harness.diffusion.base import FAMILIES
from harness.diffusion.base_model import layout, read_config
from harness.diffusion.concepts import Concept
from harness.diffusion.data import ConceptData, Targets
from harness.diffusion.model import TextToImage
from harness.diffusion.small import dataset
from harness.diffusion.small.networks import tokenizer

V1: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 512,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
    },
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "steps_offset": 1,
    },
}
"""Configurations of Stable Diffusion 1's parts, where they differ from the defaults of their classes: for a base model
whose files are not on this machine."""
_TEXT = (
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "intermediate_size",
    "num_hidden_layers",
    "max_position_embeddings",
    "projection_dim",
)
_ATEN = torch.ops.aten
_SAME_COST = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _ATEN._scaled_dot_product_flash_attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _ATEN._scaled_dot_product_flash_attention_backward,
}
"""Operations that torch's table of costs lacks, and others of the same cost."""
CONCEPTS = dataset.STYLES[:5]
"""Names of the concepts in the data of abstract models."""
CAPTIONS = tuple(f"a photo of a {thing}" for thing in dataset.OBJECTS)
"""Captions in the data of abstract models."""


class Counter(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, at most and now, the floating-point operations of matrix
    products, convolutions and attention, a multiplication and an addition each, and the kernels: operations of torch
    that are no view. Works on real tensors too.

    Memory of kernels, of allocators and of the driver is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.bytes = self.flops = self.kernels = 0
        self._alive: dict[int, int] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count the memory of `tensor` until it is freed."""
        storage = tensor.untyped_storage()
        if id(storage) not in self._alive:
            self._alive[id(storage)] = size = storage.nbytes()
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._freed, id(storage))

    def _freed(self, storage: int) -> None:
        self.bytes -= self._alive.pop(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        packet = _SAME_COST.get(func.overloadpacket, func.overloadpacket)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        self.kernels += not func.is_view
        return result

    @property
    def work(self) -> Work:
        """The arithmetic so far."""
        return Work(self.flops, self.kernels)


class AbstractModel:
    """A model without numbers.

    base: the base model whose configuration it has (see `harness.diffusion.base_model.locate`); Stable Diffusion 1's
    where the files are not on this machine. precision: as in `TextToImage.load`. checkpointing: as in
    `TextToImage.checkpoint`. The attribute `outside` is the size of the base model's text encoders, in bytes, which a
    counter does not see.
    """

    def __init__(self, base: str, precision: str = "fp32", checkpointing: bool = False) -> None:
        family = FAMILIES[layout(base)]
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        parts: dict[str, Any] = dict.fromkeys(family.unused)
        self.outside = 0
        with FakeTensorMode(allow_non_fake_inputs=True), _default(dtype):
            parts["unet"] = UNet2DConditionModel.from_config(_settings(base, "unet"))
            parts["vae"] = AutoencoderKL.from_config(_settings(base, "vae"))
        for part, encoder in family.encoders.items():
            settings = _settings(base, part)
            text = CLIPTextConfig(**{name: value for name, value in settings.items() if name in _TEXT})
            with FakeTensorMode(allow_non_fake_inputs=True), _default(dtype):
                self.outside += sum(weight.nbytes for weight in encoder.kind(text).parameters())
            parts |= {part: _short(encoder.kind, text).to(dtype), encoder.tokenizer: _words(text)}
        scheduler = DDIMScheduler.from_config(_settings(base, "scheduler"))
        self.model = TextToImage(family.pipeline(**{**family.loading, **parts}, scheduler=scheduler))
        if checkpointing:
            self.model.checkpoint()
        self.side = int(self.model.unet.config.sample_size * self.model.pipeline.vae_scale_factor)

    @property
    def bytes(self) -> int:
        """Memory of the weights of all parts, before anything is trained."""
        parts = (self.model.unet, self.model.vae)
        return self.outside + sum(weight.nbytes for part in parts for weight in part.parameters())

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter]:
        """Count what is computed within the block, with the weights of the U-Net and the autoencoder."""
        counter = Counter()
        for part in (self.model.unet, self.model.vae):
            for weight in part.parameters():
                counter.add(weight)
        with counter:
            yield counter

    def concept(self, place: int = 0, pictures: int = 4) -> ConceptData:
        """The data of the concept with the number `place` of `CONCEPTS`, with black pictures."""
        black = np.zeros((pictures, self.side, self.side, 3), np.uint8)
        words = {"words": CONCEPTS[place], "class_prompt": "an artwork", "class_word": "artwork"}
        concept = Concept(name=CONCEPTS[place], kind="style", prompt="an artwork by {}", **words)
        return ConceptData(concept, black, self.model, place, black, black, CAPTIONS[:pictures])

    def targets(self, concepts: int) -> Targets:
        """The data of a defense for the first `concepts` of `CONCEPTS`."""
        data = tuple(self.concept(place) for place in range(concepts))
        black = np.zeros((len(CAPTIONS), self.side, self.side, 3), np.uint8)
        return Targets(self.model, data, CONCEPTS[:concepts], CAPTIONS, black, 0)


def _settings(base: str, part: str) -> dict[str, Any]:
    """The configuration of a part of the base model; Stable Diffusion 1's where its file is not on this machine."""
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    return read_config(base, f"{part}/{file}") or V1.get(part, V1["text_encoder"])


def _short(kind: type[Any], text: CLIPTextConfig) -> torch.nn.Module:
    """A text encoder with one random layer that has the width of `text`."""
    words = _words(text)
    short = {**text.to_dict(), "vocab_size": len(words), "num_hidden_layers": 1, "intermediate_size": 64}
    tokens = {name: getattr(words, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder: torch.nn.Module = kind(CLIPTextConfig(**short | tokens))
        return encoder


def _words(text: CLIPTextConfig) -> CLIPTokenizer:
    """A tokenizer for prompts as long as `text` reads."""
    words = tokenizer()
    words.model_max_length = text.max_position_embeddings
    return words


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors have this type within the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
