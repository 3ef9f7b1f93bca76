"""Submissions: what goes in comes out, nothing of the machine does, and hostile files are refused."""

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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.execution import executors, scheduler
from harness.metric import read_values
from harness.plan import make
from harness.store import Store
from harness.submission import pack, read_write
from harness.submission.schema import FORMAT, InvalidSubmission, Method
from harness.suite_reader import load
from tests.submission.forge import (
    ATTACK,
    add_picture,
    content_of,
    find,
    reseal,
    run,
    submitted,
    suite_file,
    write_content,
)


def test_the_records_of_a_submission_are_the_values_of_its_run(honest):
    """Each value of each artifact is one row, with the cell's coordinates and key."""
    suite = load(str(honest.parent / "small.yaml"))
    plan, store = make(suite), Store(honest.parent / "store")
    records = read_write.read(honest).records()
    rows = records.frame.drop(columns=["suite", "suite_version", "track", "status"]).to_dict("records")
    expected = [
        {**cell.coordinates, **value, "key": cell.job.key}
        for cell in plan.cells
        for value in read_values(store.folder(cell.job.key))
    ]
    assert [{name: field for name, field in row.items() if not pd.isna(field)} for row in rows] == [
        {name: field for name, field in row.items() if field is not None} for row in expected
    ]
    assert set(records.frame["status"]) == {"ok"}
    assert set(records.frame["track"]) == {"two_layer"}
    assert set(records.frame["suite_version"]) == {3}
    assert not records.older


def test_the_suite_of_a_submission_is_the_suite_that_ran(honest):
    suite, submission = load(str(honest.parent / "small.yaml")), read_write.read(honest)
    machine = {"published", "plugins", "folder"}
    assert submission.suite.model_dump() == suite.model_dump(exclude=machine)
    assert submission.suite.grids[0].control("none") == "undefended"
    assert submission.suite.grids[0].defenses["strong"].call == "Shrinking(share=0.01)"
    assert submission.records(suite).suite is suite


def test_costs_and_provenance(honest):
    submission = read_write.read(honest)
    costs = {cost.stage: cost for cost in submission.costs}
    assert costs["adapt"].jobs == costs["adapt"].metered == 2 * 3 + 2 * 3
    assert costs["adapt"].seconds > 0
    assert costs["adapt"].peak_mb > 50
    assert submission.provenance.computed == sum(cost.jobs for cost in submission.costs)
    assert submission.provenance.packages["torch"] == __import__("torch").__version__.partition("+")[0]
    assert submission.provenance.stages == {"two_layer/adapt": 1, "two_layer/measure": 1, "engine/run_cost": 2}
    assert re.fullmatch("[0-9a-f]{40}", submission.provenance.git.commit)


def test_the_same_run_again_gives_the_same_bytes(honest, tmp_path):
    """But for what it computed itself, which is nothing."""
    again = content_of(run(honest.parent / "small.yaml", tmp_path, honest.parent / "store") / pack.RUN)
    assert again["provenance"].pop("computed") == 0
    first = content_of(honest)
    del first["provenance"]["computed"]
    assert again == first


def test_each_artifact_is_read_once(honest, monkeypatch):
    plan, store = make(load(str(honest.parent / "small.yaml"))), Store(honest.parent / "store")
    read = []
    monkeypatch.setattr(pack, "read_values", lambda artifact: read.append(artifact.name) or read_values(artifact))
    pack.pack(plan, store, {}, pack.opening(plan, store))
    assert sorted(read) == sorted({cell.job.key for cell in plan.cells})


def test_plain_json_says_the_same(honest, tmp_path):
    submission = read_write.read(honest)
    read_write.write(submission, tmp_path / "plain.json")
    assert read_write.read(tmp_path / "plain.json") == submission
    assert content_of(honest) == json.loads((tmp_path / "plain.json").read_text())


def test_a_failed_cell_is_a_row_with_its_reason(tmp_path):
    (tmp_path / "mine.py").write_text(ATTACK.replace("yield loss", "raise ValueError('lost')\n            yield"))
    path = submitted(suite_file(tmp_path), tmp_path, plugins=[tmp_path / "mine.py"], defenses=["none"], seeds=1)
    records = read_write.read(path).records()
    failed = records.frame[records.frame["status"] == "failed"]
    assert set(failed["attacker"]) == {"my_attack"}
    assert set(failed["measured_by"]) == {"attacked_error", "cost"}
    assert failed["note"].str.fullmatch(r"ValueError at mine\.py:\d+: lost").all()
    assert failed["value"].isna().all()
    assert records.suite.grids[0].changes_of("attacker", "my_attack")


