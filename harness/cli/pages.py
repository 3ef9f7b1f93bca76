"""`immunebench docs` and `site`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Plugins, Refusals
from harness.errors import UsageError
from harness.files import user_path


def docs(
    out: Annotated[Path, typer.Argument(parser=user_path, metavar="DIR", help="Folder to write.")] = Path("site"),
    plugin: Plugins = [],
) -> None:
    """Build the documentation, with a page for each installed plugin."""
    from harness.cli import reference

    reference.build(out, plugin)
    print(f"open {out}/index.html")


def site(
    out: Annotated[Path, typer.Argument(parser=user_path, metavar="DIR", help="Folder to write.")] = Path("public"),
    source: Annotated[
        Path, typer.Option("--from", parser=user_path, metavar="DIR", help="Folder with submissions or runs.")
    ] = Path("results"),
    plugin: Plugins = [],
) -> None:
    """Build the website of boards; it can be read without a network. Exit code 2: some submissions cannot be read; the
    boards of the others are made."""
    from harness.site import build
    from harness.submission.run_folder import RUN
    from harness.submission.tier import submissions_below

    submissions = [file for files in submissions_below(source).values() for file in files]
    files, kind = (submissions, "submission") if submissions else (list(source.rglob(RUN)), "run")
    print(f"making the website from {len(files)} {kind}{'s' * (len(files) != 1)} in {source}/", flush=True)
    refused = Refusals()
    build(out, source, refused, tuple(plugin))
    print(f"the website is in {out}/: open {out}/index.html")
    if refused:
        raise typer.Exit(UsageError.exit_code)
