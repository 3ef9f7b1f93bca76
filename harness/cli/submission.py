"""`immunebench submit`, `verify`, `leaderboard` and `boards`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Plugins, Refusals, Workers
from harness.errors import UsageError, printable
from harness.files import check_file, user_path, write_text


def _print_schema(wanted: bool) -> None:
    if wanted:
        import json

        from harness.submission.schema import Submission

        print(json.dumps(Submission.model_json_schema(mode="serialization"), indent=1))
        raise typer.Exit


def submit(
    run: Annotated[Path, typer.Argument(parser=user_path, metavar="DIR", help="Folder that `run` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="File to write, .json.gz or .json (default: results/submissions/SUITE/…).",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Public title of the method or paper.")] = None,
    authors: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Its public authors, separated by commas.")
    ] = None,
    paper: Annotated[str | None, typer.Option(metavar="URL", help="Address of the paper.")] = None,
    code: Annotated[str | None, typer.Option(metavar="URL", help="Address of the code.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a submission of other content.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", is_eager=True, callback=_print_schema, help="Print the file's JSON Schema.")
    ] = False,
) -> None:
    """Pack a finished run into one file that others can verify, with its contact sheets beside it."""
    from harness.selection import checked
    from harness.submission import pack
    from harness.submission.schema import Method

    names = [name.strip() for name in authors.split(",")] if authors else []
    given = {"title": title, "authors": names, "paper": paper, "code": code}
    method = checked(Method, given) if any(given.values()) else None
    path, submission = pack.submit(run, out, method, force)
    failed = sum(cell.failed is not None for cell in submission.cells)
    suite = submission.suite
    print(f"{suite.name} version {suite.version}: {len(submission.cells)} cells, {failed} failed")
    print(f"{path}, {path.stat().st_size / 1e6:.2f} MB. Anonymised{' but for title and authors' if method else ''}.")
    print(f"Check it before you publish it: zcat {path} | less")


def leaderboard(
    source: Annotated[
        list[Path],
        typer.Argument(
            parser=user_path, metavar="DIR|FILE", help="A folder that `run` wrote, or submissions of one suite."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(parser=user_path, metavar="DIR", help="Folder for the board of submissions.")
    ] = None,
    plugin: Plugins = [],
) -> None:
    """Make the board of a run again, or one of several submissions."""
    from harness.leaderboard import boards
    from harness.submission import merge, run_folder
    from harness.submission.run_folder import RUN

    files = source
    if not source[0].is_file():
        if len(source) > 1 or out:
            raise UsageError("name one folder that `run` wrote, or submission files and --out DIR")
        (out,) = source
        files = [out / RUN]
        if not files[0].is_file():
            raise UsageError(f"{out} holds no {RUN}; `immunebench run` writes it")
    elif out is None:
        raise UsageError("name the folder for the board of these submissions: --out DIR")
    loaded = merge.load(files, plugin)
    suite = loaded.records.suite
    run_folder.claim(out, suite)
    board = boards.make(loaded.records)
    with run_folder.replacing(out, suite, run=False) as new:
        boards.write(board, new, loaded.pictures, out)
    print(board.markdown())


def boards(
    submissions: Annotated[
        Path,
        typer.Option(parser=user_path, metavar="DIR", help="Folder with one folder of submissions for each board."),
    ] = Path("results/submissions"),
    out: Annotated[Path, typer.Option(parser=user_path, metavar="DIR", help="Folder to write.")] = Path(
        "results/leaderboards"
    ),
    check: Annotated[bool, typer.Option("--check", help="Check only: list stale boards (exit code 1).")] = False,
) -> None:
    """Make the committed boards again from the committed submissions, without computing anything. Exit code 2: some
    submissions cannot be read; the boards of the others are made."""
    from harness.leaderboard.committed import rebuild, stale

    refused = Refusals()
    if not submissions.is_dir():
        raise UsageError(f"{submissions} is no folder; run this in the repository, or give --submissions DIR")
    if check:
        names = list(stale(submissions, out, refused))
        print("\n".join(names) or f"all {'other ' * bool(refused)}boards are up to date")
        raise typer.Exit(UsageError.exit_code if refused else 1 if names else 0)
    made = []
    for board in rebuild(submissions, out, refused):
        print(board)
        made.append(board)
    if refused:
        raise typer.Exit(UsageError.exit_code)
    if not made:
        raise UsageError(f"{submissions} has no folders of submissions")


def verify(
    file: Annotated[Path, typer.Argument(parser=user_path, metavar="SUBMISSION", help="File that `submit` wrote.")],
    cells: Annotated[int, typer.Option(min=0, metavar="N", help="Number of random cells to run again.")] = 5,
    all_: Annotated[bool, typer.Option("--all", help="Run all cells again.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the random draw of cells.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the plugin files that the submission holds. Read them first.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Write the verdict beside the file, for boards.")] = False,
    store: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="DIR", help="Store for recomputed artifacts (not a run's store)."),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="DIR",
            help="Folder of the files that its suite names (default: the installed suite's).",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str],
        typer.Option(metavar="NAME=DIR", help="Folder with the weights of the checkpoint NAME (repeat for several)."),
    ] = [],
    workers: Workers = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Seconds after which a job fails (default: 86400, 24 hours)."),
    ] = None,
) -> None:
    """Verify a submission: its form, digests and plan, and random cells run again. Exit code 1: not verified."""
    if not trust:
        os.environ["HF_HUB_OFFLINE"] = "1"  # a submission names base models: do not download what it names
    from harness.execution import executors
    from harness.execution.progress import Display
    from harness.selection import Selection
    from harness.submission import read_write, tier
    from harness.submission.verify import verify

    note = tier.verification_file(file)
    if record:
        check_file(note)
    with Display() as display:
        report = verify(
            file,
            None if all_ else cells,
            seed=seed,
            trust=trust,
            store=store,
            files=files,
            checkpoints=Selection.of(checkpoints=checkpoint).folders,
            executor=lambda: executors.local(workers),
            progress=display,
            timeout=timeout,
        )
    for text in [*report.lines, *(f"problem: {problem}" for problem in report.problems)]:
        print(printable(text))
    if report.verification is None:
        print("verdict: not verified")
        raise typer.Exit(1)
    count = tier.ineligible(read_write.read(file), report.unchecked)
    verification = report.verification.model_copy(update={"ineligible": count})
    print(f"verdict: {verification.summary}")
    if record:
        write_text(note, verification.model_dump_json(indent=1) + "\n")
        print(f"written to {note}")
