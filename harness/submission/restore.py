"""Puts the measured cells of a submission back into a store, so that a run goes on where another machine stopped.

A submission has the values and pictures of its cells with the digests of their files, but no models. A later run reads
these cells from the store and computes the others. Digests reveal damage, but not a forged value.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.files import write_text
from harness.metric import VALUES, dump_values
from harness.plan import make
from harness.store import Store
from harness.submission import read_write
from harness.submission.local_suite import installed_suite, localise, plugin_files
from harness.submission.schema import Cell, Submission, picture_name


def restore(path: Path, store: Store, plugins: Sequence[Path] = ()) -> tuple[list[str], list[str], int]:
    """Add the artifacts of the measuring jobs of the submission `path` to `store`.

    plugins: plugin files of this machine, besides those of the installed suite. Left out are cells that failed, and
    cells whose keys are not in a plan made here: another version of a stage or plugin, or other data. An artifact has
    the mean seconds of its stage. Returns the keys of new artifacts, those that the store had, and the number of cells
    that were left out. Raises `UsageError` for a submission of an earlier version of the harness, and
    `InvalidSubmission` if no plan can be made.
    """
    submission = read_write.read(path)
    if submission.older:
        raise UsageError(f"{path} was made by an earlier version of the harness: this one would compute its cells anew")
    name, installed = submission.suite.name, installed_suite(submission.suite.name)
    folder = installed.parent if installed else Path.cwd()
    jobs = make(localise(submission, folder, plugin_files(name, plugins)).suite).jobs
    seconds = {(cost.track, cost.stage): cost.seconds / max(cost.metered, 1) for cost in submission.costs}
    known = dict.fromkeys(cell.key for cell in submission.cells if store.has(cell.key))
    new: dict[str, None] = {}
    left_out = 0
    for cell in submission.cells:
        if cell.key in known or cell.key in new:
            continue
        if cell.failed is not None or (job := jobs.get(cell.key)) is None:
            left_out += 1
            continue
        about = {
            **job.about,
            "seconds": seconds.get((job.track, job.name), 0.0),
            "machines": submission.machines(cell),
        }
        with store.write(cell.key, about) as out:
            if out is not None:  # no other process has written it meanwhile
                _write_files(submission, cell, path.parent, out)
        new[cell.key] = None
    return list(new), list(known), left_out


def _write_files(submission: Submission, cell: Cell, pictures: Path, out: Path) -> None:
    """Write a cell's values and pictures into the artifact folder `out`. pictures: folder of the pictures."""
    for name in cell.files:
        if name == VALUES:
            write_text(out / name, dump_values(submission.values(cell)))
        else:
            shutil.copy(pictures / picture_name(cell.coordinates, name), out / name)