VALUES = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=6), st.text("αé<>|\"'\\ x", max_size=5))
def test_values_come_back_to_the_bit(content, values, note):
    """Any finite number, the smallest and largest too, through a file; the notes with it."""
    content = copy.deepcopy(content)
    cell = content["cells"][0]
    cell["kind"] = len(content["kinds"])
    content["kinds"].append(
        [{"metric": "sharpness", "value": None, "step": i, "note": note} for i in range(len(values))]
    )
    cell["values"] = values
    reseal(content, cell)
    rows = read_write.parse(json.loads(json.dumps(content)), "here").records().frame.head(len(values))
    expected = pd.array([None if value is None else float(value) for value in values], dtype="Float64")
    pd.testing.assert_extension_array_equal(rows["value"].array, expected, check_exact=True)
    assert rows["step"].tolist() == list(range(len(values)))
    assert set(rows["note"]) == {note}


def test_nothing_of_the_machine_is_in_a_submission(tmp_path, monkeypatch):
    """Its folders, user and host are given names that stand out; a plugin file lies there and a job fails there."""
    monkeypatch.setattr("platform.node", lambda: "strangehost")
    monkeypatch.setenv("LOGNAME", "strangeuser")
    home = tmp_path / "home" / "strangeuser"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    raising = """import getpass, platform
            raise OSError(f"{__file__} on {platform.node()} of {getpass.getuser()} is locked")
            yield"""
    mine = home / "mine.py"
    mine.write_text(ATTACK.replace("yield loss", raising))
    path = submitted(suite_file(home), home, plugins=[mine], attackers=["my_attack"], store=home / "store")
    text = gzip.decompress(path.read_bytes()).decode()
    assert "is locked" in "".join(cell.failed or "" for cell in read_write.read(path).cells)
    for name in ("strangehost", "strangeuser", str(tmp_path), "/home", "immunebench_plugin"):
        assert name not in text


def test_a_folder_in_a_plugins_settings_is_refused_before_it_is_published(content, tmp_path):
    defense = content["suite"]["grids"][0]["defenses"]["shrinking"]
    for folder in (Path.home(), Path("/mnt/else")):
        defense["params"]["weights"] = str(folder / "weights.safetensors")
        write_content(content, tmp_path / pack.RUN)
        with pytest.raises(UsageError, match=r"names folders of this machine, at suite\.grids\.0\.defenses\.shrinking"):
            pack.submit(tmp_path, tmp_path / "sub.json.gz")
    assert not (tmp_path / "sub.json.gz").exists()


def change(path, value):
    """A change of the content at a path of keys."""

    def apply(content):
        *parents, last = path
        part = content
        for parent in parents:
            part = part[parent]
        part[last] = value

    return apply


def bomb(content):
    """Few bytes that stand for very many: a long note in a kind of many values and cells."""
    kind = [{"metric": "sharpness", "value": None, "step": step, "note": "x" * 20000} for step in range(500)]
    content["kinds"].append(kind)
    cell = {**content["cells"][0], "kind": len(content["kinds"]) - 1, "values": [1.0] * len(kind)}
    content["cells"] += [{**cell, "key": f"{place:064x}"} for place in range(60)]


def twice(content):
    content["cells"].append(content["cells"][0])


def two_grids(content):
    content["suite"]["grids"] *= 2


def other_job(content):
    cell = {name: content["cells"][0][name] for name in ("key",)}
    content["cells"].append({**cell, "coordinates": content["cells"][1]["coordinates"], "failed": "lost"})


