"""The tokenizer of the small base, and the two networks that ship with it: the concept classifier and a CLIP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import torch as safetensors
from tokenizers import pre_tokenizers
from torch import nn
from transformers import CLIPTokenizer

from harness.diffusion.small import WEIGHTS, dataset

TOKENS = 16
"""Length of a prompt, start and end tokens included."""
CLASSES = {
    "object": dataset.OBJECTS,
    "style": (*dataset.STYLES, "photo"),
    "subject": (*(subject.name for subject in dataset.SUBJECTS), "nobody"),
}
"""Classes of the classifier's logits, by head."""


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the captions is one token; other text becomes a token for each byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(dataset.vocabulary())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    names = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """The merges of a byte-pair encoding (Sennrich et al., 2016) that make every word one piece. The library's trainer
    breaks ties by hash, so its result would differ between processes."""
    split = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges = []
    while counts := Counter(pair for parts in split.values() for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for parts in split.values():
            for i in range(len(parts) - 2, -1, -1):
                if tuple(parts[i : i + 2]) == best:
                    parts[i : i + 2] = ["".join(best)]
    return merges


def classifier() -> nn.Sequential:
    """The concept classifier: a narrow ResNet-10-T from timm, on 32×32 pixels in [−1, 1] that are upsampled by 2. Its
    logits (n, classes) are the concatenated logits of all heads in `CLASSES`."""
    import timm
    from timm.layers import GroupNorm

    network = timm.create_model(
        "resnet10t",
        channels=(24, 48, 96, 128),
        stem_width=16,
        norm_layer=partial(GroupNorm, num_groups=4),  # no batch statistics, so the logits depend on the picture only
        num_classes=sum(len(names) for names in CLASSES.values()),
    )
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), network)


def contrastive(vocabulary: int) -> Any:
    """A small CLIP from open_clip that maps 32×32 pixels in [−1, 1] and prompts of TOKENS tokens to 64 dimensions.
    vocabulary: number of tokens."""
    from open_clip.model import CLIP

    return CLIP(
        embed_dim=64,
        vision_cfg={"layers": 4, "width": 96, "head_width": 24, "patch_size": 4, "image_size": dataset.SIZE},
        text_cfg={"context_length": TOKENS, "vocab_size": vocabulary, "width": 96, "heads": 4, "layers": 2},
    )


def loaded(network: Any, path: Path) -> Any:
    """Load the weights in the file `path` (stored in fp16, used in fp32) into `network`, freeze it and return it."""
    tensors = {
        name: value.float() if value.is_floating_point() else value
        for name, value in safetensors.load(path.read_bytes()).items()
    }
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def shipped(name: str, path: str | None = None) -> Any:
    """The network `name`: `classifier` or `contrastive`. path: file of weights, which is read anew; None: the shipped
    weights, which a process reads once."""
    return _shipped(name) if path is None else _network(name, Path(path))


@cache
def _shipped(name: str) -> Any:
    return _network(name, WEIGHTS / f"{name}.safetensors")


def _network(name: str, path: Path) -> Any:
    return loaded(classifier() if name == "classifier" else contrastive(len(tokenizer())), path)


def logits(network: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The logits of the classifier `network` by head, each (n, classes). pixels: (n, 3, 32, 32) in [−1, 1]."""
    parts = network(pixels).split([len(names) for names in CLASSES.values()], 1)
    return dict(zip(CLASSES, parts, strict=True))


def features(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The last features (n, 128) of the classifier `network`. pixels: (n, 3, 32, 32) in [−1, 1]."""
    larger, trunk = network
    return trunk.forward_head(trunk.forward_features(larger(pixels)), pre_logits=True)


def halved(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of `network` by name, in fp16."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
