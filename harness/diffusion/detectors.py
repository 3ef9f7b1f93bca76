"""Detectors: classifiers that say whether a picture shows a concept, by name or from a local folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.diffusion import encoders
from harness.diffusion.concepts import Concept
from harness.diffusion.model import Images, as_pixels
from harness.diffusion.small import networks
from harness.errors import RunError
from harness.stage import Located
from harness.versions import Version

AT_ONCE = 64
"""Pictures that a detector takes at once."""


class Question(NamedTuple):
    """What a detector is asked.

    concepts: the concepts to look for. among: the concepts that a zero-shot detector chooses from, these among them.
    labels: labels of a folder's classifier that stand for every concept; empty: the concept's own name or words.
    """

    concepts: tuple[Concept, ...]
    among: tuple[Concept, ...]
    labels: tuple[str, ...] = ()


class Asked(NamedTuple):
    """A detector with its question.

    name: `classifier`, `contrastive`, `clip`, or a name for a folder. place: the file of weights or the folder; None:
    the weights that come with the harness or are on the hub. question: what it is asked.
    """

    name: str
    place: Located | None
    question: Question

    def seen(self, images: Images) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether the detector sees each concept in each picture, (concepts, n) bool.

        images: (n, height, width, 3) uint8. Raises `RunError` if the detector cannot be loaded, does not know a
        concept, or fails on a picture: a failure is no answer.
        """
        try:
            file = File(self.place.path, self.place.check()) if self.place else File()
            return DETECTORS.get(self.name, _folder)(images, self.question, file)
        except RunError as error:
            raise RunError(f"detector '{self.name}': {error}") from None
        except Exception as error:  # a classifier of a third party
            reason = str(error).strip().partition("\n")[0]
            raise RunError(f"detector '{self.name}' failed: {type(error).__name__} ({reason:.160})") from error


CLIP_WEIGHTS = "open_clip_model.safetensors"
"""The weights in a folder of CLIP, as the hub has them."""


class File(NamedTuple):
    """Weights: path of their file or folder; None: the default ones. versions: of the files, so that a process loads
    files again that have changed."""

    path: str | None = None
    versions: tuple[Version, ...] = ()


def _classifier(images: Images, question: Question, file: File) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The concept classifier of the small base: a head's first answer is the concept."""
    unknown = [concept.name for concept in question.concepts if concept.classifier is None]
    if unknown:
        raise RunError(f"it does not know {unknown[0]}")
    network = networks.shipped("classifier", file.path) if file.path else None
    return np.stack(
        [encoders.recognised(images, str(concept.classifier), concept.name, network) for concept in question.concepts]
    )


def _contrastive(images: Images, question: Question, file: File) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Zero-shot by the small CLIP that comes with the small base (Radford et al., 2021)."""
    network = networks.shipped("contrastive", file.path)

    def tokens(prompts: Sequence[str]) -> torch.Tensor:
        found: torch.Tensor = networks.tokenizer()(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return found

    embed = encoders.encoder("contrastive", *file).embed
    assert embed is not None
    return _nearest(embed(images), network, tokens, question)


def _clip(images: Images, question: Question, file: File) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Zero-shot by CLIP, ViT-B/32 with OpenAI's weights (Radford et al., 2021)."""
    import open_clip

    if file.path and Path(file.path).is_dir():
        file = file._replace(path=str(Path(file.path, CLIP_WEIGHTS)))
    embed = encoders.encoder("clip", *file).embed
    assert embed is not None
    return _nearest(embed(images), _clip_network(file), open_clip.get_tokenizer("ViT-B-32-quickgelu"), question)


@cache
def _clip_network(file: File) -> Any:
    import open_clip

    return open_clip.create_model("ViT-B-32-quickgelu", pretrained=file.path or "openai").eval().requires_grad_(False)


def _nearest(
    pictures: torch.Tensor, network: Any, tokens: Callable[[Sequence[str]], torch.Tensor], question: Question
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether the text nearest to each picture is the concept's prompt. pictures: embeddings (n, d)."""
    if subjects := [concept.name for concept in question.concepts if concept.kind == "subject"]:
        raise RunError(f"it knows no subject by name, and {subjects[0]} is one")
    named = [concept for concept in question.among if concept.kind != "subject"]
    prompts = dict.fromkeys(concept.prompted() for concept in named)
    prompts |= dict.fromkeys(concept.class_prompt for concept in named if concept.class_prompt)
    with torch.no_grad():
        place = next(network.parameters()).device
        texts = network.encode_text(tokens(list(prompts)).to(place), normalize=True).cpu()
    first = _first(pictures.float() @ texts.float().T)
    return np.stack([first == list(prompts).index(concept.prompted()) for concept in question.concepts])


def _folder(images: Images, question: Question, file: File) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A classifier of pictures that transformers loads from a folder: its first answer is one of the labels."""
    if file.path is None:
        raise RunError("it needs the folder of an image classifier that transformers loads")
    network, processor = _pretrained(file)
    names = {number: str(label).casefold() for number, label in network.config.id2label.items()}
    wanted = [
        {label.casefold() for label in question.labels or (concept.name, concept.words)}
        for concept in question.concepts
    ]
    for concept, labels in zip(question.concepts, wanted, strict=True):
        if not labels & set(names.values()):
            raise RunError(
                f"its classifier has no label for {concept.name}; it has: {', '.join(list(names.values())[:8])} (name "
                "the labels that stand for it in `labels`)"
            )
    parts = torch.from_numpy(np.ascontiguousarray(images)).split(AT_ONCE)
    with torch.no_grad():
        inputs = [
            processor(images=list((as_pixels(part) + 1) / 2), do_rescale=False, return_tensors="pt") for part in parts
        ]
        first = _first(torch.cat([network(**given).logits for given in inputs]))
    return np.stack([np.array([names[int(number)] in labels for number in first]) for labels in wanted])


@cache
def _pretrained(file: File) -> tuple[Any, Any]:
    """The network and the image processor in a folder."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    network = AutoModelForImageClassification.from_pretrained(file.path, local_files_only=True, use_safetensors=True)
    return network.eval(), AutoImageProcessor.from_pretrained(file.path, local_files_only=True)


def _first(scores: torch.Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The index of each row's largest score; raises `RunError` for scores that are not finite."""
    if not scores.isfinite().all():
        raise RunError("its scores are not finite")
    return scores.argmax(1).numpy()


DETECTORS = {"classifier": _classifier, "contrastive": _contrastive, "clip": _clip}
"""The detectors by name; every other name is that of a folder."""
