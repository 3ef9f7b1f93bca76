"""`immunebench store`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Attackers, Defenses, Seeds, Suites
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.store import Store

app = typer.Typer(help="The store of finished jobs: see, share, check and clean it.", no_args_is_help=True)


@app.command("ls")
def ls(suite: Suites = []) -> None:
    """Show how many artifacts of each stage there are, how large, and what they took to compute."""
    from harness.leaderboard.formats import tabulated
    from harness.records import inventory
    from harness.store import Store

    store = Store()
    print(tabulated(inventory(store, _keys(store, suite))))
    print(f"\nin {store.root}/")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="Where to.")],
    suite: Suites = [],
    defense: Defenses = [],
    attacker: Attackers = [],
    seeds: Seeds = None,
) -> None:
    """Write artifacts into one file, so that others need not rerun a suite's baselines, say."""
    from harness.store import Store
    from harness.store import archive as exchange

    store = Store()
    written = exchange.export(store, _keys(store, suite, defense, attacker, seeds), file)
    print(f"{len(written)} artifacts in {file}, {file.stat().st_size / 1e6:.1f} MB")


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What `export` wrote.")]) -> None:
    """Take over the artifacts of such a file; each is checked. They are as true as whoever made them."""
    from harness.store import Store
    from harness.store import archive as exchange

    new, known = exchange.import_(Store(), file)
    print(f"{len(new)} artifacts taken over, {len(known)} were there")


@app.command("verify")
def verify(suite: Suites = []) -> None:
    """Check all digests; what is damaged is set aside, to be computed again (exit code 1)."""
    from harness.store import Store

    store = Store()
    keys = _keys(store, suite)
    damaged = [key for key in keys if store.has(key) and store.open(key) is None]
    print(f"{len(keys)} artifacts checked, {len(damaged)} damaged and set aside")
    raise typer.Exit(1 if damaged else 0)


@app.command("gc")
def gc(
    unused: Annotated[float | None, typer.Option(min=0, help="Also what no run opened for so many days.")] = None,
    keep: Annotated[list[str], typer.Option(help="But nothing of this suite. Repeatable.")] = [],
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Remove what is of no use, and nothing that a run in progress needs.

    That is: damaged and half-written artifacts, and large ones that a run would have dropped had it not been cut off.
    """
    from harness.store import Store

    store = Store()
    freed, count = store.collect(unused and unused * 86400, _keys(store, keep) if keep else (), dry_run)
    print(f"{count} {'would go' if dry_run else 'removed'}, {freed / 1e6:.1f} MB")


def _keys(
    store: Store,
    suites: Sequence[str],
    defenses: Sequence[str] = (),
    attackers: Sequence[str] = (),
    seeds: int | None = None,
) -> list[str]:
    """Of the artifacts that are there, those of these suites; of all, if none is named."""
    from harness.plan import make
    from harness.suite import load

    if not suites:
        if defenses or attackers or seeds:
            raise UsageError("--defense, --attacker and --seeds choose among a suite's rows: name the SUITE too")
        return store.keys()
    plans = [make(load(suite, defenses=defenses, attackers=attackers, seeds=seeds)) for suite in suites]
    return [key for key in dict.fromkeys(key for plan in plans for key in plan.jobs) if store.has(key)]