CELL, GRID = ["cells", 0], ["suite", "grids", 0]
SHRINKING = [*GRID, "defenses", "shrinking"]
SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change([*CELL, "values", 0], 1e6), "the values do not have the digest"),
        (change([*CELL, "values", 0], "1"), "cells.0.values.0"),
        (change([*CELL, "values", 0], True), "cells.0.values.0"),
        (change([*CELL, "files"], {}), "the values do not have the digest"),
        (change([*CELL, "values"], []), "the number of values differs from that of its kind"),
        (change([*CELL, "kind"], 10**6), "the number of values differs from that of its kind"),
        (change([*CELL, "kind"], -1), "cells.0.kind"),
        (change([*CELL, "kind"], None), "must have values, pictures or the reason"),
        (change([*CELL, "failed"], "lost"), "the number of values differs from that of its kind"),
        (change(["cells"], []), "cells"),
        (bomb, "its values, written out, are longer than 512 MiB"),
        (twice, "a duplicate cell"),
        (other_job, "or a job with different values in two cells"),
        (change([*CELL, "coordinates", "grid"], "elsewhere"), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "defense"], "mine"), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "attacker"], "mine"), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "task"], "3"), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "task"], None), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "seed"], 7), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "seed"], "one"), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "measured_by"], None), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "role"], 1), "the suite does not have these coordinates"),
        (change([*CELL, "coordinates", "colour"], "red"), "cells.0.coordinates.colour"),
        (change([*CELL, "coordinates", "\x1b[2J"], "red"), r"cells.0.coordinates.'\x1b[2J'"),
        (change([*CELL, "coordinates", "status"], "failed"), "cells.0.coordinates.status"),
        (change([*CELL, "coordinates", "seed"], 2**63), "cells.0.coordinates.seed"),
        (change([*CELL, "values", 0], 10**400), "cells.0.values.0"),
        (change([*CELL, "coordinates", "task"], "../../x"), "cells.0.coordinates.task"),
        (change([*CELL, "coordinates", "task"], SCRIPT), "cells.0.coordinates.task"),
        (change([*CELL, "coordinates", "defense"], "a|b"), "cells.0.coordinates.defense"),
        (change([*CELL, "files", "../../x.png"], "0" * 64), "cells.0.files"),
        (change([*CELL, "files", "/etc/x.png"], "0" * 64), "cells.0.files"),
        (change([*CELL, "files", "x.pkl"], "0" * 64), "cells.0.files"),
        (change(["suite", "name"], "../digits"), "suite.name"),
        (change(["suite", "name"], SCRIPT), "suite.name"),
        (change(["suite", "title"], "\x1b[2Jgone"), "suite.title"),
        (change(["suite", "folder"], "/etc"), "suite.folder"),
        (change(["suite", "plugins"], ["/etc/x.py"]), "suite.plugins"),
        (change(["suite", "published"], "/etc/passwd"), "suite.published"),
        (change([*SHRINKING, "call"], "\x1b[2Jgone"), "suite.grids.0.defenses.shrinking.call"),
        (change([*SHRINKING, "module"], "os"), "module is not a field of a submission"),
        (change([*SHRINKING, "file"], "/tmp/x.py"), "file is not a field of a submission"),
        (change([*GRID, "reference", "attribute"], "system"), "attribute is not a field of a submission"),
        (change([*SHRINKING, "deterministic"], "yes"), "suite.grids.0.defenses.shrinking.deterministic"),
        (change([*GRID, "seeds"], [1] * 1001), "suite.grids.0.seeds"),
        (change([*GRID, "seeds"], ["1"]), "suite.grids.0.seeds.0"),
        (change([*GRID, "quantities"], []), "its grid does not have the quantities of these values"),
        (change([*GRID, "quantities", 0, "title"], "\x1b[2Jgone"), "suite.grids.0.quantities.0.title"),
        (change([*GRID, "quantities", 0, "name"], SCRIPT), "suite.grids.0.quantities.0.name"),
        (change([*GRID, "members", SCRIPT], ["1"]), "suite.grids.0.members"),
        (change(["kinds", 0, 0, "value"], 1), "kinds.0: value: must be null"),
        (change(["kinds", 0, 0, "colour"], "red"), "kinds.0: unknown key 'colour'"),
        (change(["kinds", 0, 0, "defense"], "mine"), "kinds.0: unknown key 'defense'"),
        (change(["kinds", 0, 0, "scale"], "linear"), "kinds.0: unknown key 'scale'"),
        (change(["kinds", 0, 0, "step"], "last"), "kinds.0: step"),
        (change(["kinds", 0, 0, "metric"], None), "kinds.0: metric"),
        (change(["kinds", 0, 0, "variant"], "$\\frac$"), "kinds.0: variant"),
        (change(["kinds", 0, 0, "variant"], SCRIPT), "kinds.0: variant"),
        (change(["kinds", 0, 0, "flag"], SCRIPT), "kinds.0: flag"),
        (two_grids, "two grids have the same name"),
        (change(["kinds", 0, 0], {}), "kinds.0: metric"),
        (change(["sources", 0, "name"], "../x.py"), "sources.0.name"),
        (change(["sources", 0, "name"], "/etc/x.py"), "sources.0.name"),
        (change(["sources", 0, "modules", "a/../../x.py"], "import os"), "sources.0.modules"),
        (change(["costs", 0, "seconds"], -1.0), "costs.0.seconds"),
        (change(["format"], 0), "format"),
        (change(["format"], True), "format"),
        (change(["older"], True), "older is not a field of a submission"),
        (change(["more"], 1), "more"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(content, harm, message):
    harm(content)
    with pytest.raises(InvalidSubmission, match="here is not a valid submission: ") as caught:
        read_write.parse(content, "here")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "invalid JSON"),
        (b"\xff\xfe", "invalid JSON"),
        (b"[" * 10**6, "invalid JSON"),
        (b"[" * 200 + b"]" * 200, "nested deeper than 20"),
        (b'["\\ud800"]', "invalid JSON"),
        (b'{"format": 2' + b"0" * 5000 + b"}", "invalid JSON"),
        (b'{"format": NaN}', "NaN is not a number"),
        (b'{"format": -Infinity}', "-Infinity is not a number"),
        (b'{"format": 2, "cells": 1e999}', "invalid JSON"),
        (b'{"format": 2, "format": 1}', "an object has two members with the same name"),
        (b"[1, 2]", "not a valid submission"),
        (b'"text"', "not a valid submission"),
        (pickle.dumps({"format": 2}), "invalid JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message, packed):
    path = tmp_path / "sub.json"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(InvalidSubmission, match=message):
        read_write.read(path)


def test_infinite_numbers_are_refused(content, tmp_path):
    text = json.dumps(content)
    path = tmp_path / "sub.json"
    path.write_text(text.replace('"seconds":', '"seconds":1e999,"x":', 1))
    with pytest.raises(InvalidSubmission, match="invalid JSON"):
        read_write.read(path)


def test_damaged_files_are_refused(honest, tmp_path):
    path = tmp_path / "sub.json.gz"
    for data in (honest.read_bytes()[:-20], honest.read_bytes()[:-8] + b"12345678", b"\x1f\x8b\x08 what"):
        path.write_bytes(data)
        with pytest.raises(InvalidSubmission, match="cannot read"):
            read_write.read(path)
    with pytest.raises(UsageError, match="does not exist"):
        read_write.read(tmp_path / "absent.json")
    with pytest.raises(InvalidSubmission, match="cannot read"):
        read_write.read(tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """A gigabyte of blanks in a megabyte: reading stops at the limit."""
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * 10**7, compresslevel=9) * 100)
    monkeypatch.setattr(read_write, "LIMIT", 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSubmission, match="longer than"):
            read_write.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_a_newer_format_asks_for_an_upgrade(content, tmp_path):
    content["format"] = FORMAT + 1
    with pytest.raises(UsageError, match="has format 3; this harness reads up to 2: upgrade immunebench"):
        read_write.read(write_content(content, tmp_path / "new.json"))


