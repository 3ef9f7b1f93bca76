"""`immunebench store`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Command, Suites, selection_options
from harness.errors import UsageError
from harness.files import user_path
from harness.selection import Selection

if TYPE_CHECKING:
    from harness.store import Store

app = typer.Typer(help="List, share, verify and clean the store of finished jobs.", no_args_is_help=True)


@app.command("ls", cls=Command)
def ls(suite: Suites = []) -> None:
    """List the artifacts by stage: their number, size and computing time."""
    from tabulate import tabulate

    from harness.store import Store

    store = Store()
    stages: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for key in _keys(store, suite):
        size = store.size(key) / 1e6
        try:
            manifest = store.manifest(key)
        except (OSError, ValueError):
            stages["", "damaged"].append((size, 0.0))
        else:
            stages[manifest["track"], manifest["stage"]].append((size, manifest["seconds"]))
    rows = [(*stage, len(costs), *(f"{sum(column):.1f}" for column in zip(*costs, strict=True)))
            for stage, costs in stages.items()]  # fmt: skip
    print(tabulate(rows, ["track", "stage", "artifacts", "MB", "seconds"], "github", disable_numparse=True))
    print(f"\nin {store.root}/")


@app.command("export", cls=Command)
@selection_options()
def export(
    file: Annotated[Path, typer.Argument(parser=user_path, metavar="FILE.tar", help="File to write.")],
    suite: Suites = [],
    *,
    selection: Selection,
) -> None:
    """Write artifacts into one file, for example a suite's baselines, so that others need not compute them."""
    from harness.store import Store, archive

    store = Store()
    written = archive.export(store, _keys(store, suite, selection), file)
    print(f"{len(written)} artifacts, {file.stat().st_size / 1e6:.1f} MB, in {file}")


@app.command("import", cls=Command)
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            parser=user_path, metavar="FILE", help="File that `export` wrote (.tar), or a submission (.json.gz)."
        ),
    ],
    plugin: Annotated[
        list[Path],
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="A plugin file that the submission's suite needs (repeat for several).",
        ),
    ] = [],
) -> None:
    """Add the artifacts of such a file, or the measured cells of a submission, so that a run goes on from there. Damage
    is detected, forged values are not: import from people you trust."""
    from harness.store import Store, archive
    from harness.submission.restore import restore

    if file.suffix == ".tar":
        new, known = archive.import_(Store(), file)
        left_out = 0
    else:
        new, known, left_out = restore(file, Store(), plugin)
    rest = f", {left_out} cells left out: failed, or of other code or data than here" if left_out else ""
    print(f"{len(new)} artifacts imported, {len(known)} were in the store{rest}")


@app.command("verify", cls=Command)
def verify(suite: Suites = []) -> None:
    """Check the digests of all files; damaged artifacts are set aside (exit code 1)."""
    from harness.store import Store

    store = Store()
    keys = _keys(store, suite)
    damaged = [key for key in keys if store.has(key) and store.open(key) is None]
    print(f"{len(keys)} artifacts checked, {len(damaged)} damaged and set aside")
    raise typer.Exit(1 if damaged else 0)


@app.command("gc", cls=Command)
def gc(
    unused: Annotated[
        float | None, typer.Option(min=0, metavar="N", help="Also remove artifacts unused for N days.")
    ] = None,
    keep: Annotated[
        list[str], typer.Option(metavar="SUITE", help="Keep this suite's artifacts (repeat for several).")
    ] = [],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed.")] = False,
) -> None:
    """Remove damaged and unfinished artifacts, and released models that an interrupted run left. Artifacts of a run in
    progress are kept."""
    from harness.store import Store

    store = Store()
    freed, count = store.collect(unused and unused * 86400, _keys(store, keep) if keep else (), dry_run)
    print(f"{count} {'to remove' if dry_run else 'removed'}, {freed / 1e6:.1f} MB")


def _keys(store: Store, suites: Sequence[str], selection: Selection | None = None) -> list[str]:
    """The keys of the store's artifacts: those of some suites, or all if none is named."""
    from harness.plan import make
    from harness.suite_reader import load

    selection = selection or Selection()
    if not suites:
        if selection != Selection():
            raise UsageError("the options select a part of a suite: name the SUITE too")
        return store.keys()
    plans = [make(load(suite, selection)) for suite in suites]
    return [key for key in dict.fromkeys(key for plan in plans for key in plan.jobs) if store.has(key)]
