"""Several submissions become one set of records, or are refused."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from harness.errors import UsageError
from harness.submission import merge, read_write, schema
from harness.submission import tier as tiers
from tests.submission.forge import OLD, TWO_LAYER, add_picture, content_of, find, reseal, suite_file, write_content


def part(content: dict, path: Path, defenses: list[str]) -> Path:
    """The rows of these defenses as a submission of its own."""
    grid = content["suite"]["grids"][0]
    grid["defenses"] = {label: spec for label, spec in grid["defenses"].items() if label in defenses}
    grid["changed"] = [f"{len(defenses)} of 3 defenses"]
    content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["defense"] in defenses]
    return write_content(content, path)


def frame(files) -> pd.DataFrame:
    rows = merge.load(files).records.frame
    return rows.sort_values(["task", "defense", "measured_by", "attacker", "seed", "metric"], ignore_index=True)


def test_two_halves_are_the_whole(honest, tmp_path):
    """They share a row; what that row cost the second one is another value."""
    halves = [
        part(content_of(honest), tmp_path / "one.json", ["none", "shrinking"]),
        part(content_of(honest), tmp_path / "two.json.gz", ["none", "strong"]),
    ]
    content = content_of(halves[1])
    cell = find(content, defense="none", measured_by="cost")
    cell["values"][0] += 1.0
    reseal(content, cell)
    write_content(content, halves[1])
    pd.testing.assert_frame_equal(frame(halves), frame([honest]))
    merged, whole = merge.load(halves).records.suite, read_write.read(honest).suite
    assert merged.model_dump() == whole.model_dump()  # also that nothing is left out of it any more
    assert merge.load(halves[:1]).records.suite.grids[0].changed == ["2 of 3 defenses"]


def test_threat_models_and_sweeps_are_united(content, honest, tmp_path):
    """Each submission has some of the attackers of the one model, and the second one's defense is swept."""
    grid = content["suite"]["grids"][0]
    fast = {"attackers": ["fast"], "budget": 3}
    grid["attackers"] = {"fast": grid["attackers"]["full_descent"]}
    grid["threat_models"] = {"first": fast}
    grid["sweeps"] = {"shrinking": ["shrinking@share=0.05", "shrinking@share=0.01"]}
    grid["defenses"] = dict(zip(grid["sweeps"]["shrinking"], list(grid["defenses"].values())[1:], strict=True))
    cell = find(content, defense="shrinking", measured_by="sharpness")
    cell["coordinates"]["defense"] = grid["sweeps"]["shrinking"][0]
    content["cells"] = [cell]
    other, third = write_content(content, tmp_path / "other.json"), content_of(honest)
    third["suite"]["grids"][0]["threat_models"] = {"first": fast | {"attackers": ["full_descent"]}}
    merged = merge.load([other, write_content(third, tmp_path / "third.json")]).records.suite.grids[0]
    assert merged.sweeps == grid["sweeps"]
    assert {name: model.attackers for name, model in merged.threat_models.items()} == {
        "first": ["fast", "full_descent"]
    }
    merged = merge.load([honest, other]).records.suite.grids[0]
    assert {name: model.attackers for name, model in merged.threat_models.items()} == {
        "first": ["fast"],
        "other attackers": ["full_descent"],
    }


def test_seeds_and_tasks_are_united(honest, tmp_path):
    files = []
    for seed in (2, 1):
        content = content_of(honest)
        content["suite"]["grids"][0]["seeds"] = [seed]
        content["suite"]["grids"][0]["changed"] = [f"seeds {seed} instead of 1, 2"]
        content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["seed"] in (seed, None)]
        files.append(write_content(content, tmp_path / f"{seed}.json"))
    records = merge.load(files).records
    assert records.suite.grids[0].seeds == [1, 2]
    assert records.suite.grids[0].changed == []
    pd.testing.assert_frame_equal(frame(files), frame([honest]))


def test_two_tasks_of_one_label_are_not_mixed(honest, tmp_path, capsys):
    files = []
    for seed in (1, 2):
        content = content_of(honest)
        grid = content["suite"]["grids"][0]
        grid["seeds"], grid["tasks"][0]["rows"] = [seed], 100 * seed
        content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["seed"] == seed]
        files.append(write_content(content, tmp_path / f"{seed}.json"))
    assert merge.load(files).files == files[:1]
    assert "2.json: content of a task in grid 'teachers' differs from that in a submission" in capsys.readouterr().err


