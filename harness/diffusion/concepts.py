"""Concepts, the tasks of text-to-image: what a concept file says, and a concept's pictures.

A concept file lists concepts of one kind. What it says above `concepts` holds for each that does not say otherwise:

    format: 1
    kind: style
    prompt: an artwork by {}         # {} takes the concept's name, or the word an attacker trains for it
    class_prompt: an artwork
    concepts: {marvo: , telune: , obrick: }
    groups: {two: [[marvo, telune], [telune, obrick]]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from harness.errors import RunError, UsageError, describe, nearest
from harness.store import file_digest

FORMAT = 1
"""The newest concept file format this harness reads."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Concept(BaseModel):
    """One concept: what is asked for in words, and pictures of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["style", "object", "persona"] = Field(description="a persona is one particular thing, which no base "
                                                        "knows: it is not erased")  # fmt: skip
    prompt: str = Field(pattern=r"^[^{}]*\{\}[^{}]*$", description="{} takes the subject")
    subject: str = Field("", description="the words a base knows it by; by default its name")
    class_word: str = Field("", description="what kind of thing a persona is, e.g. dog")
    class_prompt: str = Field("", description="the prompt of the whole class, for prior preservation")
    images: str | None = Field(None, description="a folder of pictures; by default the base makes them, before it is "
                               "erased")  # fmt: skip
    judge: str | None = Field(None, description="the head of the base's classifier that knows it, if one does")
    erase: dict[str, str] = Field({}, description="further prompts with {} to erase: what each is to mean instead")

    @property
    def word(self) -> str:
        """The words a base knows it by."""
        return self.subject or self.name

    def prompted(self, word: str | None = None) -> str:
        """The prompt with a word that an attacker trains or, by default, with the words the base knows."""
        if word is None and self.kind == "persona":
            raise RunError(
                f"{self.name} is a persona, which no base knows by name: attack it with a plugin that trains a word"
            )
        return self.prompt.format(self.word if word is None else word)


class ConceptFile(BaseModel):
    """A concept file as it is written; `concepts` made whole."""

    model_config = ConfigDict(extra="forbid")

    format: int
    title: str = ""
    concepts: dict[str, Concept]
    groups: dict[str, list[list[str]]] = Field({}, description="named lists of groups, frozen so that others can "
                                               "compare")  # fmt: skip
    keep: list[str] = Field([], description="concept files whose concepts an erasure must leave too")
    captions: str | None = Field(None, description="a text file, one caption a line, of what a defense is to keep")

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, content: Any) -> Any:
        """What is said for all goes to each."""
        if not isinstance(content, dict) or not isinstance(content.get("concepts"), dict):
            raise ValueError("a concept file is a mapping with format, kind, prompt and concepts")
        own = {name: value for name, value in content.items() if name in cls.model_fields}
        shared = {name: value for name, value in content.items() if name not in cls.model_fields}
        concepts = {
            name: {"name": name, **shared, **(given or {})} for name, given in content["concepts"].items()
        }  # fmt: skip
        return {**own, "concepts": concepts}

    @model_validator(mode="after")
    def _whole(self) -> ConceptFile:
        for concept in self.concepts.values():
            if concept.kind == "persona" and not (concept.class_word and concept.images):
                raise ValueError(f"{concept.name}: a persona needs a class_word and a folder of images")
        for name, groups in self.groups.items():
            for group in groups:
                self.pick(group, f"group '{name}'")
        return self

    def pick(self, names: Sequence[str], where: str) -> list[Concept]:
        """Some of the concepts; raises ValueError with a hint for an unknown one."""
        for name in names:
            if name not in self.concepts:
                raise ValueError(f"{where} has the unknown concept '{name}'; {nearest(name, list(self.concepts))}")
        return [self.concepts[name] for name in names]


def read(path: Path) -> ConceptFile:
    """A concept file, its folders made absolute; raises `UsageError`."""
    if not path.is_file():
        raise UsageError(f"concept file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    newest = content.get("format") if isinstance(content, dict) else None
    if isinstance(newest, int) and newest > FORMAT:
        raise UsageError(f"{path} has concept format {newest}; this harness reads up to {FORMAT}: upgrade immunebench")
    try:
        file = ConceptFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error)}") from None
    concepts = {
        name: concept.model_copy(update={"images": str(path.parent / concept.images.format(name))})
        if concept.images else concept
        for name, concept in file.concepts.items()
    }  # fmt: skip
    beside = {
        "concepts": concepts,
        "keep": [str(path.parent / other) for other in file.keep],
        "captions": str(path.parent / file.captions) if file.captions else None,
    }
    return file.model_copy(update=beside)


def read_captions(path: str | None) -> tuple[str, ...]:
    """The captions of a file, without empty lines and those that begin with #; raises `UsageError`."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the captions {path}: {error}") from None
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


