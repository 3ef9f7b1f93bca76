"""The site of boards (`immunebench site`): static pages that need no network and open from a folder. All values on them
are computed by `harness.leaderboard`."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.files import claim, replacing
from harness.leaderboard.searches import below
from harness.submission.merge import Refuse

SITE = "a site of boards"
"""Owner of the files of a site, see `harness.files.claim`."""


def build(out: Path, source: Path, refuse: Refuse, plugins: tuple[Path, ...] = ()) -> None:
    """Write the site of all boards of the submissions below `source` or, if there are none, of the runs, and of the
    searches for attackers' settings there, into `out`.

    plugins: files with further plugins and tracks. Raises `UsageError` if no submission can be read, for an `out` that
    cannot be written or has anything but a site, and if the libraries of charts and tables are not installed.
    """
    try:
        from harness.site.pages import write
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("itables", "plotly"):
            raise
        raise UsageError("the site needs plotly and itables: pip install 'immunebench[site]'") from None
    from harness.site.view import of_runs, of_submissions

    if source.resolve() in [out.resolve(), *out.resolve().parents]:
        raise UsageError(f"{out} lies in {source}, so the next site would be made of this one; choose another folder")
    claim(out, SITE)
    searches = list(below(source))
    sources = of_submissions(source, refuse, plugins) or of_runs(source, plugins)
    with replacing(out, SITE) as new:
        write(new, sources, plugins, searches)
