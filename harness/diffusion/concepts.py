"""Concepts, the tasks of this track: concept files, and the groups of concepts that a grid immunizes together.

A concept file lists concepts of one kind. A field above `concepts` is the default of every concept:

    format: 2
    kind: style
    prompt: an artwork by {}         # {} stands for the concept's words, or the word that an attacker trains for it
    class_prompt: an artwork
    concepts: {marvo: , telune: , obrick: }
    groups: {two: [[marvo, telune], [telune, obrick]]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, model_validator

from harness import strict_yaml
from harness.diffusion import captions
from harness.diffusion.image_folder import folder_digest, no_pictures, picture_files
from harness.errors import RunError, UsageError, describe, nearest
from harness.files import expanded, user_path
from harness.labels import FrozenModel, Label, Says
from harness.registry import shipped

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS = (
    "fp32; tf32: fp32 weights with TensorFloat-32 matrix products on a GPU; bf16 or fp16: frozen weights in half "
    "precision, trained ones in fp32, and mixed precision (Micikevicius et al., 2018), with loss scaling in fp16"
)

CHECKPOINTING = (
    "whether training computes activations again in the backward pass: less memory, more time, the same values"
)

FORMAT = 2
"""The concept file format that this harness reads."""
COMPOSITIONS = 6
"""Largest number of concepts to keep that are measured in compositions too."""
Pattern = Annotated[
    str,
    StringConstraints(pattern=r"^[^{}]*\{\}[^{}]*$"),
    Says("must hold {} once, and no other brace, for the concept"),
]
"""Text with one {} (see `fill`)."""


def fill(pattern: str, words: str) -> str:
    """The text `pattern` with `words` in the place of {}."""
    return pattern.replace("{}", words)


class Concept(FrozenModel):
    """One concept: its words and prompts, and a folder of its pictures if the base model cannot draw it."""

    name: Label = Field(description="name of the concept in groups and records")
    kind: Literal["style", "object", "subject"] = Field(
        description="style, object or subject: one particular thing that no base model knows, so it is not erased"
    )
    prompt: Pattern = Field(description="a prompt; {} stands for the concept's words")
    words: str = Field("", description="the base model's words for the concept; by default its name")
    class_word: str = Field("", description="the class of a subject, e.g. dog")
    class_prompt: str = Field("", description="a prompt of the whole class, for prior preservation")
    images: str | None = Field(
        None, description="folder of pictures; by default the base model draws them before anything is erased"
    )
    classifier: str | None = Field(
        None, description="head of the concept classifier that knows the concept: object, style or subject; null: none"
    )
    erase: dict[Pattern, str] = Field(
        {},
        description="further prompts, which combine {} with other concepts, each with the prompt that replaces its "
        "meaning: those of a target are erased, those of a concept to keep measure retention",
    )

    @model_validator(mode="before")
    @classmethod
    def _words_by_default(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and not fields.get("words"):
            return {**fields, "words": fields.get("name", "")}
        return fields

    @model_validator(mode="after")
    def _complete(self) -> Concept:
        if not re.search(r"[^\W_]", self.words):
            raise ValueError(f"{self.name}: the words '{self.words}' have no letter or digit")
        for prompt in (self.prompt, *self.erase):
            if not re.search(r"(?<!\w)\{\}(?!\w)", prompt):
                raise ValueError(f"{self.name}: the prompt '{prompt}' must have {{}} as a word of its own")
        if self.classifier is not None:
            from harness.diffusion.small.networks import CLASSES

            if self.classifier not in CLASSES:
                hint = nearest(self.classifier, [*CLASSES])
                raise ValueError(f"{self.name}: the concept classifier has no head '{self.classifier}'; {hint}")
            if self.name not in CLASSES[self.classifier]:
                hint = nearest(self.name, [*CLASSES[self.classifier]])
                raise ValueError(
                    f"the concept classifier's head '{self.classifier}' does not know '{self.name}'; {hint} (leave "
                    "`classifier` out for a concept of your own)"
                )
            for other in CLASSES[self.classifier]:
                if other != self.name and captions.same(other, self.words):
                    raise ValueError(
                        f"{self.name}: the words '{self.words}' are of '{other}', another class of the concept "
                        "classifier: call the concept so"
                    )
        return self

    def named_in(self, text: str) -> bool:
        """Whether `text` names the concept, by its words (see `harness.diffusion.captions.names`)."""
        return captions.names(text, self.words)

    def is_one_of(self, concepts: Iterable[Concept]) -> bool:
        """Whether the concept is one of `concepts`: unless one is a subject, concepts with the same words are one (see
        `harness.diffusion.captions.same`)."""
        return any(
            self == other or ("subject" not in (self.kind, other.kind) and captions.same(self.words, other.words))
            for other in concepts
        )

    def prompted(self, word: str | None = None) -> str:
        """The prompt of the concept.

        word: the word that an attacker trains; None: the words that the base model knows. Raises `RunError` for a
        subject without `word`.
        """
        if word is None and self.kind == "subject":
            raise RunError(
                f"{self.name} is a subject, which no base model knows by name: attack it with an attacker that trains "
                "a word"
            )
        return fill(self.prompt, self.words if word is None else word)


class ConceptFile(FrozenModel):
    """A concept file; every field of every concept is written out."""

    format: int = Field(ge=FORMAT, le=FORMAT)
    title: str = ""
    concepts: dict[str, Concept]
    groups: dict[str, list[list[str]]] = Field(
        {}, description="named lists of groups; suites use fixed groups so that their results can be compared"
    )
    keep: list[str] = Field(
        [],
        description="further files, whose concepts an erasure must keep, but for concepts with a target's words",
    )
    captions: str | None = Field(
        None,
        description="file of captions that a defense retains: a text file with one a line, or a table (.csv, .tsv, "
        ".jsonl) with a column caption, text or prompt",
    )

    @model_validator(mode="before")
    @classmethod
    def _share_fields(cls, content: Any) -> Any:
        """Give each concept the fields above `concepts` as defaults."""
        if not isinstance(content, dict) or not isinstance(content.get("concepts"), dict):
            raise ValueError("a concept file is a mapping with format, kind, prompt and concepts")
        own = {name: value for name, value in content.items() if name in cls.model_fields}
        shared = {name: value for name, value in content.items() if name not in cls.model_fields}
        for name in set(shared) - set(Concept.model_fields):
            raise ValueError(f"unknown key '{name}'; {nearest(name, [*cls.model_fields, *Concept.model_fields])}")
        concepts = {}
        for name, fields in content["concepts"].items():
            if not isinstance(fields, dict | None):
                raise ValueError(f"concepts.{name}: must be a mapping or empty (got {fields!r:.80})")
            concepts[name] = {"name": name, **shared, **(fields or {})}
        return {**own, "concepts": concepts}

    @model_validator(mode="after")
    def _complete(self) -> ConceptFile:
        for concept in self.concepts.values():
            if concept.images and set("{}") & set(fill(concept.images, "")):
                raise ValueError(f"{concept.name}: images may hold {{}}, for the concept's name, but no other brace")
            if concept.kind == "subject" and not (concept.class_word and concept.images):
                raise ValueError(f"{concept.name}: a subject needs a class_word and a folder of images")
        for name, groups in self.groups.items():
            for group in groups:
                self.pick(group, f"group '{name}'")
        return self

    def pick(self, names: Sequence[str], where: str) -> list[Concept]:
        """The concepts called `names`; raises `ValueError` for no names, for one concept given twice, by one name or by
        two with the same words, and with the nearest names for an unknown one. where: place to name in the error."""
        if not names:
            raise ValueError(f"{where} has no concepts")
        for name in names:
            if name not in self.concepts:
                raise ValueError(f"{where} has the unknown concept '{name}'; {nearest(name, list(self.concepts))}")
            if names.count(name) > 1:
                raise ValueError(f"{where} has the concept '{name}' twice")
        picked = [self.concepts[name] for name in names]
        for place, concept in enumerate(picked):
            if same := [other.name for other in picked[:place] if concept.is_one_of([other])]:
                raise ValueError(f"{where} has one concept twice, as '{same[0]}' and as '{concept.name}'")
        return picked


def read(path: Path) -> ConceptFile:
    """Read the concept file `path`; its paths become absolute. Raises `UsageError` for a missing or invalid file."""
    if not path.is_file():
        raise UsageError(f"concept file {path} does not exist")
    content = strict_yaml.read(path)
    version = content.value.get("format") if isinstance(content.value, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise UsageError(f"{path} has concept format {version}; this harness reads {FORMAT}: upgrade immunebench")
    if version == 1:
        raise UsageError(
            f"{path} has concept format 1; this harness reads {FORMAT}: write `format: {FORMAT}`, `words` for "
            "`subject`, `classifier` for `judge`, and `subject` for `persona`"
        )
    try:
        file = ConceptFile.model_validate(content.value)
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, content.line)}") from None
    concepts = {
        name: concept.model_copy(update={"images": str(user_path(fill(concept.images, name), path.parent))})
        if concept.images
        else concept
        for name, concept in file.concepts.items()
    }
    absolute = {
        "concepts": concepts,
        "keep": [str(user_path(other, path.parent)) for other in file.keep],
        "captions": str(user_path(file.captions, path.parent)) if file.captions else None,
    }
    for one, other in combinations([concept for concept in concepts.values() if concept.images], 2):
        if Path(str(one.images)).resolve() == Path(str(other.images)).resolve():
            raise UsageError(
                f"{path}: {one.name} and {other.name} have one folder of pictures, {one.images}: give each its own, "
                "for example by {}, which stands for the concept's name"
            )
    return file.model_copy(update=absolute)


class Group(FrozenModel):
    """One task: concepts that are immunized together, and benign concepts whose fine-tuning must still work."""

    base: str = Field(description="the base model")
    precision: Precision
    checkpointing: bool = Field(False, description=CHECKPOINTING)
    targets: tuple[Concept, ...]
    others: tuple[Concept, ...] = Field(description="benign concepts, which are attacked too")
    kept: tuple[Concept, ...] = Field(
        description="all other concepts of the files, which an erasure must keep; none has a target's words"
    )
    captions: tuple[str, ...] = Field((), description="all captions of the concept file")

    @property
    def label(self) -> str:
        """The targets' names, joined by +."""
        return "+".join(concept.name for concept in self.targets)

    @property
    def known_captions(self) -> list[int]:
        """Indices of the captions that a defense receives: those that name no target, no benign concept and no held-out
        concept."""
        hidden = [*self.targets, *self.others, *self.bystanders["heldout"]]
        return [i for i, caption in enumerate(self.captions) if not any(other.named_in(caption) for other in hidden)]

    @property
    def bystanders(self) -> dict[str, list[Concept]]:
        """The concepts that are neither targets nor benign concepts nor subjects, by split. `heldout`: every third one,
        which no caption of a defense names. `train`: the others. A defense must keep both."""
        heldout = self._further[1::3]
        return {"train": [concept for concept in self._further if concept not in heldout], "heldout": heldout}

    @property
    def _further(self) -> list[Concept]:
        return [concept for concept in self.kept if concept not in self.others and concept.kind != "subject"]

    @property
    def compositions(self) -> list[Concept]:
        """The first `COMPOSITIONS` bystanders, in the order of the files, each with one of its further prompts in place
        of its own, as in "a boot by marvo". The prompt names no target, and no caption of a defense contains it.
        Bystanders without such a prompt are left out."""
        known = [self.captions[i] for i in self.known_captions]

        def is_new(text: str) -> bool:
            named = any(target.named_in(text) for target in self.targets)
            return not named and not any(captions.names(caption, text) for caption in known)

        composed = []
        for place, concept in enumerate(self._further):
            if prompts := [prompt for prompt in concept.erase if is_new(fill(prompt, concept.words))]:
                composed.append(concept.model_copy(update={"prompt": prompts[place % len(prompts)]}))
        return composed[:COMPOSITIONS]


