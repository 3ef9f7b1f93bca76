"""Builds the jobs of one repetition and sets their seeds.

Each seed is a hash of the task, the repetition's seed and the purpose: the defense's draws (`defense`), the attacker's
draws for each concept (`attacker`), and the noise of all measured pictures (`noise`). No seed depends on a defense, so
all rows of a repetition meet the same attack and the same noise; repetitions are independent. The base model's own
pictures are data (see `harness.diffusion.undefended`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import cycle, islice
from typing import Any

from harness import checkpoints
from harness.diffusion import weights
from harness.diffusion.concepts import Concept, Group
from harness.diffusion.detectors import Asked, Question
from harness.diffusion.located import Files
from harness.diffusion.measuring import Arms, Decode, Look, MeasureAttacked, MeasureReleased, Seen, Sheet, SheetRow
from harness.diffusion.plugin import DiffusionAttacker, DiffusionDefense
from harness.diffusion.protocol import DiffusionProtocol
from harness.diffusion.stages import Attack, Draw, Immunize, KeptPictures, ReadCheckpoint
from harness.diffusion.undefended import Captions, ClassPictures, DrawPictures, Erase, Pictures, ReadPictures
from harness.errors import UsageError
from harness.plugin import PluginSpec
from harness.stage import Located, Stage, digest
from harness.track import Repetition


class Jobs:
    """The jobs of one repetition. repetition: task, protocol and seed. files: located files, each hashed once."""

    def __init__(self, repetition: Repetition, files: Files) -> None:
        self.repetition, self.files = repetition, files
        self.group: Group = repetition.task
        self.protocol: DiffusionProtocol = repetition.protocol
        self._attacks: dict[tuple[str, str, str, bool], Attack] = {}
        self._looks: dict[str, Seen] = {}
        self._released: dict[tuple[str, str], dict[str, Any]] = {}

    @cached_property
    def _on_base(self) -> dict[str, Any]:
        return {"base": self.files.base(self.group.base), "precision": self.group.precision}

    @cached_property
    def _sampling(self) -> dict[str, Any]:
        return {**self._on_base, "sampling": self.protocol.sampling}

    @cached_property
    def _training(self) -> dict[str, Any]:
        return {**self._sampling, "checkpointing": self.group.checkpointing}

    @cached_property
    def _drawn_by(self) -> dict[str, Any]:
        return {"sampling": self.protocol.drawn or self.protocol.sampling}

    @cached_property
    def _known_captions(self) -> list[int]:
        return self.group.known_captions

    @cached_property
    def _compositions(self) -> list[Concept]:
        return self.group.compositions

    @cached_property
    def _encoders(self) -> dict[str, Any]:
        return {name: self.files.weights(path) for name, path in self.protocol.encoders.items()}

    @cached_property
    def _detectors(self) -> tuple[Asked, ...]:
        """The detectors, which look for the targets and benign concepts among all concepts of the files."""
        concepts = tuple(_plain(concept) for concept in (*self.group.targets, *self.group.others))
        kept = (_plain(concept) for concept in self.group.kept if concept not in self.group.others)
        among = (*concepts, *kept)
        return tuple(
            Asked(name, self.files.detector(detector.path), Question(concepts, among, detector.labels))
            for name, detector in self.protocol.detectors.items()
        )

    @cached_property
    def noise(self) -> int:
        """Seed of the noise of measured pictures."""
        return self.repetition.draw("noise")

    @cached_property
    def pictures(self) -> dict[str, Pictures]:
        """The jobs for pictures of targets and benign concepts, by concept name."""
        return {concept.name: self._pictures(concept) for concept in (*self.group.targets, *self.group.others)}

    def _pictures(self, concept: Concept) -> Pictures:
        if concept.images is not None:
            folder = self.files.pictures(concept.images)
            return ReadPictures(**self._on_base, concept=_plain(concept), folder=folder, shared=self.protocol.shared)
        return DrawPictures(
            **self._sampling,
            concept=concept,
            training=self.protocol.training_images,
            images=self.protocol.images,
            shared=self.protocol.shared,
        )

    @cached_property
    def captions(self) -> Captions | None:
        """The job for pictures of the concept file's captions; None if it has none."""
        return Captions(**self._sampling, captions=self.group.captions) if self.group.captions else None

    @cached_property
    def erased(self) -> Erase | None:
        """The job that erases the targets; None if all targets are subjects, which no base model knows."""
        targets, kept = (_named(side) for side in (self.group.targets, self.group.kept))
        if not targets:
            return None
        return Erase(**self._sampling, targets=targets, kept=kept, erasure=self.protocol.erasure)

    @cached_property
    def _targets(self) -> dict[str, Any]:
        """The fields of a `TargetsStage`: the data that a defense receives."""
        targets = tuple(self.pictures[concept.name] for concept in self.group.targets)
        kept = tuple(self._known_captions) if self.captions else ()
        return {"targets": targets, "captions": self.captions, "kept": kept}

    def immunize(self, defense: PluginSpec) -> Immunize:
        """The job of the released model of `defense`; the reference defense receives no targets."""
        given = {}
        if defense.name != self.protocol.reference:
            given = {**self._targets, "class_pictures": self._class_pictures(defense, self.group.targets)}
        seed = self.repetition.seed_for(defense)
        return Immunize(**self._training, **given, plugin=defense, seed=seed, erased=self.erased)

    def checkpoint(self, defense: PluginSpec, located: Located) -> ReadCheckpoint:
        """The job that reads the released model of the row `defense` from the checkpoint `located`; raises `UsageError`
        if it does not fit the base model."""
        label, base = self.group.label, self.files.base(self.group.base)
        if located.path and (
            fault := weights.fault(checkpoints.checkpoint_folder(located.path, label), base.path, str(located.digest))
        ):
            raise UsageError(fault)
        return ReadCheckpoint(**self._training, plugin=defense, weights=located, label=label)

    def _class_pictures(
        self, plugin: PluginSpec, concepts: Sequence[Concept], *budget: int
    ) -> tuple[ClassPictures, ...]:
        """The jobs of the class pictures that `plugin` asks for, one for each class prompt of `concepts`; none if its
        code is not available here. budget: an attacker's number of steps."""
        built = plugin.build() if plugin.module else None
        count = built.class_images(*budget) if isinstance(built, DiffusionDefense | DiffusionAttacker) else 0
        prompts = dict.fromkeys(concept.class_prompt for concept in concepts if concept.class_prompt)
        if not (count and prompts):
            return ()
        each = -(-count // len(prompts))
        return tuple(
            ClassPictures(**self._sampling, prompt=prompt, count=each, erased=self.erased) for prompt in prompts
        )

    def attack(self, model: Immunize, attacker: PluginSpec, concept: Concept, other: bool = False) -> Attack:
        """The job of an attack on one concept. other: whether the attacker has other random draws, for the noise
        floor."""
        place = (model.key, digest(attacker.identity), concept.name, other)
        if place not in self._attacks:
            settings = self.protocol.model_dump(include={"steps", "measure_at", "images", "save_attacked"})
            seed = self.repetition.seed_for(attacker, concept.name, *(["other"] if other else []))
            self._attacks[place] = Attack(
                **{**self._training, **self._drawn_by},
                **settings,
                plugin=attacker,
                seed=seed,
                noise=self.noise,
                concept=_plain(concept),
                model=model,
                pictures=self.pictures[concept.name],
                class_pictures=self._class_pictures(attacker, [concept], self.protocol.steps),
                kept=self._kept if concept in self.group.targets else (),
                kept_images=self.protocol.attacked_images,
                captions=self._captions,
                kept_pictures=self._kept_pictures(model, attacker),
            )
        return self._attacks[place]

    @cached_property
    def _kept(self) -> tuple[Concept, ...]:
        """The concepts to keep that the classifier knows."""
        further = (concept for concepts in self.group.bystanders.values() for concept in concepts)
        return tuple(_plain(concept) for concept in further if concept.classifier)

    @cached_property
    def _captions(self) -> tuple[str, ...]:
        """The captions that defenses and attackers know."""
        return tuple(self.group.captions[i] for i in self._known_captions)

    def _kept_pictures(self, model: Immunize, attacker: PluginSpec) -> KeptPictures | None:
        """The job of the pictures of captions by the released model that `attacker` asks for; None if it asks for none,
        or if its code is not available here."""
        built = attacker.build() if attacker.module else None
        count = built.kept_images(self.protocol.steps) if isinstance(built, DiffusionAttacker) else 0
        captions = tuple(islice(cycle(self._captions), count))
        if not captions:
            return None
        return KeptPictures(**self._sampling, seed=self.repetition.draw("kept"), captions=captions, model=model)

    def attacks(self, model: Immunize, attacker: PluginSpec) -> list[Attack]:
        """The jobs of the attacks on all targets and benign concepts."""
        return [self.attack(model, attacker, concept) for concept in (*self.group.targets, *self.group.others)]

    def measure_attacked(
        self, metric: PluginSpec, model: Immunize, undefended: Immunize, attacker: PluginSpec
    ) -> MeasureAttacked:
        """The job that measures `metric` on an attacked model. In the undefended row the attacked model is compared
        with itself under other draws of the attacker."""
        floor = model.key == undefended.key

        def arms(concept: Concept) -> Arms:
            shown = self.protocol.images * len(self.protocol.measure_at)

            def look(model: Immunize, other: bool = False) -> Seen:
                return self._look(self.attack(model, attacker, concept, other), [concept], shown, detect=True)

            return Arms(
                _plain(concept),
                look(model),
                look(undefended, other=floor) if metric.compared else None,
                self._look(self.pictures[concept.name], [concept], self.protocol.images, detect=True),
            )

        return MeasureAttacked(
            plugin=metric,
            seed=self.repetition.seed_for(metric),
            measure_at=self.protocol.measure_at,
            encoders=self._encoders,
            targets=tuple(arms(concept) for concept in self.group.targets),
            benign=tuple(arms(concept) for concept in self.group.others),
        )

    def measure_released(self, metric: PluginSpec, model: Immunize, undefended: Immunize) -> MeasureReleased:
        """The job that measures `metric` on a released model, given pictures by this and by the undefended model."""
        place = (model.key, undefended.key)
        if place not in self._released:
            self._released[place] = self._released_views(model, undefended)
        return MeasureReleased(
            **self._training,
            **self._targets,
            **self._released[place],
            plugin=metric,
            seed=self.repetition.seed_for(metric),
            model=model,
            encoders=self._encoders,
        )

    def _released_views(self, model: Immunize, undefended: Immunize) -> dict[str, Any]:
        images, few = self.protocol.images, self.protocol.kept_images
        known, composed = (
            [concept for concept in concepts if concept.classifier]
            for concepts in (self.group.targets, self._compositions)
        )
        decoded = [Decode(**self._on_base, pictures=self.pictures[concept.name]) for concept in known]
        return {
            "drawn": self._drawn(model, self.group.targets, images),
            "erased": self._drawn(undefended, self.group.targets, images),
            "benign": self._drawn(model, self.group.others, images),
            "reachable": tuple(
                self._look(job, [concept], images, encoders=False) for job, concept in zip(decoded, known, strict=True)
            ),
            "compositions": self._drawn(model, composed, few, encoders=False),
            "bystanders": {
                split: (self._drawn(model, concepts, few), self._drawn(undefended, concepts, few))
                for split, concepts in self.group.bystanders.items()
                if concepts
            },
        }

    def _drawn(self, model: Immunize, concepts: Sequence[Concept], count: int, encoders: bool = True) -> Seen | None:
        """Pictures of `concepts` by a released model, `count` of each; None if it knows none of them by name. encoders:
        whether the encoders look at them, besides the classifier."""
        named = _named(concepts)
        if not named:
            return None
        return self._look(self._draw(model, named, count), named, len(named) * count, encoders)

    def _draw(self, model: Immunize, named: Sequence[Concept], count: int) -> Draw:
        return Draw(
            **self._on_base, **self._drawn_by, seed=self.noise, concepts=tuple(named), images=count, model=model
        )

    def _look(
        self, job: Stage, concepts: Sequence[Concept], count: int, encoders: bool = True, detect: bool = False
    ) -> Seen:
        """The look at the pictures of `job`. concepts: the concept in all pictures, or a concept for each row. count:
        number of pictures. encoders, detect: whether encoders and detectors look at them, besides the classifier."""
        if job.key not in self._looks:
            classes = tuple((concept.classifier, concept.name) for concept in concepts if concept.classifier)
            look = Look(
                encoders=self._encoders if encoders else {},
                classes=classes if len(classes) == len(concepts) else (),
                count=count,
                images=job,
                detectors=self._detectors if detect else (),
            )
            self._looks[job.key] = Seen(job, look)
        return self._looks[job.key]

    def sheet(
        self, models: Mapping[str, Immunize], undefended: Immunize, attackers: Mapping[str, PluginSpec] | None = None
    ) -> Sheet:
        """The job of a contact sheet: for each target pictures of the reference and, by defense, of the released models
        or of what an attacker made of them in its last step. models: by defense row. attackers: the attacker against
        each defense; None: the released models, and the base model without the targets."""
        rows: list[SheetRow] = []
        named = _named(self.group.targets)
        for concept in self.group.targets:
            source = "given" if concept.images else "base"
            rows.append(SheetRow(f"{concept.name}: reference ({source})", self.pictures[concept.name]))
            if attackers is not None:
                jobs = {row: self.attack(model, attackers[row], concept) for row, model in models.items()}
                rows += [SheetRow(f"{concept.name}: {row}", job, -1) for row, job in jobs.items()]
            elif concept.kind != "subject":
                drawers = {"erased": undefended} | {
                    row: model for row, model in models.items() if model.key != undefended.key
                }
                drawn = {row: self._draw(drawer, named, self.protocol.images) for row, drawer in drawers.items()}
                place = named.index(_plain(concept))
                rows += [SheetRow(f"{concept.name}: {row}", job, place) for row, job in drawn.items()]
        return Sheet(rows=tuple(rows))


def _plain(concept: Concept) -> Concept:
    """The concept without the path of its pictures, so that the path enters no key."""
    return concept.model_copy(update={"images": None})


def _named(concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """The concepts that a base model knows by name, without paths."""
    return tuple(_plain(concept) for concept in concepts if concept.kind != "subject")
