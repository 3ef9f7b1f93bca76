"""Submissions: what goes in comes out, nothing of the machine does, and hostile files are told apart."""

import copy
import gzip
import json
import pickle
import re
import shutil
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import api, leaderboard, records
from harness.errors import UsageError
from harness.submission import pack as packing
from harness.submission import read_write as submission
from harness.submission.schema import FORMAT, InvalidSubmission
from tests.helpers import FAULTY, FIXTURE, content_of, immunebench, resealed, with_sheet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def content() -> dict:
    return content_of(FIXTURE)


def test_a_submission_holds_the_runs_records(tiny, tmp_path):
    result = api.run(str(tiny), workers=1, out=tmp_path / "run")
    path, found = packing.submit(tmp_path / "run", tmp_path / "sub.json.gz")
    pd.testing.assert_frame_equal(found.records(), result.records)
    pd.testing.assert_frame_equal(submission.read(path).records(), result.records)
    pd.testing.assert_frame_equal(found.records(), records.load(tmp_path / "run" / "records.parquet"))
    costs = {cost.stage: cost for cost in found.costs}
    assert costs["immunize"].jobs == costs["immunize"].metered == 1 + 2 + 2  # their weights are gone, their costs not
    assert costs["immunize"].seconds > 0
    assert costs["attack"].peak_mb > 50
    assert found.provenance.computed == sum(cost.jobs for cost in found.costs)
    assert found.provenance.packages["torch"] == __import__("torch").__version__.partition("+")[0]
    assert re.fullmatch("[0-9a-f]{40}", found.provenance.git.commit)
    # Twice the same run: the same bytes but for what it computed itself, which is nothing.
    api.run(str(tiny), workers=1, out=tmp_path / "again")
    again = content_of(tmp_path / "again" / packing.RUN)
    assert again["provenance"].pop("computed") == 0
    first = content_of(path)
    del first["provenance"]["computed"]
    assert again == first


def test_plain_json_says_the_same(tmp_path):
    found = submission.read(FIXTURE)
    submission.write(found.model_dump(mode="json", exclude_unset=True), tmp_path / "plain.json")
    assert submission.read(tmp_path / "plain.json") == found
    assert content_of(FIXTURE) == json.loads((tmp_path / "plain.json").read_text())


VALUES = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(VALUES, min_size=1, max_size=6), st.text("αé<>|\"'\\ x", max_size=5))
def test_figures_come_back_to_the_bit(values, note):
    """Any finite number, the smallest and largest too, through a file; the notes with it."""
    content = content_of(FIXTURE)
    cell = content["cells"][0]
    cell["kind"] = len(content["kinds"])
    content["kinds"].append([{"metric": "rir", "value": None, "step": i, "note": note} for i in range(len(values))])
    cell["values"] = values
    resealed(content, cell)
    found = submission.parse(json.loads(json.dumps(content)), "here").records().head(len(values))
    expected = pd.array([None if value is None else float(value) for value in values], dtype="Float64")
    pd.testing.assert_extension_array_equal(found["value"].array, expected, check_exact=True)
    assert found["step"].tolist() == list(range(len(values)))
    assert set(found["note"]) == {note}


def test_a_submission_names_no_folder_user_or_host(tiny, tmp_path, monkeypatch):
    """Its folders, user and host are given names that stand out; a plugin file lies there and a job fails there."""
    monkeypatch.setattr("platform.node", lambda: "strangehost")
    monkeypatch.setenv("LOGNAME", "strangeuser")
    home = tmp_path / "home" / "strangeuser"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    suite = shutil.copy(tiny, home / "tiny.yaml")
    told = """import getpass, platform
        raise OSError(f"{__file__} on {platform.node()} of {getpass.getuser()} is locked")"""
    faulty = home / "faulty.py"
    faulty.write_text(FAULTY.replace('yield float("nan")', told))
    result = api.run(str(suite), plugins=[faulty], attackers=["nan"], workers=1, out=home / "out", store=home / "store")
    assert result.failed
    path, found = packing.submit(home / "out", home / "sub.json.gz")
    text = gzip.decompress(path.read_bytes()).decode()
    assert "is locked" in "".join(cell.failed or "" for cell in found.cells)
    for name in ("strangehost", "strangeuser", str(tmp_path), "/home", "immunebench_plugin"):
        assert name not in text


