"""MIMA's inner steps and merge written out, by autograd alone: no grouping, no factored merge, no cache. The oracle for
`harness.diffusion.unroll`."""

from collections.abc import Iterator

import torch
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.diffusion import Batch, Concept, Targets, TextToImage
from tests.diffusion.helpers import SIDE, noise, subject

CAPTIONS = ("a photo of a boot", "an artwork by obrick", "a bag by sevra", "a photo", "a dress by wexley")


def double(model: TextToImage) -> TextToImage:
    model.pipeline.to(torch.float64)
    return model


def targets(model: TextToImage, names: tuple[str, ...] = ("marvo", "telune"), side: int = SIDE) -> Targets:
    concepts = [
        Concept(name=name, kind="style", prompt="an artwork by {}", class_prompt="an artwork", class_word="artwork")
        for name in names
    ]
    subjects = tuple(subject(model, concept, seed=i, side=side) for i, concept in enumerate(concepts))
    return Targets(model, subjects, names, CAPTIONS, noise(len(CAPTIONS), side=side), 5)


def batches(model: TextToImage, of: Targets, rows: int) -> Iterator[list[Batch]]:
    """As the defenses draw them, in the model's precision."""
    each = [given.batches(given.concept.prompted(), rows) for given in of]
    return ([as_double(batch) for batch in step] for step in zip(*each, strict=True))


def as_double(batch: Batch) -> Batch:
    return Batch(batch.latents.double(), batch.prompts, batch.noise.double(), batch.times)


def plain_loss(model: TextToImage, batch: Batch, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The denoising loss of one batch written out; the text encoder runs every time."""
    tokens = model.tokenizer(
        list(batch.prompts), padding="max_length", max_length=model.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    text = model.text_encoder(tokens).last_hidden_state
    noisy = model.scheduler.add_noise(batch.latents, batch.noise, batch.times)
    with sdpa_kernel(SDPBackend.MATH):
        predicted = functional_call(model.unet, weights, (noisy, batch.times, text)).sample
    wanted = batch.noise
    if model.scheduler.config.prediction_type == "v_prediction":
        wanted = model.scheduler.get_velocity(batch.latents, batch.noise, batch.times)
    return functional.mse_loss(predicted, wanted)


def plain_rows(model: TextToImage, of: Targets, ridge: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The rows of each concept's words, and the captions' Gram matrix with its ridge."""

    def rows(prompt: str, first: int) -> torch.Tensor:
        numbers = model.tokenizer([prompt]).input_ids[0]
        tokens = model.tokenizer([prompt], padding="max_length", return_tensors="pt").input_ids
        return model.text_encoder(tokens).last_hidden_state[0, first : len(numbers)].detach()

    c = [rows(given.concept.prompted(), 4) for given in of]  # start, an, artwork, by, NAME, end
    captions = torch.cat([rows(caption, 1) for caption in of.captions])
    gram, width = captions.T @ captions, captions.shape[1]
    return c, gram + ridge * gram.trace() / width * torch.eye(width, dtype=gram.dtype)


def plain_merge(
    c: list[torch.Tensor], gram: torch.Tensor, pretrained: torch.Tensor, adapted: list[torch.Tensor]
) -> torch.Tensor:
    """The dense system of the merge, for one matrix."""
    every = torch.cat(c)
    none = torch.zeros(len(every), len(every), dtype=gram.dtype)
    system = torch.cat([torch.cat([2 * gram, -every.T], 1), torch.cat([every, none], 1)])
    wanted = torch.cat([r @ w.T for r, w in zip(c, adapted, strict=True)])
    return torch.linalg.solve(system, torch.cat([2 * gram @ pretrained.T, wanted]))[: len(gram)].T


def plain_harm(model: TextToImage, of: Targets, steps: list[list[Batch]], last: list[Batch], settings: dict):
    """The loss that MIMA ascends, unrolled by autograd alone."""
    weights = dict(model.weights(settings["inner_weights"]))
    adapted = []
    for n in range(len(of)):
        mine = dict(weights)
        for step in steps:
            gradients = torch.autograd.grad(plain_loss(model, step[n], mine), list(mine.values()), create_graph=True)
            size = settings["inner_lr"]
            if settings.get("normalised"):
                norm = torch.sqrt(sum((w * w).sum() for w in mine.values()))
                size = size * norm / torch.sqrt(sum((g * g).sum() for g in gradients))
            mine = {name: w - size * g for (name, w), g in zip(mine.items(), gradients, strict=True)}
        adapted.append(mine)
    rows, combined = plain_rows(model, of, settings["ridge"]), {}
    for name, weight in weights.items():
        of_concepts = [mine[name] for mine in adapted]
        if ".attn2.to_k." in name or ".attn2.to_v." in name:
            fixed = weight.detach() if settings["mode"] == "paper" else weight
            combined[name] = plain_merge(*rows, fixed, of_concepts)
        else:
            combined[name] = sum(of_concepts) / len(of_concepts)
    return sum(plain_loss(model, batch, combined) for batch in last) / len(last)
