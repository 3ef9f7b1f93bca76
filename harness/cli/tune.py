"""`immunebench tune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import SuiteName, Workers, selection_options
from harness.files import user_path
from harness.selection import Selection


@selection_options()
def tune(
    suite: SuiteName,
    trials: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Trials of each attacker against each defense.")
    ] = 40,
    epsilon: Annotated[
        float,
        typer.Option(
            min=0, max=0.99, metavar="SHARE", help="Share of the released model's retention that an attack may destroy."
        ),
    ] = 0.05,
    out: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="DIR", help="Folder for the results (default: results/tuned/SUITE)."),
    ] = None,
    workers: Workers = None,
    *,
    selection: Selection,
) -> None:
    """Search settings of attackers against each defense, on tasks and seeds that the suite does not report.

    Writes tuned.yaml, which a suite's attacker row names as `tuned`, the trials as a table and a picture, and their
    cells as a submission. The same command continues a search that was stopped.
    """
    from harness.tuning import api

    done = api.tune(
        suite, trials=trials, epsilon=epsilon, out=out, workers=workers, say=lambda line: print(line, file=sys.stderr),
        **dict(selection),
    )  # fmt: skip
    print(done.text)
    print(f"results are in {done.out}/")
    if done.failed:
        print(f"{len(done.failed)} jobs failed: their trials count as none", file=sys.stderr)
        raise typer.Exit(1)