def test_what_all_parts_leave_out_stays_marked(honest, tmp_path):
    """Two rows of three, at one seed of two, in two submissions of one row each."""
    files = []
    for label in ("none", "strong"):
        path = part(content_of(honest), tmp_path / f"{label}.json", [label])
        content = json.loads(path.read_text())
        content["suite"]["grids"][0]["seeds"] = [1]
        content["suite"]["grids"][0]["changed"] += ["seeds 1 instead of 1, 2", "defenses.none.share=1"]
        content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["seed"] in (1, None)]
        files.append(write_content(content, path))
    changed = merge.load(files).records.suite.grids[0].changed
    assert changed == ["defenses.none.share=1", "2 of 3 defenses", "seeds 1 instead of 1, 2"]


def test_the_notes_of_all_parts_are_kept(honest, tmp_path):
    files = []
    for label, notes in (("none", ["pictures: mine 3"]), ("strong", ["pictures: mine 3", "pictures: yours 4"])):
        path = part(content_of(honest), tmp_path / f"{label}.json", [label])
        content = json.loads(path.read_text())
        content["suite"]["grids"][0]["notes"] = notes
        files.append(write_content(content, path))
    assert merge.load(files).records.suite.grids[0].notes == ["pictures: mine 3", "pictures: yours 4"]


def test_an_added_row_stands_for_none_of_the_suite(content, honest, tmp_path):
    file = part(content, tmp_path / "part.json", ["none", "strong"])
    content["suite"]["grids"][0]["changed"] = ["defenses.strong. added", "1 of 2 defenses"]
    assert merge.load([write_content(content, file)]).records.suite.grids[0].changed == [
        "defenses.strong. added",
        "1 of 2 defenses",
    ]


def test_a_changed_row_stays_marked(content, honest, tmp_path):
    content["suite"]["grids"][0]["changed"] = ["attackers.full_descent.lr=0.1"]
    records = merge.load([honest, write_content(content, tmp_path / "changed.json")]).records
    assert records.suite.grids[0].changes_of("attacker", "full_descent")


def test_grids_stand_in_the_installed_suites_order(honest, tmp_path, monkeypatch):
    """Whatever the order of the files; those that it does not have come last. Its published values come along."""
    grid = {"track": "two_layer", "tasks": [{"teacher": 1}], "defenses": {"none": None}}
    grids = [{"name": name, **grid} for name in ("first", "second")]
    suite = suite_file(tmp_path, published="published.csv", plugins=[], grids=grids)
    monkeypatch.setattr(merge, "installed_suite", lambda name: suite)
    files = []
    for name in ("second", "mine", "first"):
        content = content_of(honest)
        content["suite"]["grids"][0]["name"] = name
        for cell in content["cells"]:
            cell["coordinates"]["grid"] = name
        files.append(write_content(content, tmp_path / f"{name}.json"))
    records = merge.load(files, [TWO_LAYER]).records
    assert [grid.name for grid in records.suite.grids] == ["first", "second", "mine"]
    assert list(records.frame["grid"].unique()) == ["first", "second", "mine"]
    assert records.suite.published == tmp_path / "published.csv"
    assert records.suite.plugins == (TWO_LAYER,)


def other_version(content):
    content["suite"]["version"] = 4


def other_name(content):
    content["suite"]["name"] = "tiny"


def other_protocol(content):
    content["suite"]["grids"][0]["protocol"]["steps"] = 6


def other_reference(content):
    content["suite"]["grids"][0]["reference"]["source"] = "0" * 64


def other_ranking(content):
    content["suite"]["grids"][0]["ranking"] = {"value": {"metric": "error"}, "better": "higher"}


def other_ensemble(content):
    grid = content["suite"]["grids"][0]
    grid["ensemble"] = {"name": "red_team", "version": 1, "digest": "0" * 64, "attackers": ["full_descent"]}


def other_budget(content):
    content["suite"]["grids"][0]["threat_models"]["all attackers"]["budget"] = 3


def other_settings(content):
    """Of a row whose cells are not in both."""
    content["suite"]["grids"][0]["defenses"]["strong"]["params"]["share"] = 0.5
    content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["defense"] != "strong"]


def other_members(content):
    content["suite"]["grids"][0]["members"]["1"] = ["2"]


def other_quantity(content):
    content["suite"]["grids"][0]["quantities"][-1]["better"] = "lower"


def other_tuning(content):
    content["suite"]["tuning"] = {"seeds": [7], "tasks": []}


def other_value(content):
    cell = find(content, defense="shrinking", measured_by="sharpness")
    cell["values"][0] += 1e-9
    reseal(content, cell)


