"""Boards of submissions: what goes together, and what is committed."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from harness import api
from harness.cli import submission as publish
from harness.errors import UsageError
from harness.submission import boards
from harness.submission import pack as packing
from harness.submission import read_write as submission
from harness.submission import tier as tiers
from tests.helpers import FIXTURE, content_of, immunebench, resealed, with_sheet

ROOT = Path(__file__).parents[2]
SUBMISSIONS = FIXTURE.parents[1]


def part(path: Path, keep, **changes) -> Path:
    """The fixture's cells that `keep` takes, as a submission of its own."""
    content = content_of(FIXTURE)
    content["cells"] = [cell for cell in content["cells"] if keep(cell["at"])]
    content["suite"] |= changes
    submission.write(content, path)
    return path


def test_one_board_of_several_submissions(tmp_path):
    """Of two halves that share a row, the board of the whole; what that row cost the second one is another figure."""
    halves = [
        part(tmp_path / "one.json", lambda at: at["defense"] in ("none", "random_init")),
        part(tmp_path / "two.json.gz", lambda at: at["defense"] in ("none", "condition_number")),
    ]
    content = content_of(halves[1])
    for cell in content["cells"]:
        metrics = [figure["metric"] for figure in content["kinds"][cell["kind"]]]
        if cell["at"]["defense"] == "none" and "seconds" in metrics:
            cell["values"][metrics.index("seconds")] += 1.0
            resealed(content, cell)
    submission.write(content, halves[1])
    boards.make(halves, tmp_path / "halves")
    boards.make([FIXTURE], tmp_path / "whole")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"leaderboard.csv", "leaderboard.md", "leaderboard.html", "leaderboard.tex"} < names
    assert {path.name for path in (tmp_path / "halves").iterdir()} == names
    for name in ("leaderboard.csv", "leaderboard.tex"):
        assert (tmp_path / "halves" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_grids_stand_in_the_installed_suites_order(tmp_path):
    """Whatever the order of the files; those that it does not know come last."""
    files = []
    for grid in ("personal_three", "mine", "personal_two"):
        content = content_of(FIXTURE)
        content["suite"]["name"] = "personal"
        content["suite"]["grids"][0]["name"] = grid
        content["judging"] = {grid: content["judging"]["house_prices"]}
        for cell in content["cells"]:
            cell["at"]["grid"] = grid
        files.append(tmp_path / f"{grid}.json")
        submission.write(content, files[-1])
    assert list(boards.load(files).records["grid"].unique()) == ["personal_two", "personal_three", "mine"]


def test_the_board_of_a_submission_is_the_runs_board(tiny, tmp_path):
    api.run(str(tiny), workers=1, out=tmp_path / "run")
    path, _ = packing.submit(tmp_path / "run", tmp_path / "sub.json.gz")
    done = immunebench("leaderboard", path, "--out", tmp_path / "board")
    assert done.returncode == 0
    assert "| condition_number |" in " ".join(done.stdout.split())
    assert (tmp_path / "board/leaderboard.csv").read_text() == (tmp_path / "run/leaderboard.csv").read_text()
    assert "\nTier: self-reported.\n" in (tmp_path / "board/leaderboard.md").read_text()
    for arguments in ([path],), ([tmp_path / "run", path],), ([tmp_path / "run"], tmp_path):
        with pytest.raises(UsageError, match="--out DIR"):
            publish.leaderboard(*arguments)


def test_submissions_that_do_not_match_are_refused(tmp_path):
    def everything(at):
        return True

    newer = part(tmp_path / "newer.json", everything, version=4)
    with pytest.raises(UsageError, match=r"newer\.json is of tiny version 4, .*tiny\.json\.gz of tiny version 3"):
        boards.make([FIXTURE, newer], tmp_path / "out")
    other = part(tmp_path / "other.json", everything, name="tiny2")
    with pytest.raises(UsageError, match="is of tiny2 version 3"):
        boards.make([FIXTURE, other], tmp_path / "out")

    content = content_of(FIXTURE)
    content["suite"]["grids"][0]["protocol"]["much"] = 3.0
    submission.write(content, tmp_path / "protocol.json")
    with pytest.raises(UsageError, match="has another protocol of grid 'house_prices'"):
        boards.make([FIXTURE, tmp_path / "protocol.json"], tmp_path / "out")

    content = content_of(FIXTURE)
    cell = next(cell for cell in content["cells"] if cell["at"]["defense"] == "condition_number")
    cell["values"][0] += 1e-9
    resealed(content, cell)
    submission.write(content, tmp_path / "figures.json")
    with pytest.raises(UsageError, match="differ in the cell house_prices · house_prices · condition_number · 1"):
        boards.make([FIXTURE, tmp_path / "figures.json"], tmp_path / "out")

    content = content_of(FIXTURE)
    content["cells"][0]["key"] = "0" * 64  # other settings under the same label
    submission.write(content, tmp_path / "settings.json")
    with pytest.raises(UsageError, match="differ in the cell house_prices · house_prices · none"):
        boards.make([FIXTURE, tmp_path / "settings.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_board_shows_the_contact_sheets_of_its_submissions(tmp_path):
    boards.make([with_sheet(content_of(FIXTURE), tmp_path / "sub")], tmp_path / "board")
    name = "house_prices__house_prices__none__sheet.png"
    assert (tmp_path / "board" / name).read_bytes() == b"picture"
    assert f"![{name}]({name})" in (tmp_path / "board/leaderboard.md").read_text()


def verification(**changes):
    found = {"submission": "0" * 64, "tier": "spot-checked", "cells": 25, "rerun": 5, "seed": 7, "exact": 200,
             "tolerance": 0, "interval": 0, "date": "2026-11-25", "harness": "0.1.0", "commit": None}  # fmt: skip
    return tiers.Verification(**found | changes).model_dump_json()


def test_a_board_says_how_far_it_was_checked(tmp_path):
    path = Path(shutil.copy(FIXTURE, tmp_path))
    assert tiers.tier(path) == "self-reported"
    tiers.beside(path).write_text(verification())  # of another file
    assert tiers.tier(path) == "self-reported"
    tiers.beside(path).write_text(verification(submission=tiers.file_digest(path)))
    assert tiers.tier(path) == "spot-checked, 5 of 25 cells rerun on 2026-11-25"
    assert tiers.files(tmp_path) == [path]
    two = part(tmp_path / "two.json", lambda at: at["defense"] == "none")
    boards.make([path, two], tmp_path / "out")
    told = "Tier: tiny.json.gz: spot-checked, 5 of 25 cells rerun on 2026-11-25; two.json: self-reported."
    assert told in (tmp_path / "out/leaderboard.md").read_text()
    assert told in (tmp_path / "out/leaderboard.html").read_text()
    found = tiers.Verification.model_validate_json(verification(interval=3, of_suite=(25, 60)))
    assert found.told == ("spot-checked, 5 of 25 cells rerun on 2026-11-25, 3 of 203 figures only within the spread "
                          "over seeds, 25 of the suite's 60 cells")  # fmt: skip
    for claim in ({"tier": "reproduced"}, {"rerun": 0}, {"rerun": 25}, {"rerun": 26}):
        with pytest.raises(ValidationError, match="make no submission"):
            tiers.Verification.model_validate_json(verification(**claim))
    tiers.beside(path).write_text(json.dumps({"tier": "gold"}))
    with pytest.raises(UsageError, match="is no verification"):
        tiers.tier(path)


def test_committed_boards_are_up_to_date():
    found = boards.stale(ROOT / "results/submissions", ROOT / "results/leaderboards")
    assert found == [], "`immunebench boards` makes them anew"


def test_stale_boards_are_listed(tmp_path):
    """So that the test above cannot pass for want of submissions: the same of the one that is committed for tests."""
    submissions = tmp_path / "submissions"
    shutil.copytree(SUBMISSIONS, submissions)
    with_sheet(content_of(submissions / "tiny/tiny.json.gz"), submissions / "tiny")
    (submissions / "tiny/tiny.json.gz").unlink()
    out = tmp_path / "boards"
    assert boards.rebuild(submissions, out) == [out / "tiny"]
    assert boards.stale(submissions, out) == []

    text = out / "tiny/leaderboard.md"
    text.write_text(text.read_text().replace("condition_number", "condition number"))
    long = pd.read_csv(out / "tiny/leaderboard.csv")
    long.loc[3, "value"] *= 1 + 1e-6
    long.to_csv(out / "tiny/leaderboard.csv", index=False)
    (out / "tiny/house_prices_steps.svg").unlink()
    sheet = "house_prices__house_prices__none__sheet.png"
    (out / "tiny" / sheet).write_bytes(b"another")
    (out / "tiny/house_prices_map.png").write_bytes(b"of an older board")
    expected = {"leaderboard.md", "leaderboard.csv", "house_prices_steps.svg", sheet, "house_prices_map.png"}
    assert set(boards.stale(submissions, out)) == {f"tiny/{name}" for name in expected}
    done = immunebench("boards", "--submissions", submissions, "--out", out, "--check")
    assert done.returncode == 1
    assert set(done.stdout.split()) == {f"tiny/{name}" for name in expected}
    boards.rebuild(submissions, out)
    assert boards.stale(submissions, out) == []
