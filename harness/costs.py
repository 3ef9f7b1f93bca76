"""Run costs: what a defense or an attack took, measured by the engine on every track."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from harness.meter import Reading
from harness.metric import Quantity, Value, write_values
from harness.stage import Folders, Stage

COSTS = (
    Quantity(
        name="seconds",
        title="s",
        unit="s",
        description="time inside the defense or, of a row with an attacker, inside one attack",
        formula="Wall time within the plugin's own generator on one thread; mean over a cell's attacks.",
        limits="What another machine, or a busy one, would take.",
    ),
    Quantity(
        name="peak_mb",
        title="MiB",
        unit="MiB",
        description="highest resident memory while the defense or attack ran, less that at its start",
        formula="Peak of the process's resident set less the resident set at the start; maximum over a cell's attacks.",
        limits="Memory that the process had freed and used again; memory of a GPU.",
    ),
    Quantity(
        name="plugin_steps",
        title="steps",
        unit="steps",
        description="steps that the defense or attack took",
        formula="How often the plugin's generator yielded; mean over a cell's attacks.",
        limits="What a step costs.",
    ),
    Quantity(
        name="noted",
        title="noted",
        description="numbers that a plugin notes of itself, by variant: a merge's condition numbers, for example",
        variant="variant: the name of the note.",
        limits="What the harness has measured itself.",
    ),
)
"""What the engine measures of every row."""
COST_UNITS = ("s", "MiB")
"""Units of quantities that differ from machine to machine."""


class RunCost(Stage, track="engine", version=1):
    """The run cost of a defense, or of an attacker's runs in one cell, from the readings in their artifacts."""

    jobs: tuple[Stage, ...]

    def run(self, folders: Folders, out: Path) -> None:
        """Write `seconds`, `peak_mb`, `plugin_steps` and `noted` values."""
        readings = [Reading.load(folders[job]) for job in self.jobs]
        values: list[Value] = [
            {"metric": "seconds", "value": fmean(reading.seconds for reading in readings)},
            {"metric": "peak_mb", "value": max(reading.peak_mb for reading in readings)},
            {"metric": "plugin_steps", "value": fmean(reading.steps for reading in readings)},
        ]
        for name in readings[0].notes:
            number = fmean(reading.notes[name] for reading in readings)
            values.append({"metric": "noted", "variant": name, "value": number})
        write_values(values, out)
