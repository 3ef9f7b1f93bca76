"""The command line: `immunebench`."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from harness.cli import inspect, pages, run, store, submission, tune
from harness.cli.options import Command
from harness.errors import ImmuneBenchError
from harness.execution.failure import line
from harness.interrupts import Stopped, contained, stoppable

app = typer.Typer(
    help="Benchmark for model immunization: run suites of defenses against attackers and make leaderboards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """The command `function`, which plugin code cannot end and a signal can."""

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        try:
            with contained():
                function(**arguments)
        except Stopped as stop:
            print(f"stopped by {stop}", file=sys.stderr)
            raise typer.Exit(stop.exit_code) from None

    return command


for function in (run.run, run.attack, run.plan, tune.tune, run.release):
    app.command(cls=Command)(_command(function))
app.command("list", cls=Command)(_command(inspect.list_))
for function in (inspect.show, inspect.new, inspect.check):
    app.command(cls=Command)(_command(function))
for function in (submission.submit, submission.verify, submission.leaderboard, submission.boards):
    app.command(cls=Command)(_command(function))
for function in (pages.docs, pages.site):
    app.command(cls=Command)(_command(function))
app.add_typer(store.app, name="store")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"immunebench {version('immunebench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command. An error is one line; exit code 2 for wrong use, 1 for failed cells, 128 and its number after a
    signal: 130 after Ctrl-C, 143 after SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the terminal's encoding may lack letters such as κ
    try:
        with stoppable("SIGINT", "SIGTERM", "SIGHUP"):
            app(standalone_mode=True)
    except ImmuneBenchError as error:
        print(f"immunebench: {line(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped as stop:
        sys.exit(stop.exit_code)
