"""What a family of base models says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch


class Text(NamedTuple):
    """What text encoders make of n prompts. rows: text embeddings for the cross-attention, (n, length, width). pooled:
    an embedding of each whole prompt, (n, pooled width); None in a family without it."""

    rows: torch.Tensor
    pooled: torch.Tensor | None = None

    def to(self, dtype: torch.dtype) -> Text:
        """The text in another precision."""
        return Text(self.rows.to(dtype), None if self.pooled is None else self.pooled.to(dtype))


class Encoder(NamedTuple):
    """A text encoder of a pipeline. tokenizer: the part that makes its tokens. kind: its class."""

    tokenizer: str
    kind: type[Any]


class Family(ABC):
    """A family of pipelines with a U-Net whose cross-attention reads text."""

    layout: ClassVar[str]
    """The class of the pipelines, as `model_index.json` names it."""
    pipeline: ClassVar[type[Any]]
    """That class."""
    encoders: ClassVar[Mapping[str, Encoder]]
    """The pipeline's parts that are text encoders."""
    loading: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `from_pretrained`."""
    unused: ClassVar[Sequence[str]] = ()
    """Parts that the class asks for and this track does not use."""
    reading: ClassVar[Mapping[str, Any]] = {}
    """Arguments of a text encoder besides the tokens."""
    inputs: ClassVar[Mapping[str, Any]] = {}
    """Settings of the U-Net that say what else it is conditioned on, and the value that this family serves."""

    def making(self, pipeline: Any) -> dict[str, Any]:
        """Arguments of the class for a copy of `pipeline`, besides its parts."""
        return {}

    @abstractmethod
    def read(self, outputs: Sequence[Any]) -> Text:
        """The text from the `outputs` of the text encoders."""

    def conditions(self, text: Text, size: tuple[int, int]) -> dict[str, Any]:
        """Further arguments of the U-Net. text: of the n rows. size: height and width of the pictures, in pixels."""
        return {}

    def drawing(self, pipeline: Any, text: Text, negated: Text, negative: str) -> dict[str, Any]:
        """Arguments of a call of `pipeline`. text: of the prompts. negated: of the negative prompt `negative`."""
        return {"prompt_embeds": text.rows, "negative_prompt_embeds": negated.rows}
