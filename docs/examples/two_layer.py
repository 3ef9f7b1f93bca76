"""A track of its own in one file: regression by networks of two layers, all of which an attacker may train.

Jobs of a cell: immunize -> attack -> compare, the last beside the undefended model's own attack.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict

from harness import Attacker, Defense, Field, Measure, Metric, Plugin, PluginSpec, Track
from harness.execution import determinism as stage
from harness.execution import meter
from harness.kit.trial import Trial
from harness.leaderboard.tables import value
from harness.plan import Job, seed_of
from harness.records import write_figures
from harness.suite import Grid


class Data(NamedTuple):
    """Inputs (rows, 8) and outputs (rows, 1) of a task, float64, and the seed to draw from."""

    x: torch.Tensor
    y: torch.Tensor
    seed: int


class _Attacker(Attacker):
    """What this track's attackers have in common."""

    track: ClassVar[str] = "two_layer"


class _Defense(Defense):
    """What this track's defenses have in common."""

    track: ClassVar[str] = "two_layer"


class FullDescent(_Attacker):
    """Gradient descent on both layers (Cauchy, 1847)."""

    deterministic = True
    lr: float = Field(0.05, gt=0, description="step size")

    def adapt(self, model: torch.nn.Sequential, data: Data) -> Iterator[torch.Tensor]:
        """One step at a time, for ever."""
        optimiser = torch.optim.SGD(model.parameters(), lr=self.lr)
        while True:
            optimiser.zero_grad()
            loss = error(model, data)
            loss.backward()
            optimiser.step()
            yield loss


class Shrinking(_Defense):
    """Makes the first layer small (a control): its outputs, and so the gradients of the second, shrink with it."""

    deterministic = True
    share: float = Field(0.1, gt=0, le=1, description="what is left of the weights")

    def immunize(self, model: torch.nn.Sequential, targets: Data) -> Iterator[float]:
        """A closed form."""
        with torch.no_grad():
            next(model.parameters()).mul_(self.share)
        yield 0.0


class Sharpness(Measure):
    """Size of the gradient at the released weights, over draws of the rows (Hochreiter & Schmidhuber, 1997)."""

    track: ClassVar[str] = "two_layer"
    about = Metric(
        name="sharpness",
        title="‖∇L‖",
        scale="log",
        description="norm of the harmful task's gradient at the released weights",
        formula="‖∇L(θ)‖, mean over draws of `rows` rows.",
        limits="How far the attacker gets.",
    )
    rows: int = Field(32, ge=1, description="rows of each draw")

    def measure(self, model: torch.nn.Sequential, targets: Data) -> Iterator[Mapping[str, Any]]:
        """One figure."""
        draw = torch.Generator().manual_seed(targets.seed)
        norms = []
        for _ in range(5):
            at = torch.randint(len(targets.x), (self.rows,), generator=draw)
            loss = error(model, targets._replace(x=targets.x[at], y=targets.y[at]))
            norms.append(torch.cat([of.flatten() for of in torch.autograd.grad(loss, list(model.parameters()))]).norm())
        yield self.figure(float(torch.stack(norms).mean()), role="harmful")


class Task(BaseModel):
    """One entry of a grid's `tasks`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: int = Field(ge=0, description="the number of the random network whose outputs are to be learned")

    def expand(self) -> list["Task"]:
        """Itself."""
        return [self]


class Protocol(BaseModel):
    """A grid's `protocol`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str = Field("none", description="the defense that stands for no defense")
    steps: int = Field(100, ge=1, description="budget of every attacker")


