"""Tiny tasks on which the conformance kit runs plugins of this track."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from harness.deep.model import MAP, Network, Released, seeded_reset, zero_linear
from harness.deep.plugin import AttackRows, Course, FeatureSet, Inputs, ReleasedFeatures, Role, UndefendedCourse
from harness.deep.rows import DeepTargets, Rows
from harness.kit.trial import Trial
from harness.metric import Metric

ROWS, CHANNELS, SIDE, DIM, CLASSES = 160, 4, 4, 12, 3


def trials(kind: str, seed: int) -> Sequence[Trial]:
    """The trial for plugins of the kind `kind`. seed: seed of the rows and of a plugin's draws."""
    if kind == "metric":
        return [_metric(seed)]
    return [_attacker(seed)] if kind == "attacker" else [_defense(seed)]


def rows(seed: int, count: int = ROWS) -> Rows:
    """Rows of a task with `CLASSES` classes: activations (count, `CHANNELS`, `SIDE`, `SIDE`), a mean of its own for
    each class plus noise. seed: seed of the draws."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, CHANNELS, SIDE, SIDE, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator)
    return Rows(means[y] + 0.5 * torch.randn(count, CHANNELS, SIDE, SIDE, generator=generator), y)


def trunk(seed: int) -> nn.Module:
    """A trunk from pictures to activations, which have the same shape here. seed: seed of its weights."""
    layers = nn.Sequential(nn.utils.skip_init(nn.Conv2d, CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS))
    seeded_reset(layers, seed)
    return layers.eval()


def tail(seed: int) -> nn.Module:
    """A tail with a convolution and a BatchNorm, from activations to `DIM` features. seed: seed of its weights."""
    layers = nn.Sequential(
        nn.utils.skip_init(nn.Conv2d, CHANNELS, DIM, 3, padding=1),
        nn.BatchNorm2d(DIM),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    seeded_reset(layers, seed)
    return layers


def released(seed: int) -> Released:
    """A base model. seed: seed of its weights."""
    model = Released(tail(seed), DIM, CLASSES)
    seeded_reset(model.head, seed)
    return model


def _tensors(**tasks: Rows) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": getattr(task, part) for name, task in tasks.items() for part in ("x", "y")}


def _defense(seed: int) -> Trial:
    """A base model to immunize; its loss is that of its head on the harmful rows."""
    model, benign, harmful = released(seed), rows(seed + 1), rows(seed + 2)
    targets = DeepTargets(benign, harmful, seed)

    def loss(plugin: Any) -> float:
        with torch.no_grad():
            return float(model.loss(harmful))

    return Trial(
        modules={"model": model},
        start=lambda plugin: plugin.generator(model, targets),
        loss=loss,
        steps=2000,
        data=_tensors(benign=benign, harmful=harmful),
        optional=(f"model.{MAP}",),
    )


def _attacker(seed: int) -> Trial:
    """A head to train on features, a tail to train on activations or a whole network; the plugin's part decides."""
    model = Network(tail(seed), zero_linear(DIM, CLASSES), trunk(seed)).eval()
    after_trunk = Network(model.tail, model.head).eval()
    fit, validation = rows(seed).split()

    def view(plugin: Any) -> tuple[Network, AttackRows]:
        own, held, network = fit, validation, model if plugin.part == "network" else after_trunk
        if plugin.part == "head":
            network = Network(nn.Identity(), model.head)
            with torch.no_grad():
                own, held = fit.at(model.tail), validation.at(model.tail)
        return network, AttackRows(own.x, own.y, held, CLASSES, seed)

    def loss(plugin: Any) -> float:
        network = model if plugin.part == "network" else after_trunk
        with torch.no_grad():
            training = network.training
            value = float(network.eval().loss(fit))
            network.train(training)
            return value

    return Trial(
        modules={"network": model},
        start=lambda plugin: plugin.generator(*view(plugin)),
        loss=loss,
        steps=60,
        data=_tensors(fit=fit, validation=validation),
    )


def _metric(seed: int) -> Trial:
    """A released model, or an attack on it, to measure."""
    model, base = released(seed), released(seed + 1)
    tasks: dict[Role, Rows] = {"benign": rows(seed + 2), "harmful": rows(seed + 3), "other": rows(seed + 4)}

    train, heldout = torch.arange(120), torch.arange(120, ROWS)

    @torch.no_grad()
    def features(network: Released) -> Any:
        parts = {role: Rows(network.features(task.x), task.y) for role, task in tasks.items()}
        return {role: FeatureSet(task.take(train), task.take(heldout), CLASSES) for role, task in parts.items()}

    def inputs() -> Inputs:
        return Inputs(base, {role: task.take(train) for role, task in tasks.items()})

    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (40,), generator=generator)
    courses = [
        Course(
            steps=(0, 1, 2, 5),
            predictions=torch.randint(CLASSES, (4, 40), generator=generator),
            labels=labels,
            validation=torch.linspace(0.3, 0.9, 4, dtype=torch.float64),
            classes=CLASSES,
        )
        for _ in range(2)
    ]
    data = ReleasedFeatures(features(model), features(base), inputs, seed)

    def start(plugin: Metric) -> Any:
        if plugin.measures == "attacked":
            return plugin.generator(courses[0], UndefendedCourse(courses[1], seed))
        return plugin.generator(model, data)

    return Trial(
        modules={"model": model, "undefended model": base},
        start=start,
        loss=lambda plugin: 1.0,
        steps=2000,
        data={**_tensors(**{str(role): task for role, task in tasks.items()}), "predictions": courses[0].predictions},
    )
