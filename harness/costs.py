"""Run costs: what a defense or an attack took, measured by the engine on every track."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from harness.meter import NORM, Cost
from harness.metric import Quantity, Value, write_values
from harness.stage import Folders, Stage

COSTS = (
    Quantity(
        name="seconds",
        title="s",
        unit="s",
        description="time inside the defense or, of a row with an attacker, inside one attack",
        formula="Wall time within the plugin's own generator on one thread; mean over a cell's attacks.",
        limits="It does not transfer to another machine, or to the same machine under load.",
    ),
    Quantity(
        name="peak_mb",
        title="MiB",
        unit="MiB",
        description="highest memory while the defense or attack ran, less that at its start: of the GPU if it used one",
        formula="Peak of the memory that torch allocates on the GPU, if it rises, else of the process's resident set, "
        "less the same at the start; maximum over a cell's attacks.",
        limits="With a GPU it leaves out the host's memory; without one, memory that the process freed before and uses "
        "again.",
    ),
    Quantity(
        name="plugin_steps",
        title="steps",
        unit="steps",
        description="steps that the defense or attack took",
        formula="Number of times that the plugin's generator yielded; mean over a cell's attacks.",
        limits="Steps of different plugins differ in cost.",
    ),
    Quantity(
        name="gradients",
        title="gradient evaluations",
        unit="gradient evaluations",
        description="evaluations of the model's gradient within the defense or attack, up to a step of an attack",
        formula="Number of evaluations of the loss with its gradient; a product of a line search is half of one; mean "
        "over a cell's attacks.",
        limits="Work that evaluates no gradient, a factorisation for example, is in the seconds only.",
    ),
    Quantity(
        name="samples",
        title="samples",
        unit="samples",
        description="rows or pictures that a defense or attack read, up to a step of an attack",
        formula="Sum of the batch sizes of all gradient evaluations; mean over a cell's attacks.",
        limits="A row that is read twice counts twice, so it does not show how much data an attacker must have.",
    ),
    Quantity(
        name="noted",
        title="noted",
        description="numbers that a plugin reports itself, by variant: a merge's condition numbers, for example",
        variant="variant: the name of the number.",
        limits="The plugin reports these numbers; the harness does not check them.",
    ),
)
"""The quantities that the engine measures for every row."""
COST = "cost"
"""Coordinate `measured_by` of run costs."""
COUNTED = ("gradients", "samples")
"""Names of the quantities that models count, see `harness.meter.count_gradient`."""
COST_UNITS = ("s", "MiB")
"""Units of quantities that differ from machine to machine."""
LARGEST_COST = 1e8
"""Seconds or MiB that no job can have taken: three years, a hundred terabytes. None takes less than 0."""


class RunCost(Stage, track="engine", version=2):
    """Measure the run cost of a defense, or of an attacker's runs in one cell.

    jobs: the jobs whose artifacts hold the costs.
    """

    jobs: tuple[Stage, ...]

    def run(self, folders: Folders, out: Path) -> None:
        """Write the values of `COSTS`, and what was spent up to each marked step."""
        costs = [Cost.load(folders[job]) for job in self.jobs]
        values: list[Value] = [
            {"metric": "seconds", "value": fmean(cost.seconds for cost in costs)},
            {"metric": "peak_mb", "value": max(cost.peak_mb for cost in costs)},
            {"metric": "plugin_steps", "value": fmean(cost.steps for cost in costs)},
            *({"metric": name, "value": fmean(getattr(cost, name) for cost in costs)} for name in COUNTED),
        ]
        for step in costs[0].at:
            for name in (*COUNTED, "seconds"):
                number = fmean(getattr(cost.at[step], name) for cost in costs)
                values.append({"metric": name, "value": number, "step": step})
        for name in costs[0].notes:
            number = fmean(cost.notes[name] for cost in costs)
            flag = {"flag": "large-weights"} if name == NORM else {}
            values.append({"metric": "noted", "variant": name, "value": number, **flag})
        write_values(values, out)
