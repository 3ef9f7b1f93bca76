"""A whole track in one file: regression by networks of two layers, all of which an attacker may train.

Jobs of a cell: immunize -> attack -> measure, the last beside the attack on the undefended model.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

import harness
from harness import Field, Folders, Quantity, Stage, Value


class Data(NamedTuple):
    """Inputs (rows, 8) and outputs (rows, 1) of a task, float64, and the seed of a plugin's draws."""

    x: torch.Tensor
    y: torch.Tensor
    seed: int


class FullDescent(harness.Attacker):
    """Gradient descent on both layers (Cauchy, 1847)."""

    track = "two_layer"
    deterministic = True
    lr: float = Field(0.05, gt=0, description="step size")

    def adapt(self, model: torch.nn.Sequential, data: Data) -> Iterator[torch.Tensor]:
        weights = list(model.parameters())
        while True:
            loss = error(model, data)
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.data.sub_(gradient, alpha=self.lr)
            yield loss


class Shrinking(harness.Defense):
    """Scales the first layer down (a control), and with it the gradients of the second."""

    track = "two_layer"
    deterministic = True
    share: float = Field(0.1, gt=0, le=1, description="factor on the weights")

    def immunize(self, model: torch.nn.Sequential, targets: Data) -> Iterator[float]:
        with torch.no_grad():
            next(model.parameters()).mul_(self.share)
        yield 0.0


class Sharpness(harness.Metric):
    """Norm of the gradient at the released weights, on drawn rows (Hochreiter & Schmidhuber, 1997)."""

    track = "two_layer"
    quantities = (Quantity(name="sharpness", title="‖∇L‖", scale="log", description="norm of the harmful gradient"),)
    rows: int = Field(32, ge=1, description="rows drawn")

    def measure(self, model: torch.nn.Sequential, data: Data) -> Iterator[Value]:
        rows = torch.randint(len(data.x), (self.rows,), generator=torch.Generator().manual_seed(data.seed))
        loss = error(model, data._replace(x=data.x[rows], y=data.y[rows]))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        yield self.value(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()), role="harmful")


class AttackedError(harness.Metric):
    """Error of the attacked model, and its ratio to that of the attacked undefended one (Gauss, 1809)."""

    track = "two_layer"
    deterministic = True
    measures = "attacked"
    quantities = (
        Quantity(name="error", title="error", better="higher", scale="log", description="mean (f(x) − y)²"),
        Quantity(name="error_ratio", title="ratio", better="higher", scale="log", description="error(θ) / error(θ₀)"),
    )

    def measure(self, model: Mapping[str, torch.nn.Sequential], data: Data) -> Iterator[Value]:
        errors = {name: error(network, data).item() for name, network in model.items()}
        yield self.value(errors["attacked"], "error", role="harmful")
        yield self.value(errors["attacked"] / errors["undefended"], "error_ratio", role="harmful")


class Task(harness.Task):
    """Regression on the outputs of a random network."""

    teacher: int = Field(ge=0, description="seed of that network")

    def data(self, seed: int | None) -> Data:
        """Its 128 rows."""
        x = torch.randn(128, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(self.teacher))
        return Data(x, network(1000 + self.teacher)(x).detach(), seed or 0)


class Adapt(Stage, track="two_layer", version=1):
    """Run a defense on the base model, or an attacker for some steps on a released model; save the weights."""

    task: Task
    steps: int | None = None
    model: Stage | None = None

    def run(self, folders: Folders, out: Path) -> None:
        model = network(self.task.teacher, folders[self.model] if self.model else None)
        self.pull(self.plugin.build().generator(model, self.task.data(self.seed)), out, self.steps)
        harness.save_tensors(model.state_dict(), out / "model.safetensors")


class Measure(Stage, track="two_layer", version=1):
    """Measure a metric on the `released` model, or on the `attacked` one and the attacked `undefended` one."""

    task: Task
    models: Mapping[str, Stage]

    def run(self, folders: Folders, out: Path) -> None:
        models = {name: network(0, folders[job]) for name, job in self.models.items()}
        self.measure(models.get("released", models), self.task.data(self.seed), out)


class TwoLayerTrack(harness.Track):
    """Regression by networks of two layers."""

    name = "two_layer"
    task_model = single_task_model = Task
    metrics = ("attacked_error",)

    def immunize(self, repetition, defense):
        return repetition.job(Adapt, defense)

    def attacks(self, repetition, model, attacker):
        return [repetition.job(Adapt, attacker, steps=repetition.protocol.steps, model=model)]

    def measure(self, repetition, metric, model, undefended, attacker=None):
        models = {"attacked": model, "undefended": undefended} if attacker else {"released": model}
        if attacker:
            models = {name: self.attacks(repetition, side, attacker)[0] for name, side in models.items()}
        yield {}, repetition.job(Measure, metric, models=models)

    def trials(self, kind, seed):
        model, data = network(seed), Task(teacher=seed + 1).data(seed)

        def start(plugin: harness.Plugin) -> Iterator[Any]:
            attacked = getattr(plugin, "measures", "released") == "attacked"
            return plugin.generator({"attacked": model, "undefended": model} if attacked else model, data)

        return [harness.Trial(steps=40, modules={"net": model}, start=start, loss=lambda _: error(model, data).item())]


def network(seed: int, weights: Path | None = None) -> torch.nn.Sequential:
    """Eight inputs, sixteen tanh units, one output; float64. weights: an artifact's folder; None: drawn by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    if weights is not None:
        model.load_state_dict(harness.load_tensors(weights / "model.safetensors"))
    return model


def error(model: torch.nn.Sequential, data: Data) -> torch.Tensor:
    return (model(data.x) - data.y).square().mean()
