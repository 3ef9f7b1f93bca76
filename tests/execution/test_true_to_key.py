"""No artifact under a key that did not make it: code and files are checked around a job. No job changes the process for
the next one."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.bounded import file_digest
from harness.errors import RunError
from harness.execution import determinism, worker
from harness.execution.worker import RunSite, ensure, perform
from harness.stage import Content, Folders, Located, Stage
from harness.store import Store
from tests.runs import plan, run

SELF_EDITING = '''
"""Defenses that somebody edits while they run."""
from pathlib import Path

from harness import Defense

FILE = Path(__file__)


class Edited(Defense):
    """Its file is another one in the end (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        yield 0.0
        FILE.write_text(FILE.read_text() + "EDITED = True\\n")


class Restored(Defense):
    """Its file is another one for a time (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        text = FILE.read_text()
        FILE.write_text(text + "EDITED = True\\n")
        yield 0.0
        FILE.write_text(text)


class Exits(Defense):
    """Ends the process, as it thinks (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        yield 0.0
        raise SystemExit(0)


class Interrupts(Defense):
    """Raises what Ctrl-C raises (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        yield 0.0
        raise KeyboardInterrupt


class Speaks(Defense):
    """Raises a text that no file can take (test)."""

    track = "two_layer"

    def immunize(self, model, targets):
        yield 0.0
        raise ValueError("\\udc80 \\x1b[31m")
'''
REASONS = {
    "edited": "has other code here",
    "restored": "was changed while it ran",
    "exits": "plugin code called sys.exit(0) at",
    "interrupts": "plugin code raised KeyboardInterrupt() at",
    "speaks": r"\udc80 \x1b[31m",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_job_that_cannot_be_kept_is_a_failed_cell(tmp_path, name):
    path = tmp_path / "mine.py"
    path.write_text(SELF_EDITING)
    result = run(plugins=[path], defenses=["none", name], attackers=["full_descent"], seeds=1)
    rows = result.values.groupby("defense")
    assert rows["status"].unique().map(list).to_dict() == {name: ["failed"], "none": ["ok"]}
    assert rows.get_group(name)["note"].str.contains(REASONS[name], regex=False).all()
    made = {job.key for job in result.plan.jobs.values() if job.plugin and job.plugin.name == name}
    assert made
    assert not made & {*Store().keys()}


def _text(path: str) -> str | None:
    return file_digest(Path(path)) if Path(path).is_file() else None


def _only(path: str) -> list[Path]:
    return [Path(path)]


FILE = Content(_only, _text)


class Reads(Stage, track="test", version=1):
    """Copies a file, and lets somebody edit it meanwhile."""

    file: Located
    meanwhile: str = ""

    def run(self, folders: Folders, out: Path) -> None:
        """Copy it."""
        text = Path(self.file.path).read_text()
        for edit in filter(None, self.meanwhile.split(",")):
            rewrite(Path(self.file.path), edit)
        (out / "copy").write_text(text)


def rewrite(path: Path, text: str) -> None:
    """Write other content of the same size and time."""
    stat = path.stat()
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_text("one")
    return path


def test_files_of_the_plan_are_read(weights):
    folder = ensure(Reads(file=Located.of(str(weights), FILE)), Store())
    assert (folder / "copy").read_text() == "one"


def test_a_file_that_changes_between_plan_and_job_is_refused(weights):
    job = Reads(file=Located.of(str(weights), FILE))
    rewrite(weights, "two")
    with pytest.raises(RunError, match=r"has other content here .* than in the plan"):
        ensure(job, Store())
    again = Reads(file=Located.of(str(weights), FILE))
    assert again.key != job.key
    assert (ensure(again, Store()) / "copy").read_text() == "two"


@pytest.mark.parametrize("edits", ["two", "two,one"])
def test_a_file_that_changes_while_a_job_reads_it_is_refused(weights, edits):
    job, store = Reads(file=Located.of(str(weights), FILE), meanwhile=edits), Store()
    with pytest.raises(RunError, match=r"has other content here|was changed while it ran"):
        ensure(job, store)
    assert not store.has(job.key)


def test_a_file_that_was_unreadable_when_the_run_was_planned_is_not_read(tmp_path):
    job = Reads(file=Located.of(str(tmp_path / "late"), FILE))
    assert job.file.digest is None
    (tmp_path / "late").write_text("one")
    with pytest.raises(RunError, match="has other content here"):
        ensure(job, Store())


def test_the_same_file_elsewhere_is_the_same(weights, tmp_path, monkeypatch):
    """A worker on another machine sees another inode; a file that has its version is not hashed again."""
    located = Located.of(str(weights), FILE)
    monkeypatch.setattr("tests.execution.test_true_to_key.file_digest", lambda path: pytest.fail("hashed again"))
    located.check()
    monkeypatch.undo()
    copy = tmp_path / "copy"
    copy.write_text("one")
    replace(located, path=str(copy)).check()
    assert pickle.loads(pickle.dumps(located)).check() == located.versions


def test_a_worker_whose_track_differs_says_so():
    """The key that the worker computes is another one: its track or its harness has another version."""
    store, job = Store(), next(iter(plan().jobs.values()))
    outcome = perform("0" * 64, pickle.dumps(job), RunSite(store.root, store.identity, "run"))
    assert (outcome.key, "has another key here" in str(outcome.reason)) == ("0" * 64, True)
    assert not store.keys()


def test_a_job_that_cannot_be_unpickled_says_why(monkeypatch):
    def broken(job: bytes) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(worker.pickle, "loads", broken)
    store = Store()
    outcome = perform("0" * 64, b"", RunSite(store.root, store.identity, "run"))
    assert "plugin code called sys.exit(3)" in str(outcome.reason)


def test_jobs_find_and_leave_the_settings_of_the_process(tmp_path):
    def settings() -> tuple:
        return torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr()["invalid"]

    usual = settings()
    with determinism.isolated(1):
        assert torch.backends.cudnn.deterministic  # a GPU's convolutions, too, give the same sums in every run
        assert not torch.backends.cudnn.benchmark
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        np.seterr(invalid="raise")
    assert settings() == usual
    torch.set_grad_enabled(False)
    try:
        with determinism.isolated(1):
            assert settings() == usual
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
