"""What this track's jobs need, counted on abstract models (see `harness.diffusion.abstract`)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch

from harness.demands import Demand, Work
from harness.diffusion.abstract import CONCEPTS, AbstractModel, Counter
from harness.diffusion.model import Batch, TextToImage
from harness.diffusion.pipeline_stage import PipelineStage, SamplingStage
from harness.diffusion.stages import Attack, Immunize, ReadCheckpoint, TrainingStage
from harness.diffusion.undefended import Captions, DrawPictures
from harness.plugin import PluginSpec
from harness.stage import Stage


class Training(NamedTuple):
    """What a plugin needs. peak: bytes in training. drawing: bytes when pictures are drawn between an attacker's steps,
    beside what it keeps; 0 for a defense. first, further: arithmetic until the first step and of each further one.
    changed: bytes of the U-Net's weights that it trains. steps: their number, where the plugin says it."""

    peak: int
    drawing: int
    first: Work
    further: Work
    changed: int
    steps: int | None


class Drawing(NamedTuple):
    """What sampling needs. peak: bytes. weights: bytes of the base model. step, decode: arithmetic of a guided
    denoising step and of the autoencoder, for a picture. size: bytes of a picture."""

    peak: int
    weights: int
    step: Work
    decode: Work
    size: int


def demands(jobs: Iterable[Stage]) -> Iterator[Demand]:
    """Yield what the `jobs` need, by stage and plugin."""
    kinds: dict[tuple[Any, ...], list[PipelineStage]] = defaultdict(list)
    for job in jobs:
        if isinstance(job, PipelineStage) and (job.plugin is None or job.plugin.kind != "metric"):
            kinds[job.name, _shape(job.plugin), job.base.path, job.precision, _saving(job), _concepts(job)].append(job)
    drawings: dict[tuple[str, str], Drawing] = {}
    for (name, _, base, precision, saving, concepts), same in kinds.items():
        job = same[0]
        what = f"{name} {job.plugin.name}" if job.plugin else name
        if (base, precision) not in drawings:
            drawings[base, precision] = drawing(base, precision)
        drawn = drawings[base, precision]
        pictures = sum(_pictures(one) for one in same)
        work, peak, kept, transient = Work(), 0, pictures * drawn.size, 0
        if isinstance(job, SamplingStage):
            steps = pictures * job.sampling.steps
            work = steps * drawn.step + pictures * drawn.decode
            beside = 0 if isinstance(job, DrawPictures | Captions) else drawn.weights  # a copy of the base model draws
            peak = drawn.peak + beside if pictures else 0
        if isinstance(job, Immunize | Attack) and not isinstance(job, ReadCheckpoint) and job.plugin:
            try:
                trained = training(job.plugin, base, precision, saving, concepts)
            except Exception as error:  # a plugin of others may compute what has no number here
                text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                yield Demand(what, len(same), precision, None, None, kept, note=text[:80])
                continue
            steps = job.steps if isinstance(job, Attack) else trained.steps or 1
            work += len(same) * (trained.first + (steps - 1) * trained.further)
            peak = max(trained.peak, trained.drawing)
            if isinstance(job, Immunize):
                transient = len(same) * trained.changed
        yield Demand(what, len(same), precision, work, peak, kept, transient)


def training(plugin: PluginSpec, base: str, precision: str, saving: bool, concepts: int) -> Training:
    """Count what a defense or attacker needs. saving: whether checkpointing is on. concepts: number of the targets."""
    abstract, built = AbstractModel(base, precision, saving), plugin.build()
    data = abstract.targets(concepts) if plugin.kind == "defense" else abstract.concept()
    works, trained, drawn = [Work()], 0, 0
    with abstract.counting() as counter:
        generator = built.generator(abstract.model, data)
        for _ in islice(generator, 2):
            works.append(counter.work)
            weights = [weight.nbytes for weight in abstract.model.unet.parameters() if weight.requires_grad]
            trained = max(trained, sum(weights))
        peak = counter.peak
        if plugin.kind == "attacker":
            abstract.model.unet.zero_grad()  # see `TextToImage.sample`
            counter.peak = counter.bytes
            _draw(abstract.model, counter)
            drawn = counter.peak
    others = abstract.outside + (0 if saving else abstract.bytes)  # the base model stays in memory
    drawn += others if drawn else 0
    first = works[:2][-1]
    return Training(others + peak, drawn, first, works[-1] - first, trained, getattr(built, "steps", None))


def drawing(base: str, precision: str) -> Drawing:
    """Count what drawing pictures needs."""
    abstract = AbstractModel(base, precision)
    with abstract.counting() as counter:
        step, decode = _draw(abstract.model, counter)
    peak = abstract.outside + counter.peak
    return Drawing(peak, abstract.bytes, step, decode, 3 * abstract.side**2)


@torch.no_grad()
def _draw(model: TextToImage, counter: Counter) -> tuple[Work, Work]:
    """Take a guided denoising step of as many pictures as are drawn at once, and decode them; returns the arithmetic
    of each for a picture."""
    config, rows, start = model.unet.config, model.drawn_at_once, counter.work
    latents = torch.zeros(2 * rows, config.in_channels, config.sample_size, config.sample_size)
    times = torch.zeros(2 * rows, dtype=torch.int64)
    model.predictions(Batch(latents, [""] * 2 * rows, latents, times))
    step = counter.work - start
    for _ in model._decoded(latents[:rows]):
        pass
    return 1 / rows * step, 1 / rows * (counter.work - start - step)


def _shape(plugin: PluginSpec | None) -> str:
    """The plugin without the numbers that change no shape: two step sizes cost the same."""
    if plugin is None:
        return ""
    params = {name: value for name, value in plugin.params.items() if not isinstance(value, float)}
    return json.dumps([plugin.name, plugin.source, params], sort_keys=True)


def _saving(job: PipelineStage) -> bool:
    return isinstance(job, TrainingStage) and job.checkpointing


def _concepts(job: PipelineStage) -> int:
    return min(len(job.targets), len(CONCEPTS)) if isinstance(job, Immunize) else 1


def _pictures(job: PipelineStage) -> int:
    """Number of the pictures that a job draws."""
    if isinstance(job, Attack):
        return job.images * len(job.measure_at) + job.kept_images * len(job.kept)
    if isinstance(job, SamplingStage) and not isinstance(job, Immunize):
        return int(job.work / job.sampling.steps)
    return 0
