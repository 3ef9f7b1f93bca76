"""How this track's jobs are carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.diffusion import encoders, figures, measures
from harness.diffusion.concepts import Concept
from harness.diffusion.data import Subject, Targets
from harness.diffusion.erase import erase
from harness.diffusion.folder import read_images
from harness.diffusion.model import Images, TextToImage
from harness.diffusion.protocol import Erasure
from harness.errors import PluginError, RunError
from harness.execution import meter
from harness.execution.determinism import alone, load, save
from harness.plan import Job, seed_of
from harness.records import read_figures, write_figures

GATE_IMAGES = 4
"""of each concept that an erasure must leave"""
IMAGES, WEIGHTS, SEEN = "images.safetensors", "unet.safetensors", "seen.safetensors"
SHEET = "sheet.png"


def carry_out(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """The stage of a job."""
    stage = {
        "pictures": _pictures,
        "captions": _captions,
        "erase": _erase,
        "immunize": _immunize,
        "measure": _measure,
        "draw": _draw,
        "attack": _attack,
        "look": _look,
        "before": _before,
        "compare": _compare,
        "average": _average,
        "sheet": _sheet,
    }[job.stage]
    with alone(job.seed or 0):
        stage(job, parents, out)


def _pictures(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """A concept's pictures: those to train on and, other ones where the base makes them, those to compare with."""
    model, concept = _untouched(job), _concept(job)
    if concept.images is not None:
        training = read_images(concept.images, _side(model))
        reference = training.copy()
    else:
        train = job.inputs["training"]
        every, finite = _sample(job, model, concept.prompted(), train + job.inputs["images"], "pictures", concept.name)
        if not finite.all():
            raise RunError(f"the base makes pictures of '{concept.prompted()}' that are not finite")
        training, reference = every[:train], every[train:]
    _save_images(out, reference, training=training)


