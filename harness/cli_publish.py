"""`immunebench submit`, `immunebench boards` and `immunebench leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.errors import UsageError


def _print_schema(wanted: bool) -> None:
    if wanted:
        import json

        from harness.submission import Submission

        print(json.dumps(Submission.model_json_schema(), indent=1))
        raise typer.Exit


def submit(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `run` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="File, .json.gz or .json; results/submissions/SUITE/… by default.")
    ] = None,
    schema: Annotated[
        bool,
        typer.Option("--schema", is_eager=True, callback=_print_schema, help="Print the JSON Schema of the file."),
    ] = False,
) -> None:
    """Pack a finished run into one file that others can check, with its contact sheets beside it."""
    from harness import packing

    path, found = packing.submit(run, out)
    holes = sum(cell.failed is not None for cell in found.cells)
    print(f"{found.suite.name} version {found.suite.version}: {len(found.cells)} cells, {holes} of them failed")
    print(f"{path}, {path.stat().st_size / 1e6:.2f} MB; it names no person, machine or folder, but see for yourself")


def leaderboard(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="DIR|FILE...", help="A folder that `run` wrote, or submissions of one suite."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for a board made of submissions.")] = None,
) -> None:
    """Make boards anew: a run's from its records, or one of several submissions."""
    from harness import boards
    from harness.leaderboard import markdown, render

    if what[0].is_dir():
        if len(what) > 1 or out:
            raise UsageError("give one folder that `run` wrote, or submissions (files) and --out DIR")
        tables = render(what[0])[1]
    elif out is None:
        raise UsageError("say where a board made of submissions goes: --out DIR")
    else:
        tables = boards.make(what, out)
    for table in tables.values():
        print(markdown(table))
        print(f"\n{table.attrs.get('caption', '')}")


def boards(
    submissions: Annotated[Path, typer.Option(help="Folder with a folder a board.")] = Path("results/submissions"),
    out: Annotated[Path, typer.Option(help="Where to.")] = Path("results/leaderboards"),
    check: Annotated[bool, typer.Option("--check", help="Only say what there is not so (exit code 1).")] = False,
) -> None:
    """Make the committed boards anew from the committed submissions; nothing is computed."""
    from harness.boards import rebuild, stale

    if not submissions.is_dir():
        raise UsageError(f"{submissions} is no folder; run this in the repository, or give --submissions DIR")
    if check:
        for name in (found := stale(submissions, out)):
            print(name)
        raise typer.Exit(1 if found else 0)
    for made in rebuild(submissions, out):
        print(made)