class GroupBlock(FrozenModel):
    """One entry of a grid's tasks: groups of a concept file on one base model."""

    base: str = Field(
        "small", description="base model: small, a folder in Stable Diffusion's layout, or a name on the hub"
    )
    precision: Precision = Field("fp32", description=PRECISIONS)
    checkpointing: bool = Field(False, description=CHECKPOINTING)
    concepts: str = Field(description="a concept file, relative to the suite file; or the name of an installed one")
    groups: str | list[list[str]] = Field(description="a named list of the concept file, or groups written out")
    first: int | None = Field(None, ge=1, description="only the first groups of the list")
    others: int = Field(
        1,
        ge=0,
        description="number of benign concepts: those that follow the group's last concept in the file; 0: none, for a "
        "grid that only attacks, such as one on which attackers are tuned",
    )

    @model_validator(mode="after")
    def _readable(self, info: ValidationInfo) -> GroupBlock:
        folder = (info.context or {}).get("folder", Path())
        object.__setattr__(self, "base", expanded(self.base))
        try:
            named = "/" not in self.concepts and not Path(self.concepts).suffix
            path = shipped("concepts", self.concepts) if named else user_path(self.concepts, folder).resolve()
            object.__setattr__(self, "concepts", str(path))
            groups = self.expand()
        except UsageError as error:
            raise ValueError(str(error)) from None
        for group in groups:
            _check_pictures(group)
        return self

    def expand(self) -> list[Group]:
        """The groups as single tasks; raises `ValueError` for an unknown list of groups or an unknown concept."""
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
        rest = [concept for concept in order[after:] + order[:after] if not concept.is_one_of(targets)]
        if len(rest) < self.others:
            raise ValueError(f"group {'+'.join(names)} leaves {len(rest)} benign concepts of {self.others}")
        for concept in targets:
            if concept.kind != "subject" and not concept.class_prompt:
                raise ValueError(f"{concept.name}: a target needs a class_prompt, whose meaning replaces it")
        kept = list(rest)
        for concept in further:
            known = [*targets, *kept]
            if not concept.is_one_of(known):
                if concept.name in [other.name for other in known]:
                    raise ValueError(f"two concepts of its files are called '{concept.name}': rename one")
                kept.append(concept)
        return Group(
            base=self.base,
            precision=self.precision,
            checkpointing=self.checkpointing,
            targets=tuple(targets),
            others=tuple(rest[: self.others]),
            kept=tuple(kept),
            captions=captions.read(file.captions),
        )


def _check_pictures(group: Group) -> None:
    """Raise `ValueError` if a folder has no pictures, or if two concepts have the same pictures."""
    owners: dict[str | None, str] = {}
    for concept in (*group.targets, *group.others):
        if concept.images is None:
            continue
        if not picture_files(concept.images):
            raise ValueError(f"{concept.name}: {no_pictures(concept.images)}")
        other = owners.setdefault(folder_digest(concept.images), concept.name)
        if other != concept.name:
            raise ValueError(f"the folders of {other} and {concept.name} have the same pictures")
