"""The site of boards: `immunebench site`. Static pages that need no network and open from a folder; all that they show
is computed by `leaderboard`, `standings` and `flags`."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError


def build(out: Path, source: Path, plugins: tuple[Path, ...] = ()) -> None:
    """Write the site of all boards that can be made of the submissions below `source`, or if there are none of the
    runs, into the folder `out`. plugins: files
    with further plugins and tracks. Raises `UsageError`, also if the libraries of its charts and tables are not
    installed."""
    try:
        from harness.site import pages
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("itables", "plotly"):
            raise
        raise UsageError("the site is made with plotly and itables: pip install 'immunebench[site]'") from None
    from harness.site.view import of_runs, of_submissions

    if source.resolve() in [out.resolve(), *out.resolve().parents]:
        raise UsageError(f"{out} lies in {source}, so the next site would be made of this one; choose another folder")
    pages.build(out, of_submissions(source) or of_runs(source), plugins)
