"""A submission's measured cells go back into a store, and a run goes on from them."""

import pandas as pd
import pytest

from harness.errors import UsageError
from harness.execution import executors, scheduler
from harness.plan import make
from harness.selection import Selection
from harness.store import Store
from harness.submission import read_write
from harness.submission.restore import restore
from harness.suite_reader import load
from tests.helpers import immunebench
from tests.submission import forge
from tests.submission.forge import BAD, OLD, TWO_LAYER, add_picture, find, write_content


@pytest.fixture
def suite(tmp_path):
    return forge.suite_file(tmp_path)


def test_a_run_goes_on_from_a_submission(honest, suite, tmp_path):
    """All cells are there, to the byte; a third seed is computed, and nothing else is measured again."""
    store = Store(tmp_path / "new")
    new, known, left_out = restore(honest, store, [TWO_LAYER])
    plan = make(load(str(suite)))
    assert (set(new), known, left_out) == ({cell.job.key for cell in plan.cells}, [], 0)
    assert plan.missing(store) == {}
    original = Store(honest.parent / "store")
    for key in new:
        assert store.manifest(key)["files"] == original.manifest(key)["files"]
    more = make(load(str(suite), Selection(seeds=3)))
    missing = more.missing(store)
    assert {cell.coordinates["seed"] for cell in more.cells if cell.job.key in missing} == {3}
    assert scheduler.run(more, store, executors.Serial()) == {}
    assert restore(honest, store, [TWO_LAYER])[:2] == ([], new)


def test_the_submission_made_of_it_has_the_same_values(honest, suite, tmp_path):
    store = tmp_path / "new"
    restore(honest, Store(store), [TWO_LAYER])
    again = read_write.read(forge.submitted(suite, tmp_path / "again", store=store))
    assert again.provenance.computed == 0
    columns = ["grid", "task", "defense", "attacker", "seed", "metric", "step", "value"]
    values = [one.records().frame[columns] for one in (again, read_write.read(honest))]
    pd.testing.assert_frame_equal(*values)


def test_other_code_and_failures_are_left_out(content, tmp_path):
    other, failed = find(content, **BAD), find(content, **{**BAD, "seed": 1})
    other["key"] = "0" * 64
    failed.update(failed="no memory", files={}, kind=None, values=[])
    path = write_content(content, tmp_path / "part.json.gz")
    new, known, left_out = restore(path, Store(tmp_path / "new"), [TWO_LAYER])
    assert (len(new), known, left_out) == (28, [], 2)


def test_a_picture_is_read_beside_the_submission(content, tmp_path):
    path = add_picture(content, tmp_path / "pictures")
    cell, other = find(content, measured_by="pictures"), find(content, **BAD)
    cell["key"] = other["key"]
    content["cells"].remove(other)
    store = Store(tmp_path / "new")
    new, _, left_out = restore(write_content(content, path), store, [TWO_LAYER])
    assert (len(new), left_out) == (30, 0)
    assert (store.folder(cell["key"]) / "sheet.png").read_bytes() == b"picture"


def test_an_older_form_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="earlier version of the harness"):
        restore(OLD, Store(tmp_path / "new"))


def test_the_command(honest):
    done = immunebench("store", "import", honest, "--plugin", TWO_LAYER)
    assert (done.returncode, done.stdout) == (0, "30 artifacts imported, 0 were in the store\n")
