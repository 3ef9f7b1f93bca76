"""Cells of several machines in one submission."""

import shutil

import numpy as np
import pytest

from harness import machine
from harness.execution import executors
from harness.execution.worker import ensure
from harness.plan import make
from harness.store import Store
from harness.submission import read_write
from harness.submission.restore import restore
from harness.submission.schema import InvalidSubmission
from harness.submission.verify import verify
from harness.suite_reader import load
from tests.submission.forge import BAD, TWO_LAYER, content_of, find, reseal, submitted, suite_file, write_content


@pytest.fixture
def move(monkeypatch):
    """`move()`: go on with another processor; returns the line of the machine so far."""

    def move():
        before = machine.here()
        monkeypatch.setattr(machine, "processor", lambda: "another processor")
        machine.here.cache_clear()
        return before

    yield move
    monkeypatch.undo()
    machine.here.cache_clear()


def test_imported_cells_keep_their_machine(honest, tmp_path, move):
    """Also in the submission of the run that goes on with them, and in the board's line about it."""
    before = move()
    store = tmp_path / "store"
    imported, _, _ = restore(honest, Store(store), [TWO_LAYER])
    suite = suite_file(tmp_path)
    again = read_write.read(submitted(suite, tmp_path / "again", store=store, seeds=3))
    assert {again.machines(cell)[0] for cell in again.cells if cell.key in imported} == {before}
    others = [cell for cell in again.cells if cell.key not in imported]
    assert others
    assert {(*again.machines(cell), *cell.machines) for cell in others} == {(machine.here(),)}
    assert again.provenance.summary.endswith(f"; some cells: {before.rpartition('; ')[2]}")
    further = Store(tmp_path / "further")
    restore(tmp_path / "again" / "sub.json.gz", further, [TWO_LAYER])
    assert further.manifest(imported[0])["machines"] == [before]
    assert further.manifest(others[0].key)["machines"] == [machine.here()]


def test_a_run_of_one_machine_names_it_once(honest):
    assert "machines" not in content_of(honest)["provenance"]
    assert not any(cell.machines for cell in read_write.read(honest).cells)


def test_a_cell_has_the_machines_of_all_its_jobs(honest, tmp_path, move):
    store = Store(shutil.copytree(honest.parent / "store", tmp_path / "store"))
    job = next(cell.job for cell in make(load(str(suite_file(tmp_path)))).cells if cell.job.parents)
    for parent in job.parents:
        ensure(parent, store)
    store.discard(job.key)
    before = move()
    ensure(job, store)
    assert store.manifest(job.key)["machines"] == sorted([before, machine.here()])


def test_each_cell_is_compared_as_its_machine_allows(tmp_path):
    """A value of another machine may differ by the spread over seeds, although most cells of the file are of this one
    and agree exactly."""
    path = submitted(suite_file(tmp_path, seeds=3), tmp_path, defenses=["none", "shrinking"])
    content = content_of(path)
    values = [find(content, **{**BAD, "seed": seed})["values"][0] for seed in (1, 2, 3)]
    cell = find(content, **BAD)
    cell["values"][0] += 0.5 * np.std(values)
    reseal(content, cell)
    content["provenance"]["machines"] = ["Python 3.11, torch 1.0; another processor"]
    cell["machines"] = [0]
    report = verify(write_content(content, path), None, plugins=[TWO_LAYER], executor=executors.Serial)
    assert report.problems == []
    assert report.verification.interval == 1
    assert any(f"torch 1.0; another processor there, {machine.here()} here" in line for line in report.lines)


def test_a_machine_that_is_not_named_is_refused(content, tmp_path):
    content["cells"][0]["machines"] = [0]
    with pytest.raises(InvalidSubmission, match="it names a machine that the provenance does not have"):
        read_write.read(write_content(content, tmp_path / "bad.json"))