def test_a_swapped_picture_is_refused(content, tmp_path):
    path = add_picture(content, tmp_path)
    assert list(read_write.read(path).pictures()) == [("teachers__1__none__sheet.png", find_digest(content))]
    sheet = tmp_path / "teachers__1__none__sheet.png"
    sheet.write_bytes(b"another")
    with pytest.raises(InvalidSubmission, match=r"none__sheet\.png is missing in the same folder, or was changed"):
        read_write.read(path)
    sheet.unlink()
    with pytest.raises(InvalidSubmission, match="is missing in the same folder"):
        read_write.read(path)
    (tmp_path / "elsewhere").write_bytes(b"picture")
    sheet.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidSubmission, match="is missing in the same folder"):
        read_write.read(path)


def find_digest(content):
    return find(content, measured_by="pictures")["files"]["sheet.png"]


def rename_task(content, label):
    grid = content["suite"]["grids"][0]
    grid["members"][label] = grid["members"].pop("1")
    for cell in content["cells"]:
        if cell["coordinates"]["task"] == "1":
            cell["coordinates"]["task"] = label


def test_a_pictures_name_that_no_file_can_have(content, tmp_path):
    path = add_picture(content, tmp_path)
    rename_task(content, "x" * 300)
    with pytest.raises(InvalidSubmission, match="is missing in the same folder"):
        read_write.read(write_content(content, path))