def other_steps(content):
    cell = find(content, defense="shrinking", measured_by="cost")
    cell["values"][2] += 1
    reseal(content, cell)


def other_key(content):
    find(content, defense="shrinking", measured_by="sharpness")["key"] = "0" * 64


def failed(content):
    cell = find(content, defense="shrinking", measured_by="sharpness")
    for name in ("kind", "values", "files"):
        del cell[name]
    cell["failed"] = "lost"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_version, r"other\.json is of small version 4, .*sub\.json\.gz of small version 3"),
        (other_name, "is of tiny version 3"),
        (other_protocol, "protocol in grid 'teachers' differs"),
        (other_reference, "reference in grid 'teachers' differs"),
        (other_ranking, "ranking in grid 'teachers' differs"),
        (other_ensemble, "ensemble of attackers in grid 'teachers' differs"),
        (other_budget, "threat model 'all attackers' in grid 'teachers' differs"),
        (other_settings, "defense 'strong' in grid 'teachers' differs"),
        (other_members, "list of members of task '1' in grid 'teachers' differs"),
        (other_quantity, "definition of .* in grid 'teachers' differs"),
        (other_tuning, "tuning differs"),
        (other_value, "differ in the cell teachers · 1 · shrinking · 1 · sharpness"),
        (other_steps, "differ in the cell teachers · 1 · shrinking · cost"),
        (other_key, "differ in the cell teachers · 1 · shrinking · 1 · sharpness"),
        (failed, "differ in the cell teachers · 1 · shrinking · 1 · sharpness"),
    ],
)
def test_what_does_not_go_together_is_left_out(content, honest, tmp_path, capsys, change, message):
    """With one line, so that it blocks no board; nothing of it is on the board."""
    change(content)
    other = write_content(content, tmp_path / "other.json")
    assert merge.load([other]).records.suite
    assert capsys.readouterr().err == ""
    merged, alone = merge.load([honest, other]), merge.load([honest])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{other} is left out: ")
    assert re.search(message, line)
    assert merged.files == [honest]
    assert merged.records.tier == "self-reported; other.json: left out, for it contradicts another"
    assert merged.records.suite == alone.records.suite
    pd.testing.assert_frame_equal(merged.records.frame, alone.records.frame)


def test_the_one_that_was_checked_further_stays(content, honest, tmp_path, capsys):
    """Whatever the order of the files."""
    other_value(content)
    other = write_content(content, tmp_path / "other.json")
    path = Path(shutil.copy(honest, tmp_path))
    tiers.verification_file(path).write_text(verification(submission=tiers.file_digest(path)))
    assert merge.load([other, path]).files == [path]
    assert f"{other} is left out" in capsys.readouterr().err


def test_a_row_that_nobody_has_verified_is_listed_separately(honest, tmp_path):
    """On a board with verified rows; those without a cell of its submission are as they were."""
    first = part(content_of(honest), tmp_path / "first.json", ["none", "shrinking"])
    second = part(content_of(honest), tmp_path / "second.json", ["none", "strong"])
    records = merge.load([first, second]).records
    assert (records.tiers, records.unverified, records.untrusted) == ({}, frozenset(), frozenset())
    tiers.verification_file(first).write_text(verification(submission=tiers.file_digest(first)))
    records = merge.load([first, second]).records
    assert records.untrusted == records.unverified == {("teachers", "defense", "strong")}
    assert {row[2]: tier for row, tier in records.tiers.items()} == {
        "none": "spot-checked",
        "shrinking": "spot-checked",
        "strong": "self-reported",
        "full_descent": "spot-checked; self-reported",
    }


def test_a_row_of_which_only_a_part_was_verified_is_flagged_and_stays(honest, tmp_path):
    """So nobody can push another's row aside by more seeds of it."""
    files = []
    for seed in (1, 2):
        content = content_of(honest)
        content["suite"]["grids"][0]["seeds"] = [seed]
        content["cells"] = [cell for cell in content["cells"] if cell["coordinates"]["seed"] in (seed, None)]
        files.append(write_content(content, tmp_path / f"{seed}.json"))
    tiers.verification_file(files[0]).write_text(verification(submission=tiers.file_digest(files[0])))
    records = merge.load(files).records
    assert ("teachers", "defense", "strong") in records.unverified
    assert records.untrusted == frozenset()
    assert records.tiers["teachers", "defense", "strong"] == "spot-checked; self-reported"


