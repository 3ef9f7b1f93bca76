"""Weights that somebody released, as a row of a board."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from harness import Defense


class Checkpoint(Defense):
    """A released model that is read from a folder of safetensors (https://github.com/huggingface/safetensors).

    The track reads the weights and compares them with its base model. A row of this plugin is made by `--checkpoint
    NAME=DIR`; how the model was immunized is not known, and its cost is that of reading.
    """

    name = "checkpoint"
    track = "any"
    deterministic = True

    digest: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="SHA-256 of the names and digests of the files of weights; empty: none are given",
    )

    def immunize(self, model: Any, targets: Any) -> Iterator[float]:
        """Leave `model`, to which the track gave the weights, unchanged."""
        yield 0.0
