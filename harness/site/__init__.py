"""The site of boards (`immunebench site`): static pages that need no network and open from a folder. All values on them
are computed by `harness.leaderboard`."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError


def build(out: Path, source: Path, plugins: tuple[Path, ...] = ()) -> None:
    """Write the site of all boards of the submissions below `source` or, if there are none, of the runs, into `out`.

    plugins: files with further plugins and tracks. Raises `UsageError` for submissions that do not go together, for an
    `out` that holds anything but a site, and if the libraries of charts and tables are not installed.
    """
    try:
        from harness.site.build import write
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("itables", "plotly"):
            raise
        raise UsageError("the site needs plotly and itables: pip install 'immunebench[site]'") from None
    from harness.site.view import of_runs, of_submissions

    if source.resolve() in [out.resolve(), *out.resolve().parents]:
        raise UsageError(f"{out} lies in {source}, so the next site would be made of this one; choose another folder")
    write(out, of_submissions(source, plugins) or of_runs(source, plugins), plugins)
