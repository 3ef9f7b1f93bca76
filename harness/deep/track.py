"""The track of deep networks. Sources: "Model Immunization from a Condition Number Perspective" (ICML 2025, Section
5.3), and Sarker et al., "Model Immunization by Trapping Harmful Finetuning" (2025)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

import harness.track
from harness.deep.tasks import Task
from harness.errors import RunError, UsageError
from harness.plugin import PluginSpec
from harness.ranking import Outcome, Ranking
from harness.track import Repetition, Track

if TYPE_CHECKING:
    import pandas as pd

    from harness.deep.plugin import Role
    from harness.deep.stages import Activations, Attack, Features, Immunize, ReadCheckpoint
    from harness.kit.trial import Trial
    from harness.stage import Content, Located, Stage


class Protocol(harness.track.Protocol):
    """Budget, measured steps and the attacker's rows of a grid of deep networks."""

    rows: int = Field(
        1600,
        ge=20,
        description="largest number of training rows of an attacker, drawn for each seed; every fifth of them is for "
        "its validation",
    )


class DeepTrack(Track):
    """Deep networks under linear probing and fine-tuning."""

    name = "deep"
    task_model = Task
    single_task_model = Task
    protocol_model = Protocol
    metrics: ClassVar[Sequence[str]] = ("feature_conditioning", "feature_accuracy", "attack_accuracy")
    curves: ClassVar[Sequence[str]] = ("accuracy",)

    def __init__(self) -> None:
        self._files: dict[str, Located] = {}

    def missing(self, task: Task) -> Iterator[str]:
        """Why the task's extractor or one of its data sets cannot be loaded, if so."""
        from harness.deep import data, extractors

        names = [name for name in (task.benign, task.harmful, task.other) if name is not None]
        loads: list[Callable[[], object]] = [partial(data.load, task.source(name)) for name in names]
        loads.append(partial(extractors.load, task.extractor, task.size))
        for load in loads:
            try:
                load()
            except RunError as error:
                yield str(error)

    def immunize(self, repetition: Repetition, defense: PluginSpec) -> Immunize:
        """The job that immunizes the tail of the extractor, with a head for the benign task."""
        from harness.deep import stages

        seed = repetition.seed_for(defense)
        return stages.Immunize(plugin=defense, seed=seed, **self._models(repetition.task))

    def load_model(self, repetition: Repetition, defense: PluginSpec, weights: Located) -> ReadCheckpoint:
        """The job that reads a released model."""
        from harness import checkpoints
        from harness.deep import data, extractors, model, stages

        task = repetition.task
        if weights.path:
            folder = checkpoints.checkpoint_folder(weights.path, task.label)
            try:
                extractor = extractors.load(task.extractor, task.size)
                model.Released(extractor.tail, extractor.dim, data.load(task.source(task.benign)).classes).load(folder)
            except RunError as error:
                raise UsageError(str(error)) from None
        return stages.ReadCheckpoint(plugin=defense, weights=weights, label=task.label, **self._models(task))

    def save_model(self, model: Any, artifact: Path, out: Path) -> None:
        """Save a released model as safetensors: `tail.…`, the network's own weights and buffers by position in the
        tail; `map.weight` (dim, dim), if its features pass a linear map; and `head.weight`, `head.bias`."""
        model.base.model(artifact).save(out)

    def attacks(self, repetition: Repetition, model: Any, attacker: PluginSpec) -> Sequence[Stage]:
        """The attack on the harmful task."""
        return [self._attack(repetition, model, attacker)]

    def measure(
        self,
        repetition: Repetition,
        metric: PluginSpec,
        model: Any,
        undefended: Any,
        attacker: PluginSpec | None = None,
    ) -> Iterator[tuple[Mapping[str, Any], Stage]]:
        """One job for a released model, and one for each attack on it."""
        from harness.deep import stages

        seed = repetition.seed_for(metric)
        if attacker is None:
            released, base = (self._features(repetition.task, network) for network in (model, undefended))
            job: Stage = stages.MeasureReleased(
                plugin=metric,
                seed=seed,
                model=model,
                undefended_model=undefended,
                features=released,
                undefended=base,
                tasks=released.tasks,
            )
        else:
            attack, base_attack = (self._attack(repetition, network, attacker) for network in (model, undefended))
            job = stages.MeasureAttacked(plugin=metric, seed=seed, attack=attack, undefended=base_attack)
        yield {}, job

    def ranking(self, protocol: Protocol, attacked: bool, tasks: Sequence[Any] = ()) -> Ranking:
        """The success on the harmful task; of a grid without attackers, the RIR over the range of centred features."""
        if not attacked:
            return Ranking(value={"metric": "rir", "variant": "centred"}, better="higher", resolution=1e-3)
        return Ranking(
            value={"metric": "success", "role": "harmful"},
            better="lower",
            chosen=True,
            resolution=0.01,
            optimum=[{"metric": "best_success", "role": "harmful"}],
            retention=[
                {"metric": "retention", "role": "benign", "variant": "released"},
                {"metric": "retention", "role": "benign", "variant": "refitted"},
                {"metric": "retention", "role": "other"},
            ],
            predictors=[
                {"metric": "rir", "variant": variant} for variant in ("floor", "range", "centred", "training", "itself")
            ],
        )

    def outcomes(self, protocol: Protocol) -> Mapping[str, Outcome]:
        """The held-out accuracy on the harmful task at a step, whatever the attacker's validation says."""
        return {
            "accuracy": Outcome(value={"metric": "accuracy", "role": "harmful"}, better="lower", resolution=0.01),
        }

    def table(self, board: pd.DataFrame) -> pd.DataFrame:
        """See `harness.deep.table`."""
        from harness.deep import table

        return table.table(board)

    def members(self, task: Task) -> Sequence[str]:
        """The extractor and the two data sets."""
        return tuple(Path(name).name for name in (task.extractor, task.benign, task.harmful))

    def trials(self, kind: str, seed: int) -> Sequence[Trial]:
        """See `harness.deep.trial`."""
        from harness.deep import trial

        return trial.trials(kind, seed)

    def _activations(self, task: Task, name: str) -> Activations:
        """The job that computes the activations of a data set under the task's extractor."""
        from harness.deep import data, extractors, stages

        return stages.Activations(
            extractor=self._located(task.extractor, extractors.CONTENT),
            size=task.size,
            data=self._located(task.source(name), data.content(task.source(name))),
            per_class=task.per_class,
        )

    def _models(self, task: Task) -> Mapping[str, Any]:
        """The jobs that the job of a released model reads, by field."""
        from harness.deep import stages

        benign = self._activations(task, task.benign)
        return {"base": stages.Base(benign=benign), "benign": benign, "harmful": self._activations(task, task.harmful)}

    def _features(self, task: Task, model: Any) -> Features:
        from harness.deep import stages

        roles: dict[Role, str | None] = {"benign": task.benign, "harmful": task.harmful, "other": task.other}
        tasks = {role: self._activations(task, name) for role, name in roles.items() if name is not None}
        return stages.Features(model=model, tasks=tasks)

    def _attack(self, repetition: Repetition, model: Any, attacker: PluginSpec) -> Attack:
        """The attack on a model. Its seed does not depend on the defense, so all defenses meet the same attack."""
        from harness.deep import stages

        protocol = repetition.protocol
        return stages.Attack(
            plugin=attacker,
            seed=repetition.draw("attack"),
            steps=protocol.steps,
            measure_at=protocol.measure_at,
            rows=protocol.rows,
            model=model,
            harmful=self._activations(repetition.task, repetition.task.harmful),
            features=self._features(repetition.task, model),
        )

    def _located(self, name: str, content: Content) -> Located:
        """The files of an extractor or a data set with their digest, which is computed once."""
        from harness.stage import Located

        if name not in self._files:
            self._files[name] = Located.of(name, content)
        return self._files[name]
