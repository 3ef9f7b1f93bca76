"""The jobs of this track: compute activations -> fit the base model's head -> immunize -> features, attack -> measure.

The trunk of an extractor runs once for each data set. Everything after that works on its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from harness import checkpoints
from harness.deep import data as datasets
from harness.deep import extractors
from harness.deep.heads import fit_head
from harness.deep.model import FILE, MAP, Network, Released, in_parts, zero_linear
from harness.deep.plugin import (
    AttackRows,
    Course,
    DeepAttacker,
    FeatureSet,
    Inputs,
    Part,
    ReleasedFeatures,
    Role,
    UndefendedCourse,
)
from harness.deep.rows import DeepTargets, Rows
from harness.errors import PluginError, RunError
from harness.execution.released import immunize
from harness.plugin import PluginSpec
from harness.stage import Folders, Located, Stage, seed_of
from harness.store.tensors import load_tensors, save_tensors

ACTIVATIONS, LABELS, FEATURES, COURSE = (
    f"{name}.safetensors" for name in ("activations", "labels", "features", "course")
)


class Activations(Stage, track="deep", version=2):
    """Run the trunk of an extractor on all pictures of a data set, once for all models.

    extractor: its name, with the digest of its weights. size: side of the pictures, in pixels. data: the data set.
    per_class: largest number of pictures of each class in each split; None: all.
    """

    extractor: Located
    size: int
    data: Located
    per_class: int | None = None

    @property
    def network(self) -> str:
        """Digest of the extractor and the side of its pictures."""
        return f"{str(self.extractor.digest)[:12]} {self.size}"

    def run(self, folders: Folders, out: Path) -> None:
        """Save the activations, the classes and which rows are held out."""
        pictures = datasets.load(self.data.path).first(self.per_class)
        if self.data.digest is None:
            raise RunError(f"the data set {self.data.path} could not be loaded in the plan: run the same command again")
        extractor = extractors.load(self.extractor.path, self.size)
        parts = [extractor.activations(pixels) for pixels in pictures.batches(self.size)]
        labels = torch.from_numpy(pictures.labels)
        save_tensors({"x": torch.cat(parts)}, out / ACTIVATIONS)
        heldout, classes = torch.from_numpy(pictures.heldout), torch.tensor(pictures.classes)
        save_tensors({"y": labels, "heldout": heldout, "classes": classes}, out / LABELS)

    def read(self, folders: Folders) -> torch.Tensor:
        """The activations (rows, …) of all rows. folders: as for `run` of a child."""
        return load_tensors(folders[self] / ACTIVATIONS)["x"]

    def places(self, folders: Folders) -> FeatureSet:
        """The rows with their positions as inputs, training and held-out ones. folders: as for `run` of a child."""
        labels = load_tensors(folders[self] / LABELS)
        rows, heldout = Rows(torch.arange(len(labels["y"])), labels["y"]), labels["heldout"]
        return FeatureSet(rows.take(~heldout), rows.take(heldout), int(labels["classes"]))

    def feature_set(self, folders: Folders, x: torch.Tensor) -> FeatureSet:
        """The rows with the inputs `x` (rows, …), training and held-out ones. folders: as for `run` of a child."""
        places = self.places(folders)
        return replace(places, **{name: getattr(places, name).at(x.__getitem__) for name in ("train", "heldout")})

    def pictures(self, places: torch.Tensor) -> torch.Tensor:
        """The pictures, normalised, (rows, 3, size, size) of the rows with the positions `places`. Raises `RunError` if
        the files are no longer those of the plan."""
        for file in self.files:
            file.check()
        whole = datasets.load(self.data.path).first(self.per_class)
        rows = places.numpy()
        some = replace(
            whole,
            labels=whole.labels[rows],
            heldout=whole.heldout[rows],
            read=lambda place: whole.read(int(rows[place])),
        )
        extractor = extractors.load(self.extractor.path, self.size)
        return torch.cat([extractor.normalised(pixels) for pixels in some.batches(self.size)])


class Base(Stage, track="deep", version=1):
    """The base model: the extractor as it is with a head for the benign task.

    The head is the network's own where it was trained on the benign data set, else one fitted to its features.
    """

    benign: Activations

    def run(self, folders: Folders, out: Path) -> None:
        """Save the base model."""
        extractor = extractors.load(self.benign.extractor.path, self.benign.size)
        rows = self.benign.feature_set(folders, in_parts(extractor.tail, self.benign.read(folders)))
        head = extractor.classifier if extractor.trained_on == self.benign.data.path else None
        if head is None:
            head = fit_head(*rows.train.split(), rows.classes)
        model = Released(extractor.tail, extractor.dim, rows.classes)
        model.head.load_state_dict(head.state_dict())
        model.save(out)

    def model(self, folder: Path) -> Released:
        """The released model in the artifact folder `folder`, of this or of a defense's job."""
        extractor = extractors.load(self.benign.extractor.path, self.benign.size)
        model = Released(extractor.tail, extractor.dim, len(load_tensors(folder / FILE)["head.bias"]))
        model.load(folder)
        return model


