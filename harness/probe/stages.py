"""The jobs of this track: immunize -> find optima, attack -> measure."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from harness import checkpoints, meter
from harness.errors import PluginError, RunError
from harness.execution.released import immunize
from harness.plugin import PluginSpec
from harness.probe.data import ProbeData, Score, digest, load
from harness.probe.model import FILE, Extractor, LinearProbe, Loss
from harness.probe.optimum import Optimum, optima, scores
from harness.probe.plugin import AttackData, ProbeAttacker, ReleasedData, TrainingRows, Trajectory
from harness.probe.tasks import ROLES, Role, Task
from harness.stage import Folders, Located, Stage
from harness.store.tensors import load_tensors, save_tensors

ATTACK = "attack.safetensors"
KINDS = ("", "_with_intercept")
"""Ends of the names of files with optima of probes without and with an intercept."""


@cache
def _warm_up() -> None:
    """Run some operations once, so that the first plugin is not charged with time and memory of torch's lazy
    loading."""
    x = torch.eye(2, dtype=torch.float64, requires_grad=True)
    torch.linalg.eigvalsh(x @ x.T).sum().backward()
    torch.optim.Adam([x], fused=True).step()
    torch.linalg.solve(x.detach(), torch.linalg.svd(x.detach()).U)


class Immunize(Stage, track="probe", version=2):
    """Run a defense on an identity extractor and save the weights.

    rows: SHA-256 of the data set's values; None if the data set could not be loaded when the run was planned.
    """

    transient = True
    apart = True

    plugin: PluginSpec
    task: Task
    rows: str | None

    @property
    def network(self) -> str:
        """The kind of the task, whose number of rows decides what a unit of `work` costs."""
        return self.task.kind

    def data(self) -> ProbeData:
        """A copy of the rows of the task, since a plugin may change what it is given; raises `RunError` if the data set
        cannot be loaded, or is not the one in the key."""
        data = deepcopy(load(self.task))
        if digest(self.task.data) != self.rows:
            raise RunError(
                f"the data set {self.task.data} has other values here than in the plan, or could not be loaded there: "
                "use the same files on all workers and run the same command again"
            )
        return data

    def run(self, folders: Folders, out: Path) -> None:
        """Save the released extractor and the run cost (see `harness.execution.released`)."""
        _warm_up()
        targets = replace(self.data().targets, seed=self.seed or 0)
        model = Extractor(targets.benign.x.shape[1])
        save_tensors(immunize(self, model, targets, out), out / FILE)


class ReadCheckpoint(Immunize, version=1):
    """Read the released extractor from a checkpoint. weights: its folder."""

    weights: Located

    def read(self) -> Extractor:
        """The extractor; raises `RunError` if the weights do not fit the task."""
        folder = checkpoints.checkpoint_folder(self.weights.path, self.task.label)
        return Extractor.released(folder, self.data().train.benign.x.shape[1])

    def run(self, folders: Folders, out: Path) -> None:
        """Save the released extractor and the run cost."""
        model = self.read()
        self.pull(self.plugin.build().immunize(model, None), out)
        model.save(out)


class FindOptima(Stage, track="probe", version=3):
    """Find the best probes on the extractor's features of each task, without and with an intercept, and the spectra of
    these features."""

    loss: Loss
    model: Immunize

    def run(self, folders: Folders, out: Path) -> None:
        """Save each optimum in a file of its own."""
        data, model = self.model.data(), Extractor.load(folders[self.model])
        for role in ROLES:
            train, heldout = (model.features(getattr(split, role)) for split in (data.train, data.heldout))
            for kind, best in zip(KINDS, optima(train, heldout, self.loss, data.score), strict=True):
                save_tensors(best.tensors(), out / f"{role}{kind}.safetensors")

    def optima(self, folders: Folders, intercept: bool = False) -> dict[Role, Optimum]:
        """The optima that `run` saved, by role. folders: as for `run` of a child. intercept: of probes with an
        intercept."""
        files = {role: folders[self] / f"{role}{KINDS[intercept]}.safetensors" for role in ROLES}
        return {role: Optimum.from_tensors(load_tensors(file)) for role, file in files.items()}


class Attack(Stage, track="probe", version=3):
    """Run an attacker on the extractor's features of one task, and a second time on four fifths of the rows, with the
    other fifth for validation, to choose a step.

    role: role of the attacked task. loss: loss of the probe. steps: number of optimisation steps. measure_at: steps
    after which the probe is saved.
    """

    plugin: PluginSpec
    role: Role
    loss: Loss
    steps: int
    measure_at: tuple[int, ...]
    model: Immunize

    @property
    def work(self) -> float:
        """Number of optimisation steps."""
        return self.steps

    def run(self, folders: Folders, out: Path) -> None:
        """Save the loss after every step, the probe after the measured steps with its validation score, and the run
        cost of the first run; raises `PluginError` if the probe's weights are not finite."""
        _warm_up()
        attacker: ProbeAttacker = self.plugin.build()
        model, task = Extractor.load(folders[self.model]), self.model.data()
        features = model.features(getattr(task.train, self.role))
        rows = TrainingRows(features.x, features.y, self.seed or 0, model if attacker.knows_weights else None)
        probe = LinearProbe(rows.x.shape[1], self.loss)
        losses: list[float] = []
        heads: list[torch.Tensor] = []

        def record(step: int) -> None:
            losses.append(float(probe.loss(rows).detach()))
            if step in self.measure_at:
                heads.append(torch.cat([probe.weight.detach(), probe.bias[None]]))

        record(0)
        self.pull(attacker.generator(probe, deepcopy(rows)), out, self.steps, record, self.measure_at)
        weights = torch.stack(heads, 1)
        if not weights.isfinite().all():
            raise PluginError(f"attacker {self.plugin.name} left weights that are not finite")
        tensors = {"losses": torch.tensor(losses, dtype=torch.float64), "heads": weights[:-1], "biases": weights[-1]}
        if task.score:
            tensors["validation"] = self._validation(attacker, rows, task.score)
        save_tensors(tensors, out / ATTACK)

    def _validation(self, attacker: ProbeAttacker, rows: TrainingRows, score: Score) -> torch.Tensor:
        """The validation scores (measured steps) of the attacker on four fifths of its `rows`, by `score`."""
        fit, validation = rows.split()
        probe = LinearProbe(rows.x.shape[1], self.loss)
        outputs: list[torch.Tensor] = []

        def record(step: int) -> None:
            if step in self.measure_at:
                outputs.append(probe(validation.x).detach())

        record(0)
        meter.pull(attacker.generator(probe, fit), f"attacker {self.plugin.name}", self.steps, record)
        return scores(torch.stack(outputs, 1), validation.y, score)