class TwoLayerTrack(Track):
    """Regression by networks of two layers."""

    name = "two_layer"
    task_model = Task
    single_task_model = Task
    protocol_model = Protocol
    metrics = (
        Metric(name="error", title="error", better="higher", scale="log",
               description="mean squared error of the attacked model", formula="mean (f(x) − y)².",
               limits="Whether the released model was good for anything."),
        Metric(name="kept_error", title="error kept", better="higher", scale="log",
               description="error over that of the attacked undefended model", formula="error(θ) / error(θ₀).",
               limits="What a longer attack would do."),
    )  # fmt: skip

    def measurements(self, grid: Grid) -> Iterator[tuple[dict[str, Any], Job]]:
        """For each task, seed and defense: the metric plugins, then every attacker."""
        for task in grid.tasks:
            for seed in grid.seeds:
                for label, defense in grid.defenses.items():
                    at = {
                        "task": f"teacher {task.teacher}",
                        "defense": label,
                        "defense_call": repr(defense),
                        "seed": seed,
                    }
                    model = _job("immunize", task, seed, defense)
                    for metric in grid.metrics.values():
                        yield at, _job("look", task, seed, metric, {"model": model})
                    for name, attacker in grid.attackers.items():
                        arms = {"ours": model, "undefended": _job("immunize", task, seed, grid.reference)}
                        attacks = {
                            arm: _job("attack", task, seed, attacker, {"model": released}, steps=grid.protocol.steps)
                            for arm, released in arms.items()
                        }
                        yield (
                            at | {"attacker": name, "attacker_call": repr(attacker)},
                            _job("compare", task, parents=attacks),
                        )

    def carry_out(self, job: Job, parents: Mapping[str, Path], out: Path) -> None:
        """Compute one job."""
        with stage.alone(job.seed or 0):
            if job.stage == "compare":
                ours, theirs = (stage.load(parents[role] / "model.safetensors")["error"] for role in parents)
                at = {"role": "harmful", "step": job.parents["ours"].inputs["steps"]}
                figures = {"error": ours, "kept_error": ours / theirs}
                write_figures([{"metric": name, "value": float(of), **at} for name, of in figures.items()], out)
                return
            model, data = network(job.seed or 0), task_data(job.inputs["teacher"], job.seed or 0)
            if "model" in parents:
                state = stage.load(parents["model"] / "model.safetensors")
                model.load_state_dict({name: of for name, of in state.items() if name != "error"})
            assert job.plugin is not None
            plugin = job.plugin.build()
            if job.stage == "look":
                write_figures(plugin.measure(model, data), out)
                return
            meter.pull(plugin.generator(model, data), job.plugin.name, job.inputs.get("steps")).save(out)
            stage.save({**model.state_dict(), "error": error(model, data).detach()}, out / "model.safetensors")

    def trials(self, kind: str, seed: int) -> list[Trial]:
        """What the conformance kit tries a plugin on."""
        return [TwoLayerTrial(seed)]

    def table(self, board: pd.DataFrame) -> pd.DataFrame:
        """A row a defense and attacker."""
        rows = []
        for (grid, defense, attacker), cell in board.dropna(subset="attacker").groupby(
            ["grid", "defense", "attacker"], sort=False
        ):
            at = {"grid": grid, "defense": defense, "attacker": attacker}
            rows.append(at | {name: value(cell, name) for name in ("error", "kept_error")})
        return pd.DataFrame(rows)


class TwoLayerTrial(Trial):
    """One network and its task."""

    steps = 40
    broken = 0.5

    def __init__(self, seed: int) -> None:
        self.model, self.data = network(seed), task_data(seed, seed)

    def begin(self, plugin: Plugin) -> Iterator[Any]:
        """The plugin's generator."""
        return plugin.generator(self.model, self.data)

    def modules(self) -> dict[str, torch.nn.Module]:
        """The network."""
        return {"network": self.model}

    def loss(self, plugin: Any) -> float:
        """Its error."""
        return error(self.model, self.data).item()


def _job(
    of: str,
    task: Task,
    seed: int | None = None,
    plugin: PluginSpec | None = None,
    parents: Mapping[str, Job] = {},
    **inputs: Any,
) -> Job:
    drawn = None if seed is None else seed_of(task.teacher, seed)
    inputs |= task.model_dump()
    return Job(track="two_layer", stage=of, version=1, inputs=inputs, plugin=plugin, seed=drawn, parents=parents)


def network(seed: int) -> torch.nn.Sequential:
    """Eight inputs, sixteen tanh units, one output; float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()


def task_data(teacher: int, seed: int) -> Data:
    """What a random network says of 128 random rows."""
    x = torch.randn(128, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(teacher))
    with torch.no_grad():
        return Data(x, network(1000 + teacher)(x), seed)


def error(model: torch.nn.Sequential, data: Data) -> torch.Tensor:
    """Mean squared error."""
    residual: torch.Tensor = model(data.x) - data.y
    return residual.square().mean()