def test_no_label_leads_a_picture_elsewhere(content, tmp_path):
    add_picture(content, tmp_path)
    rename_task(content, "x/../../../y")
    ((name, _),) = read_write.parse(content, "here").pictures()
    assert name == "teachers__x_.._.._.._y__none__sheet.png"


def test_a_runs_pictures_come_along(content, tmp_path):
    run_folder = add_picture(content, tmp_path / "run").parent
    (run_folder / "sub.json.gz").rename(run_folder / pack.RUN)
    path, submission = pack.submit(run_folder, tmp_path / "to" / "sub.json.gz")
    assert read_write.read(path) == submission
    assert (path.parent / "teachers__1__none__sheet.png").read_bytes() == b"picture"
    (path.parent / "teachers__1__none__sheet.png").write_bytes(b"of another submission")
    with pytest.raises(UsageError, match="has a different picture"):
        pack.submit(run_folder, tmp_path / "to" / "other.json.gz")
    assert not (tmp_path / "to" / "other.json.gz").exists()
    with pytest.raises(UsageError, match=r"sub\.json\.gz has other content: --force replaces it"):
        pack.submit(run_folder, path)
    pack.submit(run_folder, path, force=True)
    assert read_write.read(path) == submission


def test_a_submission_of_other_content_is_replaced_only_by_force(honest, tmp_path):
    path, submission = pack.submit(honest.parent / "run", tmp_path / "sub.json.gz")
    assert pack.submit(honest.parent / "run", path) == (path, submission)
    method = Method(title="Scaling")
    with pytest.raises(UsageError, match="--force replaces it, --out FILE writes elsewhere"):
        pack.submit(honest.parent / "run", path, method)
    assert read_write.read(path) == submission
    pack.submit(honest.parent / "run", path, method, force=True)
    assert read_write.read(path).method == method


PICTURES = '''
class Sheet(Stage, track="two_layer", version=1):
    """Leave a picture."""

    model: Stage

    def run(self, folders, out):
        (out / "sheet.png").write_bytes(b"of " + self.model.plugin.name.encode())


class Pictured(TwoLayerTrack):
    """The same track with pictures."""

    name = "pictured"

    def pictures(self, repetition, models, undefended, attackers):
        yield from (({"defense": row}, Sheet(model=model)) for row, model in models.items())
        yield {}, Sheet(model=undefended)
'''


def test_pictures_of_a_track_are_cells_without_values(tmp_path):
    from tests.submission.forge import TWO_LAYER

    text = TWO_LAYER.read_text().replace('track = "two_layer"', 'track = "any"')
    (tmp_path / "pictured.py").write_text(text + PICTURES)
    suite = suite_file(tmp_path, plugins=["pictured.py"], grids__0__track="pictured")
    path = submitted(suite, tmp_path, defenses=["none"])
    submission = read_write.read(path)
    assert [name for name, _ in submission.pictures()] == [
        "teachers__1__none__sheet.png",
        "teachers__1__sheet.png",
        "teachers__2__none__sheet.png",
        "teachers__2__sheet.png",
    ]
    assert (path.parent / "teachers__1__none__sheet.png").read_bytes() == b"of none"
    assert "pictures" not in set(submission.records().frame["measured_by"])


def test_a_run_folder_without_a_submission(tmp_path, content):
    with pytest.raises(UsageError, match=r"has no run\.json\.gz"):
        pack.submit(tmp_path)


def test_a_submission_goes_into_its_suites_folder(honest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(honest.parent / "run", tmp_path / "mine")
    path, _ = pack.submit(tmp_path / "mine")
    assert path == Path("results/submissions/small/mine.json.gz")
    assert path.is_file()


def test_an_interrupted_run_can_be_packed(honest, tmp_path):
    """Of a job that failed, the cells that need it fail, and no artifact is read."""
    plan, store = make(load(str(suite_file(tmp_path)))), Store(tmp_path / "store")
    opening = pack.opening(plan, store)
    scheduler.run(plan, store, executors.Serial())
    lost = {cell.job.key: "cannot read /home/me/x\nagain" for cell in plan.cells[:1]}
    submission = pack.pack(plan, store, lost, opening)
    assert submission.cells[0].failed == "cannot read x again"
    assert submission.cells[0].kind is None
    assert all(cell.failed is None for cell in submission.cells[1:])