class MeasureReleased(Stage, track="probe", version=1):
    """Measure a metric on a released extractor, given the optima on the features of this and of the undefended one."""

    plugin: PluginSpec
    model: Immunize
    optima: FindOptima
    undefended: FindOptima

    def run(self, folders: Folders, out: Path) -> None:
        """Save the metric's values."""
        rows = self.model.data()
        data = ReleasedData(
            benign=rows.train.benign,
            harmful=rows.train.harmful,
            seed=self.seed or 0,
            heldout=rows.heldout,
            score=rows.score,
            further=rows.further,
            loss=self.optima.loss,
            optima=self.optima.optima(folders),
            undefended=self.undefended.optima(folders),
        )
        self.measure(Extractor.load(folders[self.model]), data, out)


class Attacked(NamedTuple):
    """The jobs of one attack."""

    attack: Attack
    optima: FindOptima
    model: Immunize

    def trajectory(self, folders: Folders) -> Trajectory:
        """The attack in the form that a metric receives."""
        data, role = self.model.data(), self.attack.role
        tensors = load_tensors(folders[self.attack] / ATTACK)
        return Trajectory(
            steps=self.attack.measure_at,
            heads=tensors["heads"],
            biases=tensors["biases"],
            validation=tensors.get("validation"),
            losses=tensors["losses"],
            optimum=self.optima.optima(folders, self.attack.plugin.build().intercept)[role],
            extractor=Extractor.load(folders[self.model]),
            inputs={"train": getattr(data.train, role), "heldout": getattr(data.heldout, role)},
        )


class MeasureAttacked(Stage, track="probe", version=2):
    """Measure a metric on an attack, given the same attack on the undefended extractor.

    success: excess loss at which an attack has succeeded.
    """

    plugin: PluginSpec
    success: float
    attacked: Attacked
    undefended: Attacked

    def run(self, folders: Folders, out: Path) -> None:
        """Save the metric's values."""
        attack = self.attacked.attack
        data = AttackData(
            role=attack.role,
            loss=attack.loss,
            success=self.success,
            score=self.attacked.model.data().score,
            undefended=self.undefended.trajectory(folders),
            seed=self.seed or 0,
        )
        self.measure(self.attacked.trajectory(folders), data, out)
