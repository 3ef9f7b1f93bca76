"""Other words: an attacker that names a concept otherwise than the defense does."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness import PluginSpec, configured
from harness.diffusion import Concept, ConceptData, DiffusionAttacker, TextToImage


class Reworded(DiffusionAttacker):
    """Another attacker, with another prompt or other words for the concepts.

    A defense is trained on the concept's own prompt. An attacker may write another one: a template that the defense has
    not seen, a paraphrase, a misspelling, or a description without the concept's name. Pham et al. (2023) and HUB (ICCV
    2025) ask so of models from which concepts were erased. Concepts that `words` does not name, as benign ones, keep
    their own words.
    """

    name = "reworded"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"preset": "small"}}

    attacker: str = Field("lora", description="name of the attacker")
    preset: str | None = Field(None, description="preset of the attacker")
    settings: dict[str, Any] = Field({}, description="fields of the attacker")
    template: str = Field(
        "", description="prompt, in which {} stands for the concept's words; empty: the concept's own prompt"
    )
    words: dict[str, str] = Field({}, description="other words for concepts, by the concept's name")
    where: Literal["training and drawing", "training", "drawing"] = Field(
        "training and drawing",
        description="prompts to change: those that the attacker trains on, those of the pictures afterwards, or both; "
        "the others are the concept's own",
    )

    @model_validator(mode="after")
    def _for_words(self) -> Self:
        if self.template and self.template.count("{}") != 1:
            raise ValueError(f"template '{self.template}' must hold {{}} once, for the concept's words")
        return self

    def uses(self) -> tuple[PluginSpec, ...]:
        """The attacker."""
        return (configured("attacker", self.attacker, self.settings, self.preset),)

    @property
    def _attacker(self) -> DiffusionAttacker:
        attacker: DiffusionAttacker = self.uses()[0].build()
        return attacker

    def _concept(self, concept: Concept, use: str) -> Concept:
        """The `concept` as the attacker names it for a use: training or drawing."""
        if use not in self.where:
            return concept
        words = self.words.get(concept.name, concept.words)
        return concept.model_copy(update={"words": words, "prompt": self.template or concept.prompt})

    def prompt(self, concept: Concept) -> str:
        """The prompt of the pictures after the attack."""
        return self._attacker.prompt(self._concept(concept, "drawing"))

    def class_images(self, steps: int) -> int:
        """Number of class pictures that the attacker reads."""
        return self._attacker.class_images(steps)

    def kept_images(self, steps: int) -> int:
        """Number of pictures of captions that the attacker reads."""
        return self._attacker.kept_images(steps)

    def adapt(self, model: TextToImage, data: ConceptData) -> Iterator[Any]:
        """Run the attacker on the concept under its other name; yields the attacker's losses."""
        yield from self._attacker.adapt(model, replace(data, concept=self._concept(data.concept, "training")))

    def save(self, model: TextToImage, folder: Path) -> None:
        """Save what the attacker saves."""
        self._attacker.save(model, folder)