def test_submissions_that_are_too_large_together_are_not_merged(honest, tmp_path, monkeypatch, capsys):
    """The one has many values without a seed, the other many seeds."""
    seeds = content_of(honest)
    seeds["suite"]["grids"][0]["seeds"] = list(range(1, 101))
    seeds["cells"] = [find(seeds, measured_by="sharpness", seed=1)]
    other = write_content(seeds, tmp_path / "other.json")
    monkeypatch.setattr(schema, "MOST_VALUES", 500)
    assert merge.load([honest, other]).files == [honest]
    assert "its values without a seed stand for" in capsys.readouterr().err


def test_formats_are_not_mixed(content, tmp_path, capsys):
    content["suite"] |= {"name": "tiny"}
    newer = write_content(content, tmp_path / "newer.json")
    assert merge.load([OLD, newer]).files == [OLD]
    assert "have different formats, whose keys cannot be compared" in capsys.readouterr().err
    assert merge.load([OLD]).records.older
    assert not merge.load([newer]).records.older


def test_pictures_come_along(content, honest, tmp_path):
    first = add_picture(content, tmp_path / "one")
    second = shutil.copytree(first.parent, tmp_path / "two") / first.name
    assert merge.load([honest, first, second]).pictures == [tmp_path / "one" / "teachers__1__none__sheet.png"]


def verification(**changes):
    fields = {"submission": "0" * 64, "tier": "spot-checked", "cells": 25, "rerun": 5, "seed": 7, "exact": 200,
              "of_suite": (60, 60), "tolerance": 0, "interval": 0, "date": "2026-11-25", "harness": "0.1.0",
              "commit": None}  # fmt: skip
    return tiers.Verification(**fields | changes).model_dump_json()


def test_records_say_how_far_they_were_checked(honest, tmp_path):
    path = Path(shutil.copy(honest, tmp_path))
    assert tiers.tier(path) == "self-reported"
    beside = tiers.verification_file(path)
    assert beside == tmp_path / "sub.verification.json"
    beside.write_text(verification())  # of another file
    assert tiers.tier(path) == "self-reported"
    beside.write_text(verification(submission=tiers.file_digest(path)))
    assert tiers.tier(path) == "spot-checked, 5 of 25 cells rerun on 2026-11-25"
    assert tiers.submission_files(tmp_path) == [path]
    two = part(content_of(honest), tmp_path / "two.json", ["none"])
    assert merge.load([path, two]).records.tier == (
        "sub.json.gz: spot-checked, 5 of 25 cells rerun on 2026-11-25; two.json: self-reported"
    )
    assert merge.load([two]).records.tier == "self-reported"
    beside.write_text(
        verification(submission=tiers.file_digest(path), unchecked=[["teachers", "attacker", "full_descent"]])
    )
    rows = merge.load([path, part(content_of(honest), tmp_path / "two.json", ["none"])]).records.unverified
    assert rows == {("teachers", "attacker", "full_descent")}  # all cells of the second are in the first
    found = tiers.Verification.model_validate_json(verification(interval=3, of_suite=(25, 60)))
    assert found.summary == ("spot-checked, 5 of 25 cells rerun on 2026-11-25, 3 of 203 values only within the spread "
                             "over seeds, 25 of the suite's 60 cells")  # fmt: skip
    found = tiers.Verification.model_validate_json(verification(ineligible=12))
    assert found.summary == ("spot-checked, 5 of 25 cells rerun on 2026-11-25, 12 of 25 cells could not be rerun "
                             "(plugins or weights missing)")  # fmt: skip
    reproduced = {"tier": "reproduced", "rerun": 25}
    assert tiers.Verification.model_validate_json(verification(**reproduced)).tier == "reproduced"
    for claim in (
        {"tier": "reproduced"}, {"rerun": 0}, {"rerun": 25}, {"rerun": 26}, {**reproduced, "of_suite": None},
        {**reproduced, "of_suite": (25, 60)}
    ):  # fmt: skip
        with pytest.raises(ValidationError, match="does not follow from"):
            tiers.Verification.model_validate_json(verification(**claim))
    for damaged in (json.dumps({"tier": "gold"}), "{", "[" * 10**5, " " * 2**21):
        beside.write_text(damaged)
        with pytest.raises(UsageError, match="is not a verification"):
            tiers.tier(path)


@pytest.mark.parametrize(
    "claim",
    [
        {"tier": "schema-valid", "cells": -1, "rerun": -1},
        {"seed": -1},
        {"exact": -1},
        {"of_suite": (-1, -1)},
        {"date": "9999-99-99"},
        {"date": "2999-01-01"},
    ],
)
def test_a_verification_claims_what_can_be(claim):
    with pytest.raises(ValidationError):
        verification(**claim)
