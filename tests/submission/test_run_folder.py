"""The folder of a run belongs to one suite: the files of its earlier run are replaced, others are not touched."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from harness import api, files
from harness.errors import UsageError
from harness.files import CONTENTS
from harness.store import Store
from harness.submission import pack, run_folder
from tests.helpers import immunebench
from tests.runs import TWO_LAYER, plan, write_suite


def suite(folder: Path, name: str, **changes: object) -> Path:
    """A suite file of one seed with this name."""
    folder.mkdir(exist_ok=True)
    return write_suite(folder, lambda content: content.update({"name": name, "seeds": 1, **changes}))


def run(*arguments: object, cwd: Path | None = None) -> str:
    """Run a suite by one worker; returns what went wrong."""
    return immunebench("run", *arguments, "--workers", 1, cwd=cwd).stderr


def test_another_suites_run_is_refused_before_anything_is_computed(tmp_path):
    out = tmp_path / "out"
    assert run(suite(tmp_path / "a", "a"), "--out", out, "--defense", "none") == ""
    before = {path: path.read_bytes() for path in out.iterdir()}
    jobs = len(Store().keys())
    done = immunebench("run", suite(tmp_path / "b", "b", version=5), "--out", out, "--workers", 1)
    assert done.returncode == 2
    assert done.stderr == f"immunebench: {out} holds the files of suite a: choose another folder, or delete this one\n"
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert len(Store().keys()) == jobs
    done = immunebench("leaderboard", out / "run.json.gz", "--out", tmp_path / "board")
    assert done.returncode == 0, done.stderr
    assert "holds the files of suite a" in run(tmp_path / "b" / "suite.yaml", "--out", tmp_path / "board")


def test_an_edited_suite_replaces_its_own_run(tmp_path):
    out, path = tmp_path / "out", suite(tmp_path, "a")
    assert run(path, "--out", out) == ""
    (out / "mine.txt").write_text("a note")
    listed = (out / CONTENTS).read_text()
    (out / CONTENTS).write_text(f"{listed}gone_steps.png\ngone__t__none__sheet.png\n")
    for name in ("gone_steps.png", "gone__t__none__sheet.png"):  # of a grid that the suite no longer has
        (out / name).write_bytes(b"")
    content = yaml.safe_load(path.read_text())
    content["version"] += 1
    path.write_text(yaml.safe_dump(content))
    assert "holds a run of version" in run(path, "--out", out, "--defense", "none")
    assert run(path, "--out", out, "--defense", "none", "--force") == ""
    assert (out / CONTENTS).read_text() == listed
    assert {path.name for path in out.iterdir()} == {*listed.splitlines()[1:], CONTENTS, "mine.txt"}
    assert f"version {content['version']}" in (out / "leaderboard.md").read_text()


def test_the_default_folder_is_named_by_the_suite(tmp_path):
    """Two files of one name hold two suites."""
    for name in ("a", "b"):
        assert run(suite(tmp_path / name, name), "--defense", "none", cwd=tmp_path) == ""
    assert {path.name for path in (tmp_path / "results" / "runs").iterdir()} == {"a", "b"}


def test_files_of_another_origin_are_not_overwritten(tmp_path):
    (tmp_path / "rows.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"has a file rows\.csv of another origin"):
        run_folder.claim_for(plan(), tmp_path)


def test_a_board_keeps_the_run_that_lies_beside_it(honest, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(honest.parent / "run", out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "run.json.gz" in kept
    done = immunebench("leaderboard", out)
    assert done.returncode == 0, done.stderr
    assert (out / "leaderboard.md").is_file()
    assert {name: (out / name).read_bytes() for name in kept} == kept
    assert kept.keys() < set((out / CONTENTS).read_text().splitlines())
    (out / "old_steps.png").touch()
    files.record(out, "suite small", [*files.contents(out)[1], "old_steps.png"])
    assert immunebench("leaderboard", out).returncode == 0
    assert not (out / "old_steps.png").exists()
    assert {name: (out / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("damaged", [False, True])
def test_the_folder_of_a_run_without_a_list(damaged, honest, tmp_path):
    """An earlier harness wrote it, or it was copied without its list."""
    out = tmp_path / "out"
    shutil.copytree(honest.parent / "run", out)
    if damaged:
        (out / "run.json.gz").write_bytes(b"half")
    with pytest.raises(UsageError, match="a run that cannot be read" if damaged else "holds the files of suite small"):
        run_folder.claim_for(plan(), out)
    if not damaged:
        assert "run.json.gz" in (out / CONTENTS).read_text()


def test_two_pictures_of_one_name_are_refused(tmp_path):
    made = plan()
    coordinates = {"grid": "g", "task": "a", "defense": "b__c", "attacker": None, "measured_by": "pictures"}
    cells = [type(made.cells[0])(at, made.cells[0].job) for at in
             (coordinates, {**coordinates, "task": "a__b", "defense": "c"})]  # fmt: skip
    with pytest.raises(UsageError, match="2 pictures would be called g__a__b__c__"):
        run_folder.claim_for(type(made)(made.suite, tuple(cells), made.jobs), tmp_path)


def test_a_submission_that_is_given_twice_counts_once(honest, tmp_path):
    link = tmp_path / "same.json.gz"
    link.symlink_to(honest)
    done = immunebench("leaderboard", honest, honest, link, "--out", tmp_path / "board")
    assert done.returncode == 0, done.stderr
    assert done.stdout == immunebench("leaderboard", honest, "--out", tmp_path / "board").stdout


def test_artifacts_are_kept_until_they_are_packed(monkeypatch):
    """Another process cleans the store after the last job."""
    packed = pack.pack

    def clean_first(made, store, *arguments):
        Store().collect(unused=0)
        assert {cell.job.key for cell in made.cells} <= set(store.keys())
        return packed(made, store, *arguments)

    monkeypatch.setattr(pack, "pack", clean_first)
    result = api.run(TWO_LAYER, workers=1, seeds=1, defenses=["none"])
    assert not result.failed


def test_a_folder_whose_name_is_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    assert run(TWO_LAYER, "--out", folder / "out", "--seeds", 1, "--defense", "none") == ""
    assert (folder / "out" / "records.parquet").is_file()