def _captions(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """A picture of each caption."""
    captions = job.inputs["captions"]
    seeds = [seed_of("caption", caption) for caption in captions]
    images, finite = _untouched(job).sample(captions, seeds, **job.inputs["sampling"])
    if not finite.all():
        raise RunError(f"the base makes pictures of '{captions[int(finite.argmin())]}' that are not finite")
    _save_images(out, images)


def _erase(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """UCE, and the gate: what must be kept is still drawn."""
    settings = Erasure(**job.inputs["erasure"])
    targets, kept = ([Concept(**given) for given in job.inputs[side]] for side in ("targets", "kept"))
    edits = [
        (prompt.format(concept.word), concept.word, anchor)
        for concept in targets
        for prompt, anchor in {concept.prompt: concept.class_prompt, **concept.erase}.items()
    ]
    named = [(prompt.format(of.word), of.word) for of in kept for prompt in (of.prompt, *of.erase)]
    keep = [(prompt, word) for prompt, word in named if not any(concept.word in prompt for concept in targets)]
    model = _base(job)
    judged = [concept for concept in kept if concept.judge]
    before = _gate_rates(job, model, judged)
    erase(model, edits, keep, settings)
    after = _gate_rates(job, model, judged)
    if judged and np.mean(after) < settings.gate * np.mean(before):
        worst = min(zip(after, before, judged, strict=True), key=lambda of: of[0] - of[1])
        raise RunError(
            f"the erased base no longer draws its other concepts: rate {np.mean(after):.2f}, before "
            f"{np.mean(before):.2f} (worst: {worst[2].name}, {worst[0]:.2f}); "
            "raise erasure.keep or lower erasure.strength"
        )
    _save_weights(job, model, out)


def _immunize(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    assert job.plugin is not None
    model = _base(job)
    if "erased" in parents:
        _apply(model, parents["erased"])
    targets = _targets(job, model, parents)
    who = f"defense {job.plugin.name}"
    reading = meter.pull(job.plugin.build().immunize(model, targets), who)
    if not all(value.isfinite().all() for value in model.unet.parameters()):
        raise PluginError(f"{who} left weights that are not finite")
    _save_weights(job, model, out)
    reading.model_copy(update={"notes": targets.notes}).save(out)


def _measure(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    assert job.plugin is not None
    model = _base(job)
    _apply(model, parents["model"])
    write_figures(job.plugin.build().measure(model, _targets(job, model, parents)), out)


def _targets(job: Job, model: TextToImage, parents: Mapping[str, Path]) -> Targets:
    """What a defense or a metric is given; its draws are of the stage."""
    seed, subjects = job.seed or 0, []
    for role in sorted(name for name in job.parents if name.startswith("pictures.")):
        concept = Concept(**job.parents[role].inputs["concept"])
        own = seed_of(job.stage, concept.name, seed)
        subjects.append(_subject(job, model, concept, parents[role], own))
    captions, pictures = _kept(job, parents)
    group = tuple(job.inputs.get("targets", ()))
    return Targets(model, tuple(subjects), group, captions, pictures, seed_of(job.stage, "kept", seed))


def _kept(job: Job, parents: Mapping[str, Path]) -> tuple[tuple[str, ...], Images]:
    """The captions that a defense is told of, and their pictures."""
    if "captions" not in parents:
        return (), np.empty((0, 1, 1, 3), np.uint8)
    places = job.inputs["told"]
    captions = job.parents["captions"].inputs["captions"]
    pictures = load(parents["captions"] / IMAGES)["images"].numpy()
    return tuple(captions[i] for i in places), pictures[places]


def release(job: Job, artifact: Path, out: Path) -> None:
    """The model of an immunizing job as a pipeline folder."""
    model = _base(job)
    _apply(model, artifact)
    model.pipeline.save_pretrained(out)


def _draw(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    model = _base(job)
    _apply(model, parents["model"])
    concepts = [Concept(**given) for given in job.inputs["concepts"]]
    _save_images(out, *_sample_each(job, model, concepts, job.inputs["images"], "sample"))


def _attack(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    assert job.plugin is not None
    model, concept = _base(job), _concept(job)
    _apply(model, parents["model"])
    attacker = job.plugin.build()
    assert job.seed is not None
    subject = _subject(job, model, concept, parents["pictures"], job.seed)
    images, finite = [], []

    def measure(step: int) -> None:
        if step in job.inputs["measure_at"]:
            prompt = attacker.prompt(concept)
            made, fine = _sample(job, model, prompt, job.inputs["images"], "sample", concept.name)
            images.append(made)
            finite.append(fine)

    generator = attacker.adapt(model, subject)
    reading = meter.pull(generator, f"attacker {job.plugin.name}", job.inputs["steps"], measure)
    _save_images(out, np.stack(images), np.stack(finite))
    if job.inputs["save_attacked"]:
        attacker.save(model, out / "attacked")
    reading.save(out)


def _look(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """Embeddings by encoder, and whether the judge sees the concept; of pictures (…, n, height, width, 3), where there
    are several judges (concepts, n, …)."""
    found = load(parents["images"] / IMAGES)
    lead, images = found["images"].shape[:-3], found["images"].flatten(0, -4).numpy()
    if job.inputs.get("decoded"):
        model = _untouched(job)
        images = model.decode(model.encode(images))
    seen = {"finite": found["finite"]}
    for name in job.inputs["encoders"]:
        embed = encoders.encoder(name, job.where.get(f"encoder.{name}")).embed
        seen[f"encoder.{name}"] = embed(images).unflatten(0, lead)
    judges = job.inputs["judges"]
    if judges:
        parts = np.split(images, len(judges))
        right = np.concatenate([encoders.verdicts(part, *judge) for part, judge in zip(parts, judges, strict=True)])
        seen["right"] = torch.from_numpy(right).unflatten(0, lead)
    save(seen, out / SEEN)


def _before(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    seen = {role: load(path / SEEN) for role, path in parents.items() if role != "model"}
    look = next((parent for role, parent in job.parents.items() if role.startswith("kept.")), None)
    used = _encoders(job, look) if look else {}
    write_figures(measures.before_figures(seen, used, meter.Reading.load(parents["model"])), out)


def _compare(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    used = _encoders(job, job.parents["harmful.0"])
    concepts = {"harmful": job.inputs["targets"], "benign": job.inputs["others"]}
    arms = {
        role: [
            measures.Arm(name, *(load(parents[f"{role}.{i}{of}"] / SEEN) for of in ("", ".undefended", ".reference")))
            for i, name in enumerate(names)
        ]
        for role, names in concepts.items()
    }
    readings = [meter.Reading.load(path) for role, path in parents.items() if role.endswith(".attack")]
    write_figures(measures.attacked_figures(arms, job.inputs["measure_at"], used, readings), out)


def _encoders(job: Job, look: Job) -> dict[str, encoders.Encoder]:
    """The job's encoders, their weights from where a looking job has them."""
    return {name: encoders.encoder(name, look.where.get(f"encoder.{name}")) for name in job.inputs["encoders"]}


def _average(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    write_figures(measures.averaged([read_figures(path) for path in parents.values()]), out)


def _sheet(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """A row a kind of picture, the attackers' once a measured step."""
    rows = []
    for i, (label, row) in enumerate(job.inputs["rows"]):
        images = load(parents[str(i)] / IMAGES)["images"].numpy()
        if images.ndim == 4 or row is not None:
            rows.append((label, images if row is None else images[row]))
        else:
            rows += [(f"{label}, step {step}", of) for step, of in zip(job.inputs["measure_at"], images, strict=True)]
    figures.contact_sheet(rows).save(out / SHEET, optimize=True)
    write_figures([], out)


def _base(job: Job) -> TextToImage:
    """A base to change."""
    return _untouched(job).copy()


def _untouched(job: Job) -> TextToImage:
    """The base, read from disk once for jobs that follow each other."""
    return _read_base(job.where["base"], job.inputs["precision"], job.inputs["base"])


@lru_cache(maxsize=1)
def _read_base(base: str, precision: str, digest: str) -> TextToImage:
    return TextToImage.load(base, precision)


def _side(model: TextToImage) -> int:
    """Pixels a side of the pictures a base makes."""
    return int(model.unet.config.sample_size * model.pipeline.vae_scale_factor)


def _concept(job: Job) -> Concept:
    return Concept(**job.inputs["concept"], images=job.where.get("images"))


def _subject(job: Job, model: TextToImage, concept: Concept, pictures: Path, seed: int) -> Subject:
    def sampled(prompt: str, count: int) -> Images:
        return _sample(job, model, prompt, count, "prior", concept.name)[0]

    return Subject(concept, load(pictures / IMAGES)["training"].numpy(), model, seed, sampled)


def _sample(job: Job, model: TextToImage, prompt: str, count: int, purpose: str, concept: str) -> Any:
    """Pictures whose noise depends on the purpose, the concept and their number alone: every arm shares it."""
    seeds = [seed_of(purpose, concept, i) for i in range(count)]
    settings = job.inputs["sampling"]
    return model.sample([prompt] * count, seeds, **settings)


def _sample_each(job: Job, model: TextToImage, concepts: Sequence[Concept], count: int, purpose: str) -> Any:
    """`_sample` of several concepts by their names at once: (concepts, count, …) pictures, and which are finite."""
    prompts = [concept.prompted() for concept in concepts for _ in range(count)]
    seeds = [seed_of(purpose, concept.name, i) for concept in concepts for i in range(count)]
    images, finite = model.sample(prompts, seeds, **job.inputs["sampling"])
    return images.reshape(-1, count, *images.shape[1:]), finite.reshape(-1, count)


def _gate_rates(job: Job, model: TextToImage, concepts: Sequence[Concept]) -> list[float]:
    """How often the judge sees each concept in a few pictures of it."""
    if not concepts:
        return []
    images, _ = _sample_each(job, model, concepts, GATE_IMAGES, "gate")
    return [
        float(encoders.verdicts(of, str(concept.judge), concept.name).mean())
        for of, concept in zip(images, concepts, strict=True)
    ]


def _save_weights(job: Job, model: TextToImage, out: Path) -> None:
    """Of the U-Net, what is no longer as in the base."""
    save(model.changed(_untouched(job).unet.state_dict()), out / WEIGHTS)


def _apply(model: TextToImage, folder: Path) -> None:
    """Put an artifact's weights into the U-Net."""
    changed = load(folder / WEIGHTS)
    state = dict(model.unet.named_parameters())
    with torch.no_grad():
        for name, value in changed.items():
            state[name].copy_(value)


def _save_images(out: Path, images: Images, finite: np.ndarray[Any, Any] | None = None, **more: Images) -> None:
    tensors = {"images": images, "finite": np.ones(images.shape[:-3], bool) if finite is None else finite, **more}
    save({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}, out / IMAGES)
