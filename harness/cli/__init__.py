"""The command line: `immunebench`."""

from __future__ import annotations

import io
import sys

import typer

from harness.cli import inspect, pages, run, store, submission
from harness.errors import ImmuneBenchError

app = typer.Typer(
    help="Benchmark for model immunization: run suites of defenses against attackers and make leaderboards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
)
for command in (run.run, run.plan, run.release):
    app.command()(command)
app.command("list")(inspect.list_)
for command in (inspect.show, inspect.new, inspect.check):
    app.command()(command)
for command in (submission.submit, submission.verify, submission.leaderboard, submission.boards):
    app.command()(command)
for command in (pages.docs, pages.site):
    app.command()(command)
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command. An error is one line; exit code 2 for wrong use, 1 for failed cells, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal's encoding may lack letters such as κ
    try:
        app(standalone_mode=True)
    except ImmuneBenchError as error:
        print(f"immunebench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
