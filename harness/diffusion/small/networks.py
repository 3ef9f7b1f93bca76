"""The tokenizer of the small base and the two encoders that ship with it: the concept classifier and a CLIP."""

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
    """A CLIP tokenizer in which every word of the captions is one token and any other text is spelled in bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges(dataset.vocabulary())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    names = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al., 2016) until every word is one piece. The library's trainer breaks ties
    by hash, so that two processes would not agree."""
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
    """The concept classifier: a narrow ResNet-10-T of timm's on 32×32 pixels in [−1, 1], enlarged to twice their size.
    Its logits (n, classes) are those of all heads of `CLASSES`, one after the other."""
    import timm
    from timm.layers import GroupNorm

    network = timm.create_model(
        "resnet10t",
        channels=(24, 48, 96, 128),
        stem_width=16,
        norm_layer=partial(GroupNorm, num_groups=4),  # no statistics of a batch: the same picture, the same logits
        num_classes=sum(len(names) for names in CLASSES.values()),
    )
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), network)


def contrastive(vocabulary: int) -> Any:
    """A small CLIP of open_clip's: 32×32 pixels in [−1, 1] and prompts of TOKENS tokens to 64 dimensions. vocabulary:
    number of tokens."""
    from open_clip.model import CLIP

    return CLIP(
        embed_dim=64,
        vision_cfg={"layers": 4, "width": 96, "head_width": 24, "patch_size": 4, "image_size": dataset.SIZE},
        text_cfg={"context_length": TOKENS, "vocab_size": vocabulary, "width": 96, "heads": 4, "layers": 2},
    )


def loaded(network: Any, path: Path) -> Any:
    """The network with the weights in a file (stored in fp16, used in fp32), frozen and in evaluation mode."""
    tensors = {
        name: value.float() if value.is_floating_point() else value
        for name, value in safetensors.load(path.read_bytes()).items()
    }
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


@cache
def shipped(name: str, path: str | None = None) -> Any:
    """The `classifier` or the `contrastive` encoder as it ships, or with the weights in a file."""
    network = classifier() if name == "classifier" else contrastive(len(tokenizer()))
    return loaded(network, Path(path) if path else WEIGHTS / f"{name}.safetensors")


def logits(network: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The classifier's logits by head, (n, classes) each, of pixels (n, 3, 32, 32)."""
    parts = network(pixels).split([len(names) for names in CLASSES.values()], 1)
    return dict(zip(CLASSES, parts, strict=True))


def features(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The classifier's last features, (n, 128)."""
    larger, trunk = network
    return trunk.forward_head(trunk.forward_features(larger(pixels)), pre_logits=True)


def halved(network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's weights in fp16."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
