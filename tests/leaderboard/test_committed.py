"""The committed boards, and whether a stale one is noticed."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.leaderboard import committed
from harness.submission import merge
from harness.submission.merge import Merged
from tests.helpers import immunebench
from tests.leaderboard.builders import build, cells

ROOT = Path(__file__).parents[2]
SUBMITTED = ROOT / "results/submissions"
LOAD = merge.load
"""The true reader of submissions."""
LARGE = 2**16
"""Size of submissions from which a board is made in a slow test, in bytes."""


@pytest.fixture
def submissions(tmp_path, monkeypatch):
    """A folder of submissions with one board, whose records are hand-made."""
    folder = tmp_path / "submissions"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "tiny.json.gz").touch()
    (folder / "tiny" / "tiny.verification.json").touch()
    sheet = folder / "tiny" / "g__a__none__sheet.png"
    sheet.write_bytes(b"picture")
    records = build(cells({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.1 * seed}}), tier="reproduced")
    monkeypatch.setattr(merge, "load", lambda paths, _: Merged(records, {}, [sheet], paths))
    return folder


def test_a_board_is_made_of_each_folder(submissions, tmp_path):
    out = tmp_path / "boards"
    assert list(committed.rebuild(submissions, out, pytest.fail)) == [out / "tiny"]
    names = {path.name for path in (out / "tiny").iterdir()}
    assert names == {
        "leaderboard.md",
        "leaderboard.csv",
        "leaderboard.tex",
        "rows.csv",
        "standings.csv",
        "comparisons.csv",
        "protection.csv",
        "protection_comparisons.csv",
        "strongest.csv",
        "g_profile.png",
        "g_protection.png",
        "g_survival.png",
    }
    assert "(../../submissions/tiny/g__a__none__sheet.png)" in (out / "tiny" / "leaderboard.md").read_text()
    assert list(committed.stale(submissions, out, pytest.fail)) == []


def test_a_stale_file_is_named(submissions, tmp_path):
    out = tmp_path / "boards"
    list(committed.rebuild(submissions, out, pytest.fail))
    long = pd.read_csv(out / "tiny/leaderboard.csv")
    long.loc[1, "value"] *= 1 + 1e-6
    long.to_csv(out / "tiny/leaderboard.csv", index=False)
    (out / "tiny/standings.csv").unlink()
    (out / "tiny/leaderboard.html").write_text("of a former board")
    stale = ["tiny/leaderboard.csv", "tiny/leaderboard.html", "tiny/standings.csv"]
    assert list(committed.stale(submissions, out, pytest.fail)) == stale
    list(committed.rebuild(submissions, out, pytest.fail))
    assert list(committed.stale(submissions, out, pytest.fail)) == []


@pytest.mark.parametrize("change", ["missing", "left over", "text"])
def test_the_markdown_is_stale_where_its_pictures_or_its_text_are(submissions, tmp_path, change):
    out = tmp_path / "boards"
    list(committed.rebuild(submissions, out, pytest.fail))
    text = out / "tiny/leaderboard.md"
    if change == "missing":
        (out / "tiny/g_profile.png").unlink()
    elif change == "left over":
        shutil.copy(out / "tiny/g_profile.png", out / "tiny/g_map.png")
    else:
        text.write_text(text.read_text().replace("mine", "ours"))
    assert list(committed.stale(submissions, out, pytest.fail)) == ["tiny/leaderboard.md"]


def test_checking_draws_no_picture(submissions, tmp_path, monkeypatch):
    out = tmp_path / "boards"
    list(committed.rebuild(submissions, out, pytest.fail))
    monkeypatch.setattr(committed.boards, "draw", lambda *_: pytest.fail("a picture was drawn"))
    assert list(committed.stale(submissions, out, pytest.fail)) == []


def test_a_damaged_submission_stops_no_other_board(submissions, tmp_path, monkeypatch):
    """One line names it, and its board stays as it was."""
    read = merge.load
    monkeypatch.setattr(merge, "load", lambda paths, _: LOAD(paths) if "broken" in str(paths[0]) else read(paths, _))
    (submissions / "broken").mkdir()
    (submissions / "broken" / "broken.json.gz").write_bytes(b"no archive")
    before = tmp_path / "boards" / "broken" / "leaderboard.md"
    before.parent.mkdir(parents=True)
    before.write_text("as it was")
    options = ["boards", "--submissions", submissions, "--out", tmp_path / "boards"]
    for check, said in (([], f"{tmp_path}/boards/tiny\n"), (["--check"], "all other boards are up to date\n")):
        done = immunebench(*options, *check)
        assert (done.returncode, done.stdout) == (2, said)
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"immunebench: {submissions}/broken/broken.json.gz is not a valid submission: ")
    assert before.read_text() == "as it was"


def board(folder: Path):
    """A case of a test: a folder of submissions."""
    large = sum(path.stat().st_size for path in folder.glob("*.gz")) > LARGE
    return pytest.param(folder, marks=[pytest.mark.slow] * large, id=folder.name)


@pytest.mark.parametrize("folder", [board(path) for path in sorted(SUBMITTED.iterdir()) if path.is_dir()])
def test_a_committed_board_is_what_the_command_makes(folder, tmp_path):
    (tmp_path / folder.name).symlink_to(folder)
    stale = list(committed.stale(tmp_path, ROOT / "results/leaderboards", pytest.fail))
    assert stale == [], "`immunebench boards` makes them anew"