def test_a_folder_in_a_plugins_settings_is_refused(tiny, tmp_path):
    api.run(str(tiny), workers=1, out=tmp_path / "run")
    content = content_of(tmp_path / "run" / packing.RUN)
    for folder in (Path.home(), Path("/mnt/else")):
        content["plugins"][0]["params"]["weights"] = str(folder / "weights.safetensors")
        submission.write(content, tmp_path / "run" / packing.RUN)
        with pytest.raises(UsageError, match=r"tells of folders of this machine, at plugins\.0\.params\.weights"):
            packing.submit(tmp_path / "run", tmp_path / "sub.json.gz")
    assert not (tmp_path / "sub.json.gz").exists()


def test_the_first_format_stays_loadable():
    found = submission.read(FIXTURE)
    assert (found.format, found.suite.name, found.suite.version) == (1, "tiny", 3)
    told = found.records()
    assert len(told) == 480
    rir = told[(told["defense"] == "condition_number") & (told["metric"] == "rir") & (told["policy"] == "floor")]
    assert rir[rir["split"] == "train"]["value"].round(4).tolist() == [0.9454, 0.9234]


def change(path, value):
    """A change of the content at a path of keys."""

    def apply(content):
        *parents, last = path
        at = content
        for parent in parents:
            at = at[parent]
        at[last] = value

    return apply


def bomb(content):
    """Few bytes that stand for very many: a long note in a kind of many figures and cells."""
    kind = [{"metric": "rir", "value": None, "step": step, "note": "x" * 20000} for step in range(500)]
    content["kinds"].append(kind)
    cell = {**content["cells"][0], "kind": len(content["kinds"]) - 1, "values": [1.0] * len(kind)}
    content["cells"] += [{**cell, "key": f"{place:064x}"} for place in range(60)]


def twice(content):
    content["cells"].append(content["cells"][0])


def two_grids(content):
    content["suite"]["grids"] *= 2


HOLE = {"kind": None, "failed": "lost", "files": {}}


def other_job(content):
    content["cells"].append({**content["cells"][0], "at": content["cells"][1]["at"], "values": [], **HOLE})


SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (change(["cells", 0, "values", 0], 1e6), "the figures are not those of the digest"),
        (change(["cells", 0, "values", 0], "1"), "cells.0.values.0"),
        (change(["cells", 0, "files"], {}), "the figures are not those of the digest"),
        (change(["cells", 0, "values"], []), "other figures than its kind has"),
        (change(["cells", 0, "kind"], 10**6), "other figures than its kind has"),
        (change(["cells", 0, "kind"], -1), "cells.0.kind"),
        (change(["cells", 0, "kind"], None), "neither measured nor failed"),
        (change(["cells", 0, "failed"], "lost"), "other figures than its kind has"),
        (change(["cells"], []), "cells"),
        (bomb, "its figures, written out, are longer than 512 MiB"),
        (twice, "the cell is there twice"),
        (other_job, "or its job with other figures"),
        (change(["cells", 0, "at", "grid"], "elsewhere"), "other coordinates"),
        (change(["cells", 0, "at", "colour"], "red"), "cells.0.at.colour"),
        (change(["cells", 0, "at", "status"], "failed"), "cells.0.at.status"),
        (change(["cells", 0, "at", "seed"], "one"), "other coordinates"),
        (change(["cells", 0, "at", "seed"], 2**63), "cells.0.at.seed"),
        (change(["cells", 0, "at", "task"], None), "other coordinates"),
        (change(["cells", 0, "values", 0], 10**400), "cells.0.values.0"),
        (change(["cells", 0, "at", "task"], "../../x"), "cells.0.at.task"),
        (change(["cells", 0, "at", "task"], SCRIPT), "cells.0.at.task"),
        (change(["cells", 0, "at", "defense"], "a|b"), "cells.0.at.defense"),
        (change(["cells", 0, "calls", "defense_call"], "\x1b[2Jgone"), "cells.0.calls.defense_call"),
        (change(["cells", 0, "files", "../../x.png"], "0" * 64), "cells.0.files"),
        (change(["cells", 0, "files", "/etc/x.png"], "0" * 64), "cells.0.files"),
        (change(["cells", 0, "files", "x.pkl"], "0" * 64), "cells.0.files"),
        (change(["suite", "name"], "../digits"), "suite.name"),
        (change(["suite", "name"], SCRIPT), "suite.name"),
        (change(["suite", "grids", 0, "defenses", "none"], 99), "names a plugin that is not there"),
        (change(["suite", "grids", 0, "seeds"], [1] * 101), "suite.grids.0.seeds"),
        (change(["kinds", 0, 0, "value"], 1), "no figure"),
        (change(["kinds", 0, 0, "colour"], "red"), "kinds.0.0.colour"),
        (change(["kinds", 0, 0, "defense"], "mine"), "kinds.0.0.defense"),
        (change(["kinds", 0, 0, "scale"], "linear"), "kinds.0.0.scale"),
        (change(["kinds", 0, 0, "step"], "last"), "no figure"),
        (change(["kinds", 0, 0, "metric"], None), "no figure"),
        (change(["kinds", 0, 0, "policy"], "$\\frac$"), "no figure"),
        (change(["kinds", 0, 0, "policy"], SCRIPT), "no figure"),
        (two_grids, "two grids have one name"),
        (change(["kinds", 0, 0], {}), "no figure"),
        (change(["sources", "0" * 64], "import os"), "has another digest"),
        (change(["plugins", 0, "file"], "0" * 64), "has no source"),
        (change(["costs", 0, "seconds"], -1.0), "costs.0.seconds"),
        (change(["format"], 0), "format"),
        (change(["more"], 1), "more"),
    ],
)  # fmt: skip
def test_invalid_content_is_refused_in_one_line(content, harm, told):
    harm(content)
    with pytest.raises(InvalidSubmission, match="here is no valid submission: ") as caught:
        submission.parse(content, "here")
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("shown", [{"plain": True}, {"plain": False}], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 10**6, "no JSON"),
        (b"[" * 200 + b"]" * 200, "nested deeper than 20"),
        (b'["\\ud800"]', "no JSON"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "no JSON"),
        (b'{"format": NaN}', "NaN is no number"),
        (b'{"format": -Infinity}', "-Infinity is no number"),
        (b'{"format": 1, "cells": 1e999}', "no JSON"),
        (b"[1, 2]", "no valid submission"),
        (b'"text"', "no valid submission"),
        (pickle.dumps({"format": 1}), "no JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, data, told, shown):
    path = tmp_path / "sub.json"
    path.write_bytes(data if shown["plain"] else gzip.compress(data))
    with pytest.raises(InvalidSubmission, match=told):
        submission.read(path)


def test_infinite_figures_are_refused(tmp_path):
    text = gzip.decompress(FIXTURE.read_bytes()).decode()
    path = tmp_path / "sub.json"
    path.write_text(text.replace('"seconds":', '"seconds":1e999,"x":', 1))
    with pytest.raises(InvalidSubmission, match="no JSON"):
        submission.read(path)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "sub.json.gz"
    for data in (FIXTURE.read_bytes()[:-20], FIXTURE.read_bytes()[:-8] + b"12345678", b"\x1f\x8b\x08 what"):
        path.write_bytes(data)
        with pytest.raises(InvalidSubmission, match="cannot read"):
            submission.read(path)
    with pytest.raises(UsageError, match="does not exist"):
        submission.read(tmp_path / "absent.json")
    with pytest.raises(InvalidSubmission, match="cannot read"):
        submission.read(tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """A gigabyte of blanks in a megabyte: reading stops at the limit."""
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 10**7, compresslevel=9) * 100)
    monkeypatch.setattr(submission, "LIMIT", 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSubmission, match="longer than"):
            submission.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_a_newer_format_asks_for_an_upgrade(content, tmp_path):
    content["format"] = FORMAT + 1
    submission.write(content, tmp_path / "new.json")
    done = immunebench("leaderboard", tmp_path / "new.json", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "has format 2; this harness reads up to 1: upgrade immunebench" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_swapped_picture_is_seen(content, tmp_path):
    assert list(submission.read(with_sheet(copy.deepcopy(content), tmp_path)).pictures())
    sheet = tmp_path / "house_prices__house_prices__none__sheet.png"
    sheet.write_bytes(b"another")
    with pytest.raises(InvalidSubmission, match=r"none__sheet\.png is not beside it, or is another one"):
        submission.read(tmp_path / "sub.json.gz")
    sheet.unlink()
    with pytest.raises(InvalidSubmission, match="is not beside it"):
        submission.read(tmp_path / "sub.json.gz")
    (tmp_path / "elsewhere").write_bytes(b"picture")
    sheet.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidSubmission, match="is not beside it"):
        submission.read(tmp_path / "sub.json.gz")