class Immunize(Stage, track="deep", version=1):
    """Run a defense on the base model and save the released model. benign, harmful: activations of the tasks."""

    transient = True
    apart = True

    plugin: PluginSpec
    base: Base
    benign: Activations
    harmful: Activations

    def run(self, folders: Folders, out: Path) -> None:
        """Save the released model and the run cost (see `harness.execution.released`)."""
        benign, harmful = (task.feature_set(folders, task.read(folders)).train for task in (self.benign, self.harmful))
        model = self.base.model(folders[self.base])
        targets = DeepTargets(benign, harmful, self.seed or 0)
        dim = model.head.in_features
        save_tensors(immunize(self, model, targets, out, optional={MAP: (dim, dim)}), out / FILE)

    def model(self, folders: Folders) -> Released:
        """The released model. folders: as for `run` of a child."""
        return self.base.model(folders[self])


class ReadCheckpoint(Immunize, version=1):
    """Read the released model from a checkpoint. weights: its folder. label: label of the task."""

    weights: Located
    label: str

    def run(self, folders: Folders, out: Path) -> None:
        """Save the released model and the run cost; raises `RunError` if the weights do not fit the task."""
        model = self.base.model(folders[self.base])
        model.load(checkpoints.checkpoint_folder(self.weights.path, self.label))
        self.pull(self.plugin.build().immunize(model, None), out)
        model.save(out)


class Features(Stage, track="deep", version=1):
    """Compute the features of a released model on every data set, once for all attackers and metrics.

    model: the released model. tasks: by role, the activations.
    """

    transient = True

    model: Immunize
    tasks: Mapping[Role, Activations]

    def run(self, folders: Folders, out: Path) -> None:
        """Save the features of all rows by role."""
        model = self.model.model(folders)
        features = {role: in_parts(model.features, task.read(folders)) for role, task in self.tasks.items()}
        save_tensors({str(role): x for role, x in features.items()}, out / FEATURES)

    def read(self, folders: Folders) -> Mapping[str, torch.Tensor]:
        """The features (rows, dim) of all rows by role. folders: as for `run` of a child."""
        return load_tensors(folders[self] / FEATURES)


