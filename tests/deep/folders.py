"""Folders that tests of deep networks read: a data set of small pictures, and a small timm model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ARGUMENTS = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def write_classes(folder: Path, classes: Sequence[str], train: int, test: int, seed: int = 0) -> None:
    """Write pictures of 16 pixels; those of a class share a mean colour. train, test: pictures of each class."""
    random = np.random.default_rng(seed)
    for place, name in enumerate(classes):
        colour = np.array([60 + 120 * (place % 2), 60 + 120 * (place // 2), 120])
        for split, count in (("train", train), ("test", test)):
            for number in range(count):
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                pixels = (colour + random.normal(0, 25, (16, 16, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def write_torchvision(root: Path, name: str) -> None:
    """Write a data set of torchvision with three training and two held-out pictures of each of its classes: two, of
    Cars three, in the layout of the class of the name `name` in a task."""
    import torch
    from scipy.io import savemat

    if name == "cars":
        folder = root / "stanford_cars"
        for split, annotations, count in (
            ("train", "devkit/cars_train_annos.mat", 3),
            ("test", "cars_test_annos_withlabels.mat", 2),
        ):
            files = [
                (f"{number:05}.jpg", label) for label in (1, 2, 3) for number in (label * 10 + k for k in range(count))
            ]
            for file, label in files:
                _write_picture(folder / f"cars_{split}" / file, label)
            kind = [("fname", object), ("class", object)]
            (folder / annotations).parent.mkdir(parents=True, exist_ok=True)
            savemat(folder / annotations, {"annotations": np.array(files, dtype=kind)})
        savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["a", "b", "c"], dtype=object)})
        return
    folder, heldout = (root / "country211", "test") if name == "country211" else (root, "val")
    classes = ("n01440764", "n01443537")
    for label, wnid in enumerate(classes):
        for split, count in (("train", 3), (heldout, 2)):
            for number in range(count):
                _write_picture(folder / split / wnid / f"{number}.jpg", label)
    if name == "imagenet":
        torch.save(({wnid: (wnid,) for wnid in classes}, []), root / "meta.bin")


def _write_picture(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (60 * label, 0, 0)).save(path)


def write_vit(folder: Path, architecture: str = "vit_tiny_patch16_224", classes: int = 0) -> None:
    """Write a vision transformer of width 16, as timm saves its models. classes: of its classifier; 0: it has none."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(architecture, **ARGUMENTS, num_classes=classes)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": classes,
        "model_args": ARGUMENTS,
        "pretrained_cfg": {
            "input_size": [3, 16, 16],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "num_classes": classes,
            "classifier": "head",
            "first_conv": "patch_embed.proj",
            "fixed_input_size": True,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