def test_a_pictures_name_that_no_file_can_have(content, tmp_path):
    content["cells"][0]["at"]["task"] = "x" * 300
    path = with_sheet(content, tmp_path)
    with pytest.raises(InvalidSubmission, match="is not beside it"):
        submission.read(path)


def test_no_label_leads_a_picture_elsewhere(content):
    content["cells"][0]["at"]["task"] = "x/../../../y"
    content["cells"][0]["files"]["sheet.png"] = "0" * 64
    ((name, _),) = submission.parse(content, "here").pictures()
    assert name == "house_prices__x_.._.._.._y__none__sheet.png"


def test_a_runs_pictures_come_along(content, tmp_path):
    run = with_sheet(content, tmp_path / "run").parent
    (run / "sub.json.gz").rename(run / packing.RUN)
    path, found = packing.submit(run, tmp_path / "to" / "sub.json.gz")
    assert submission.read(path) == found
    (name,) = [name for name, _ in found.pictures()]
    assert (path.parent / name).read_bytes() == b"picture"
    (path.parent / name).write_bytes(b"of another submission")
    with pytest.raises(UsageError, match="has another picture"):
        packing.submit(run, tmp_path / "to" / "other.json.gz")
    assert not (tmp_path / "to" / "other.json.gz").exists()


def test_labels_and_notes_are_escaped_in_boards(tmp_path):
    """Also where the records are a run's own and never were a submission."""
    told = submission.read(FIXTURE).records()
    told["grid"] = told["grid"] + "<script src=x>|'"  # names a picture's file
    for column in ("suite", "task", "defense", "attacker"):
        told[column] = told[column] + f"{SCRIPT}|'"
    told["note"] = SCRIPT
    told.loc[told["defense"].str.startswith("none"), "status"] = "failed"
    leaderboard.write(told, tmp_path)
    page, text = (tmp_path / "leaderboard.html").read_text(), (tmp_path / "leaderboard.md").read_text()
    for shown in (page, text):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 2
    for rows in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1  # no cell breaks its row
    for quoted in re.findall("<img (.*?)>", page):
        assert re.fullmatch("src='[^']*' alt='[^']*'", quoted)


def test_the_command_and_its_schema(tmp_path):
    done = immunebench("submit", "--schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert {"suite", "plugins", "cells", "kinds", "costs", "provenance"} <= set(schema["required"])
    assert set(content_of(FIXTURE)) == set(schema["properties"])
    done = immunebench("submit", tmp_path)
    assert done.returncode == 2
    assert "holds no run.json.gz" in done.stderr
    shutil.copy(FIXTURE, tmp_path / packing.RUN)
    done = immunebench("submit", tmp_path, cwd=tmp_path)
    assert done.returncode == 0
    assert "tiny version 3: 25 cells, 0 of them failed" in done.stdout
    assert submission.read(tmp_path / "results/submissions/tiny" / f"{tmp_path.name}.json.gz")
