"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or a YAML file.")]
Grids = Annotated[list[str], typer.Option("--grid", help="Only this grid of the suite. Repeatable.")]
Defenses = Annotated[list[str], typer.Option("--defense", help="Only this row, or a further plugin. Repeatable.")]
Attackers = Annotated[list[str], typer.Option("--attacker", help="Only this row, or a further plugin. Repeatable.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds 1 … N instead of the suite's.")]
Settings = Annotated[list[str], typer.Option("--set", help="attackers.LABEL.FIELD=VALUE or defenses.… Repeatable.")]
Plugins = Annotated[list[Path], typer.Option("--plugin", help="A file with plugins of your own. Repeatable.")]
Base = Annotated[str | None, typer.Option("--base", help="One of the suite's other base models, e.g. v1-4.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Local processes; one a GPU, else one a core by default.")]
Suites = Annotated[list[str], typer.Argument(metavar="[SUITE]...", help="Of these suites only; by default all.")]
