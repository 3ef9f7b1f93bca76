"""How this track's jobs are carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from harness.errors import PluginError
from harness.execution import meter
from harness.execution.determinism import alone, save
from harness.execution.determinism import load as load_tensors
from harness.plan import Job
from harness.probe import measures
from harness.probe.data import ProbeData, Split, load
from harness.probe.model import Extractor, LinearProbe
from harness.probe.tasks import ROLES, Role, Task
from harness.records import write_figures

ATTACK = "attack.safetensors"
SPECTRUM = "spectrum.safetensors"


def carry_out(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    """The stage of a job."""
    stage = {
        "immunize": _immunize,
        "spectrum": _spectrum,
        "rir": _rir,
        "measure": _measure,
        "attack": _attack,
        "progress": _progress,
    }[job.stage]
    _warm_up()
    with alone(job.seed or 0):
        stage(job, parents, out)


@cache
def _warm_up() -> None:
    """Have torch load what it loads at first use, or its time and memory would be charged to the first plugin."""
    x = torch.eye(2, dtype=torch.float64, requires_grad=True)
    torch.linalg.eigvalsh(x @ x.T).sum().backward()
    torch.optim.Adam([x], fused=True).step()
    torch.linalg.solve(x.detach(), torch.linalg.svd(x.detach()).U)


def _immunize(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    assert job.plugin is not None
    data = load(Task(**job.inputs["task"]))
    model = Extractor(data.train.benign.x.shape[1])
    who = f"defense {job.plugin.name}"
    targets = replace(data.train, seed=job.seed or 0)
    reading = meter.pull(job.plugin.build().immunize(model, targets), who)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise PluginError(f"{who} left weights that are not finite")
    model.save(out)
    reading.save(out)


def _spectrum(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    data = load(Task(**job.inputs["task"]))
    model = Extractor.load(parents["model"])
    tensors: dict[str, torch.Tensor] = {}
    for role in ROLES:
        found = measures.optimum(*_features(model, data, role), job.inputs["loss"], data.score)
        tensors |= {f"{role}.{name}": value for name, value in found.items()}
    save(tensors, out / SPECTRUM)
    meter.Reading.load(parents["model"]).save(out)


def _rir(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    spectrum, reference = (load_tensors(parents[role] / SPECTRUM) for role in ("spectrum", "reference"))
    reading = meter.Reading.load(parents["spectrum"])
    settings = {name: job.inputs[name] for name in ("policies", "much", "kept")}
    write_figures(measures.rir_figures(spectrum, reference, reading, **settings), out)


def _measure(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    assert job.plugin is not None
    targets = replace(load(Task(**job.inputs["task"])).train, seed=job.seed or 0)
    write_figures(job.plugin.build().measure(Extractor.load(parents["model"]), targets), out)


def _attack(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    assert job.plugin is not None
    data = load(Task(**job.inputs["task"]))
    train, heldout = _features(Extractor.load(parents["model"]), data, job.inputs["role"])
    probe = LinearProbe(train.x.shape[1], job.inputs["loss"])
    losses = [float(probe.loss(train).detach())]
    steps = list(job.inputs["measure_at"])
    heads = [probe.weight.detach().clone()] if 0 in steps else []

    def measure(step: int) -> None:
        losses.append(float(probe.loss(train).detach()))
        if step in steps:
            heads.append(probe.weight.detach().clone())

    generator = job.plugin.build().adapt(probe, train)
    reading = meter.pull(generator, f"attacker {job.plugin.name}", job.inputs["steps"], measure)
    weights = torch.stack(heads, 1)
    if not weights.isfinite().all():
        raise PluginError(f"attacker {job.plugin.name} left weights that are not finite")
    tensors = {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "steps": torch.tensor(steps),
        "heads": weights,
    }
    if data.score:
        tensors["scores"] = measures.score(heldout.x @ weights, heldout.y, data.score)
    save(tensors, out / ATTACK)
    reading.save(out)


def _progress(job: Job, parents: Mapping[str, Path], out: Path) -> None:
    attack, reference = (load_tensors(parents[side + "attack"] / ATTACK) for side in ("", "reference_"))
    spectra = (load_tensors(parents[side + "spectrum"] / SPECTRUM) for side in ("", "reference_"))
    role = job.inputs["role"]
    optimum, best = ({name: s[f"{role}.{name}"] for name in ("optimum", "best_loss")} for s in spectra)
    write_figures(measures.progress_figures(attack, optimum, reference, best, job.inputs["gap"]), out)


@torch.no_grad()
def _features(model: Extractor, data: ProbeData, role: Role) -> tuple[Split, Split]:
    """The training and the held-out rows of one side, as the model's features."""
    train, heldout = (
        Split(model(split.x), split.y) for split in (getattr(data.train, role), getattr(data.heldout, role))
    )
    return train, heldout
