"""A pipeline in Stable Diffusion's layout, made on the spot with sizes of its own, and a concept file for it."""

from pathlib import Path

import pytest
import torch

from harness.diffusion import Concept, TextToImage
from tests.diffusion.helpers import pipeline, write_pictures


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    folder = tmp_path_factory.mktemp("base")
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def model(base: Path) -> TextToImage:
    """It, loaded afresh."""
    torch.manual_seed(0)
    return TextToImage.load(str(base))


@pytest.fixture
def style() -> Concept:
    """A concept that a base model knows by name."""
    return Concept(
        name="marvo", kind="style", prompt="an artwork by {}", class_prompt="an artwork", class_word="artwork"
    )


@pytest.fixture
def thing(tmp_path: Path) -> Concept:
    """A particular thing with three pictures."""
    folder = tmp_path / "mine"
    write_pictures(folder, 3)
    return Concept(
        name="mine", kind="subject", prompt="a photo of a {}", class_prompt="a photo of a bag", class_word="bag",
        images=str(folder),
    )  # fmt: skip