class Group(BaseModel):
    """One task: the concepts immunized together, and those whose benign fine-tuning must still work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    precision: Literal["fp32", "fp16"]
    targets: tuple[Concept, ...]
    others: tuple[Concept, ...]
    kept: tuple[Concept, ...] = Field(description="every further concept of the files, which an erasure must leave")
    captions: tuple[str, ...] = Field((), description="all of the concept file")

    @property
    def label(self) -> str:
        """Its targets' names."""
        return "+".join(concept.name for concept in self.targets)

    @property
    def told(self) -> list[int]:
        """Places of the captions that a defense is told of: those that speak of no target, no benign task and no
        concept that is held out."""
        words = [concept.word.lower() for concept in (*self.targets, *self.others, *self.bystanders["heldout"])]
        return [i for i, caption in enumerate(self.captions) if not any(word in caption.lower() for word in words)]

    @property
    def bystanders(self) -> dict[str, list[Concept]]:
        """Concepts that are neither targets nor benign tasks nor personas: train, which captions may speak of, and
        heldout, every third, which none does. A defense that keeps only what it was told of does harm."""
        rest = [concept for concept in self.kept if concept not in self.others and concept.kind != "persona"]
        heldout = rest[1::3]
        return {"train": [concept for concept in rest if concept not in heldout], "heldout": heldout}


class GroupBlock(BaseModel):
    """One entry of a grid's tasks: groups of a concept file on one base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field("small", description="small, a folder in Stable Diffusion's layout, or a hub's name")
    precision: Literal["fp32", "fp16"] = "fp32"
    concepts: str = Field(description="a concept file, relative to the suite file")
    groups: str | list[list[str]] = Field(description="a named list of the concept file, or groups written out")
    first: int | None = Field(None, ge=1, description="only the first groups of the list")
    others: int = Field(1, ge=1, description="how many benign concepts: those after the group's last in the file")

    @model_validator(mode="after")
    def _found(self, info: ValidationInfo) -> GroupBlock:
        folder = (info.context or {}).get("folder", Path())
        object.__setattr__(self, "concepts", str((folder / self.concepts).resolve()))
        try:
            self.expand()
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def expand(self) -> list[Group]:
        """The groups."""
        file = read(Path(self.concepts))
        if isinstance(self.groups, str) and self.groups not in file.groups:
            raise ValueError(f"{self.concepts} has no groups '{self.groups}'; {nearest(self.groups, [*file.groups])}")
        groups = file.groups[self.groups] if isinstance(self.groups, str) else self.groups
        further = [concept for other in file.keep for concept in read(Path(other)).concepts.values()]
        return [self._group(file, names, further) for names in groups[: self.first]]

    def _group(self, file: ConceptFile, names: Sequence[str], further: Sequence[Concept]) -> Group:
        targets = file.pick(names, f"group {'+'.join(names)}")
        order = list(file.concepts.values())
        after = order.index(targets[-1]) + 1
        rest = [concept for concept in order[after:] + order[:after] if concept not in targets]
        if len(rest) < self.others:
            raise ValueError(f"group {'+'.join(names)} leaves {len(rest)} benign concepts of {self.others}")
        return Group(
            base=self.base,
            precision=self.precision,
            targets=tuple(targets),
            others=tuple(rest[: self.others]),
            kept=(*rest, *further),
            captions=read_captions(file.captions),
        )


def pictures(folder: str) -> list[Path]:
    """The picture files of a folder, by name."""
    return sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)


def folder_digest(folder: str) -> str | None:
    """SHA-256 of a folder's pictures; None if there are none (that is for the job to say)."""
    if not pictures(folder):
        return None
    whole = hashlib.sha256()
    for path in pictures(folder):
        whole.update(file_digest(path).encode())
    return whole.hexdigest()
