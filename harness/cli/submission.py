"""`immunebench submit`, `verify`, `leaderboard` and `boards`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Plugins, Workers
from harness.errors import UsageError


def _print_schema(wanted: bool) -> None:
    if wanted:
        import json

        from harness.submission.schema import Submission

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
    from harness.submission import pack as packing

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
    plugin: Plugins = [],
) -> None:
    """Make boards anew: a run's from its records, or one of several submissions."""
    from harness.leaderboard import render
    from harness.submission import boards

    if what[0].is_file():
        if out is None:
            raise UsageError("say where a board made of submissions goes: --out DIR")
        made = boards.make(what, out, tuple(plugin))
    elif len(what) > 1 or out:
        raise UsageError("give one folder that `run` wrote, or submissions (files) and --out DIR")
    else:
        made = render(what[0], tuple(plugin))
    print(made.markdown())


def boards(
    submissions: Annotated[Path, typer.Option(help="Folder with a folder a board.")] = Path("results/submissions"),
    out: Annotated[Path, typer.Option(help="Where to.")] = Path("results/leaderboards"),
    check: Annotated[bool, typer.Option("--check", help="Only say what there is not so (exit code 1).")] = False,
) -> None:
    """Make the committed boards anew from the committed submissions; nothing is computed."""
    from harness.submission.boards import rebuild, stale

    if not submissions.is_dir():
        raise UsageError(f"{submissions} is no folder; run this in the repository, or give --submissions DIR")
    if check:
        for name in (found := stale(submissions, out)):
            print(name)
        raise typer.Exit(1 if found else 0)
    for made in rebuild(submissions, out):
        print(made)


def verify(
    file: Annotated[Path, typer.Argument(metavar="SUBMISSION", help="What `submit` wrote.")],
    cells: Annotated[int, typer.Option(min=0, help="So many cells, drawn at random, are run again.")] = 5,
    all_: Annotated[bool, typer.Option("--all", help="Run all cells again.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw; at random by default.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run plugin files that it holds. Read them first.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Note the verdict beside it, for boards.")] = False,
    store: Annotated[Path | None, typer.Option(help="Folder to keep in what is computed; no run's store.")] = None,
    files: Annotated[
        Path | None, typer.Option(help="Folder of the files that its suite names; the installed suite's by default.")
    ] = None,
    workers: Workers = None,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds for a job, or it fails.")] = None,
) -> None:
    """Check a submission: its form, digests and plan, and random cells run again (exit code 1: it does not hold)."""
    if not trust:
        os.environ["HF_HUB_OFFLINE"] = "1"  # a submission names base models: nothing is fetched on its word
    from harness.execution import executors
    from harness.execution.progress import Display
    from harness.submission import tier as tiers
    from harness.submission.verify import verify

    with Display() as display:
        report = verify(
            file,
            None if all_ else cells,
            seed=seed,
            trust=trust,
            store=store,
            files=files,
            executor=lambda: executors.local(workers, False),
            progress=display,
            timeout=timeout,
        )
    for line in report.lines:
        print(line)
    for problem in report.problems:
        print(f"does not hold: {problem}")
    if report.verification is None:
        print("verdict: does not hold")
        raise typer.Exit(1)
    print(f"verdict: {report.verification.told}")
    if record:
        tiers.beside(file).write_text(report.verification.model_dump_json(indent=1) + "\n")
        print(f"noted in {tiers.beside(file)}")