class Attack(Stage, track="deep", version=1):
    """Run an attacker on the harmful task of a released model.

    steps: number of optimisation steps. measure_at: steps after which it is measured. rows: largest number of training
    rows of the attacker, of which every fifth is for validation. model: the released model. harmful: activations of the
    harmful task. features: the features of the model.
    """

    plugin: PluginSpec
    seed: int
    steps: int
    measure_at: tuple[int, ...]
    rows: int
    model: Immunize
    harmful: Activations
    features: Features

    @property
    def work(self) -> float:
        """Number of optimisation steps."""
        return self.steps

    def run(self, folders: Folders, out: Path) -> None:
        """Save the predictions on held-out rows and the validation accuracy after each measured step, and the run cost.

        Raises `PluginError` if the attacker leaves outputs that are not finite.
        """
        attacker: DeepAttacker = self.plugin.build()
        task = self.harmful.places(folders)
        network, inputs = self._trained(attacker.part, task.classes, folders)
        draw = torch.Generator().manual_seed(seed_of("rows", self.seed))
        drawn = task.train.take(torch.randperm(len(task.train), generator=draw)[: self.rows])
        fit, validation = drawn.at(inputs).split()
        heldout = task.heldout.at(inputs)
        predictions: list[torch.Tensor] = []
        accuracies: list[float] = []

        def record(step: int) -> None:
            if step in self.measure_at:
                training = network.training
                outputs = in_parts(network.eval(), torch.cat([heldout.x, validation.x]))
                network.train(training)
                if not outputs.isfinite().all():
                    raise PluginError(f"attacker {self.plugin.name} has outputs that are not finite at step {step}")
                classes = outputs.argmax(1)
                predictions.append(classes[: len(heldout)])
                accuracies.append(float((classes[len(heldout) :] == validation.y).double().mean()))

        record(0)
        data = AttackRows(fit.x, fit.y, validation, task.classes, self.seed)
        self.pull(attacker.generator(network, data), out, self.steps, record, self.measure_at)
        save_tensors(
            {
                "predictions": torch.stack(predictions),
                "labels": heldout.y,
                "validation": torch.tensor(accuracies, dtype=torch.float64),
                "classes": torch.tensor(task.classes),
            },
            out / COURSE,
        )

    def _trained(
        self, part: Part, classes: int, folders: Folders
    ) -> tuple[Network, Callable[[torch.Tensor], torch.Tensor]]:
        """The network that an attacker of `part` receives, with a head of zeros, and the function that gives its inputs
        for positions of rows. classes: number of classes."""
        if part == "head":
            x = self.features.read(folders)["harmful"]
            return Network(nn.Identity(), zero_linear(x.shape[1], classes)).eval(), x.__getitem__
        released = self.model.model(folders)
        head = zero_linear(released.head.in_features, classes)
        if part == "tail":
            return Network(released.tail, head, map=released.map).eval(), self.harmful.read(folders).__getitem__
        trunk = deepcopy(extractors.load(self.harmful.extractor.path, self.harmful.size).trunk)
        return Network(released.tail, head, trunk, released.map).eval(), self.harmful.pictures

    def course(self, folders: Folders) -> Course:
        """The attack in the form that a metric receives. folders: as for `run` of a child."""
        tensors = load_tensors(folders[self] / COURSE)
        classes = int(tensors.pop("classes"))
        return Course(steps=self.measure_at, classes=classes, **tensors)


class MeasureReleased(Stage, track="deep", version=1):
    """Measure a metric on a released model. model, undefended_model: the released and the undefended model.
    features, undefended: their features. tasks: by role, the activations."""

    plugin: PluginSpec
    model: Immunize
    undefended_model: Immunize
    features: Features
    undefended: Features
    tasks: Mapping[Role, Activations]

    def run(self, folders: Folders, out: Path) -> None:
        """Save the metric's values."""
        released, undefended = (
            {role: task.feature_set(folders, features[role]) for role, task in self.tasks.items()}
            for features in (self.features.read(folders), self.undefended.read(folders))
        )

        def inputs() -> Inputs:
            rows = {role: task.feature_set(folders, task.read(folders)).train for role, task in self.tasks.items()}
            return Inputs(self.undefended_model.model(folders), rows)

        self.measure(self.model.model(folders), ReleasedFeatures(released, undefended, inputs, self.seed or 0), out)


class MeasureAttacked(Stage, track="deep", version=1):
    """Measure a metric on an attack, given the same attack on the undefended model."""

    plugin: PluginSpec
    attack: Attack
    undefended: Attack

    def run(self, folders: Folders, out: Path) -> None:
        """Save the metric's values."""
        data = UndefendedCourse(self.undefended.course(folders), self.seed or 0)
        self.measure(self.attack.course(folders), data, out)
