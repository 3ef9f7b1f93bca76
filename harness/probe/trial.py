"""Tiny tasks on which the conformance kit runs plugins of this track."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.kit.trial import Trial
from harness.metric import Metric
from harness.probe.data import BenignTask, ProbeTargets, Split
from harness.probe.model import Extractor, LinearProbe
from harness.probe.optimum import optimum
from harness.probe.plugin import AttackData, ReleasedData, TrainingRows, Trajectory
from harness.probe.tasks import ROLES

ROWS, DIM = 128, 32
STEPS = 20
"""Steps of the attack that a metric measures."""


def trials(kind: str, seed: int) -> Sequence[Trial]:
    """The trial for plugins of the kind `kind`. seed: seed of the rows and of a plugin's draws."""
    if kind == "metric":
        return [_metric(seed)]
    return [_attacker(seed) if kind == "attacker" else _defense(seed)]


def _targets(seed: int) -> ProbeTargets:
    """Rows with features of unequal scale; the targets are a linear function of the features plus noise."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(0, -1.5, DIM, dtype=torch.float64)
    splits = []
    for _ in ROLES:
        x = torch.randn(ROWS, DIM, dtype=torch.float64, generator=generator) * sizes
        y = x @ torch.randn(DIM, dtype=torch.float64, generator=generator)
        y += 0.1 * torch.randn(ROWS, dtype=torch.float64, generator=generator)
        splits.append(Split(x, (y - y.mean()) / y.std()))
    return ProbeTargets(*splits, seed=seed)


def _tensors(targets: ProbeTargets) -> dict[str, torch.Tensor]:
    return {f"{role}.{part}": getattr(getattr(targets, role), part) for role in ROLES for part in ("x", "y")}


def _defense(seed: int) -> Trial:
    """An extractor to immunize; its loss is the loss of the best probe on the harmful rows."""
    targets, model = _targets(seed), Extractor(DIM)

    def loss(plugin: Any) -> float:
        features = model.features(targets.harmful)
        return optimum(features, features, "squared", None).best_loss

    return Trial(
        modules={"extractor": model},
        start=lambda plugin: plugin.generator(model, targets),
        loss=loss,
        steps=2000,
        data=_tensors(targets),
    )


def _attacker(seed: int) -> Trial:
    """A probe to train on features of the undefended extractor."""
    features, probe = _targets(seed).harmful, LinearProbe(DIM)
    data = TrainingRows(features.x, features.y, seed, Extractor(DIM))
    return Trial(
        modules={"probe": probe},
        start=lambda plugin: plugin.generator(probe, data),
        loss=lambda plugin: float(probe.loss(data).detach()),
        steps=100,
        data={"x": data.x, "y": data.y},
    )


def _metric(seed: int) -> Trial:
    """A released extractor, or a gradient-descent attack on its features, to measure."""
    train, heldout, model = _targets(seed), _targets(seed + 1), Extractor(DIM)
    splits = {role: (getattr(train, role), getattr(heldout, role)) for role in ROLES}
    optima = {role: optimum(*pair, "squared", "spearman") for role, pair in splits.items()}
    released = ReleasedData(
        benign=train.benign,
        harmful=train.harmful,
        seed=seed,
        heldout=heldout,
        score="spearman",
        further={"other": BenignTask(*splits["harmful"], "spearman")},
        loss="squared",
        optima=optima,
        undefended=optima,
    )
    probe = LinearProbe(DIM)
    lr, losses, heads = 1 / probe.smoothness(train.harmful), [], []
    for _ in range(STEPS + 1):
        loss, gradient = probe.gradient(train.harmful)
        losses.append(loss)
        heads.append(probe.weight.detach().clone())
        probe.weight.data.sub_(gradient, alpha=lr)
    trajectory = Trajectory(
        steps=tuple(range(STEPS + 1)),
        heads=torch.stack(heads, 1),
        biases=torch.zeros(STEPS + 1, dtype=torch.float64),
        validation=torch.linspace(0, 0.5, STEPS + 1, dtype=torch.float64),
        losses=torch.stack(losses),
        optimum=optima["harmful"],
        extractor=model,
        inputs=dict(zip(("train", "heldout"), splits["harmful"], strict=True)),
    )
    attack = AttackData(role="harmful", loss="squared", success=0.1, score="spearman", undefended=trajectory, seed=seed)

    def start(plugin: Metric) -> Any:
        return plugin.generator(*((trajectory, attack) if plugin.measures == "attacked" else (model, released)))

    return Trial(
        modules={"extractor": model},
        start=start,
        loss=lambda plugin: float(trajectory.losses[-1]),
        steps=2000,
        data={**_tensors(train), "heads": trajectory.heads, "losses": trajectory.losses},
    )
