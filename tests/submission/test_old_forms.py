"""Format 1: every committed submission can be read, and says what it said."""

import copy
import gzip
import hashlib
import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.execution import executors
from harness.submission import pack, read_write, verify
from harness.submission.schema import InvalidSubmission
from tests.submission.forge import OLD, ROOT, write_content


def old_content(path: Path = OLD) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def is_old(path: Path) -> bool:
    with gzip.open(path) as file:
        return file.read(12) == b'{"format":1,'


SUBMISSIONS = sorted((ROOT / "results" / "submissions").glob("*/*.json.gz"))
COMMITTED = list(filter(is_old, SUBMISSIONS))


CASES = [
    pytest.param(path, marks=[pytest.mark.slow] * (path.parent.name == "digits"), id=path.name.partition(".")[0])
    for path in [*COMMITTED, OLD]
]


@pytest.mark.parametrize("path", CASES)
def test_every_value_of_a_committed_submission_is_a_row(path):
    """Each figure of a cell (but for those of the mean over attackers) under its new name, to the bit, with the cell's
    coordinates; nothing else."""
    content = old_content(path)
    records = read_write.read(path).records()
    assert records.older
    expected = sorted(
        (
            cell["at"]["defense"],
            str(cell["at"].get("attacker")),
            str(cell["at"].get("seed")),
            str(place.get("role") or cell["at"].get("role")),
            str(place.get("policy")),
            str(place.get("step")),
            repr(None if value is None else float(value)),
        )
        for cell in content["cells"]
        if cell["at"].get("attacker") != "mean"
        for place, value in zip(content["kinds"][cell["kind"]], cell["values"], strict=True)
    )
    columns = ["defense", "attacker", "seed", "role", "variant", "step", "value"]
    rows = records.frame[columns].astype(object)
    rows = rows.where(rows.notna(), None).itertuples(index=False, name=None)
    assert sorted((row[0], *map(str, row[1:-1]), repr(row[-1])) for row in rows) == expected
    grids = {grid.name: {quantity.name for quantity in grid.quantities} for grid in records.suite.grids}
    for (grid, metric), _ in records.frame.groupby(["grid", "metric"]):
        assert metric in grids[grid]
        assert metric not in ("rate", "loss_gap", "rate_area", "erased_rate", "defense_steps", "steps_to_gap")
    assert "mean" not in set(records.frame["attacker"].dropna())


@pytest.mark.parametrize("path", sorted({*SUBMISSIONS} - {*COMMITTED}), ids=lambda path: path.name.partition(".")[0])
def test_a_committed_submission_of_the_present_format_is_read_whole(path):
    """To the last bit. `immunebench verify` compares its keys, which change with the code."""
    content = old_content(path)
    records = read_write.read(path).records()
    assert not records.older
    done = records.frame[records.frame["status"] == "ok"]
    cells = [cell for cell in content["cells"] if "values" in cell]
    values = [value for cell in cells for value in cell["values"]]
    measured = done[done["measured_by"] != "pictures"]["value"]
    assert sorted(map(repr, map(float, measured.dropna()))) == sorted(
        repr(float(value)) for value in values if value is not None
    )
    assert (records.frame["status"] != "ok").sum() == sum("failed" in cell for cell in content["cells"])


def test_the_records_of_the_first_submission():
    records = read_write.read(OLD).records()
    assert (records.suite.name, records.suite.version, len(records.frame)) == ("tiny", 3, 480)
    rir = records.frame.query("defense == 'condition_number' and metric == 'rir' and variant == 'floor'")
    rir = rir[rir["split"] == "train"]
    assert rir["value"].round(4).tolist() == [0.9454, 0.9234]
    assert set(rir["flag"]) == {"floor"}
    assert set(rir["measured_by"]) == {"conditioning"}
    grid = records.suite.grids[0]
    assert grid.ranking.value == {"metric": "excess_loss", "role": "harmful", "split": "train"}
    assert (grid.ranking.better, grid.ranking.broken) == ("higher", 0.1)
    assert grid.ranking.retention == [{"metric": "best_score", "role": "benign"}]
    assert [grid.control(label) for label in grid.defenses] == ["undefended", "control", None]
    assert grid.attackers["adam"].call == "Adam(lr=0.1)"
    assert grid.members == {"house_prices": ["house_prices"]}
    assert grid.protocol["success"] == 0.1
    assert "gap" not in grid.protocol
    steps = records.frame.query("metric == 'steps_to_success' and defense == 'condition_number' and attacker == 'adam'")
    assert steps[steps["role"] == "harmful"]["value"].tolist() == [5.0, 5.0]
    assert set(steps[steps["role"] == "harmful"]["flag"]) == {"lower-bound"}
    cost = records.frame[records.frame["measured_by"] == "cost"]
    assert set(cost["metric"]) == {"seconds", "peak_mb"}


def test_values_of_committed_submissions_by_hand():
    """Read off the files of format 1."""
    folder = ROOT / "results" / "submissions"
    relearning = read_write.read(folder / "relearning" / "relearning.json.gz").records()
    styles = relearning.frame.query("grid == 'styles' and defense == 'none' and attacker == 'lora' and seed == 1")
    attacked = styles[(styles["metric"] == "asr") & styles["concept"].isna() & (styles["role"] == "harmful")]
    old = old_content(folder / "relearning" / "relearning.json.gz")
    cell = next(
        cell
        for cell in old["cells"]
        if cell["at"]["grid"] == "styles" and cell["at"].get("attacker") == "lora" and cell["at"].get("seed") == 1
    )
    kind = old["kinds"][cell["kind"]]
    rates = {
        place["step"]: value
        for place, value in zip(kind, cell["values"], strict=True)
        if place["metric"] == "rate" and place.get("role") == "harmful" and not place.get("concept")
    }
    assert rates
    assert dict(zip(attacked["step"], attacked["value"], strict=False)).items() >= rates.items()
    assert relearning.suite.tuning is None

    personal = read_write.read(folder / "personal" / "personal.json.gz")
    records = personal.records()
    assert int((records.frame["flag"] == "denominator").sum()) == 2
    retained = records.frame.query("metric == 'retention' and role == 'kept' and split == 'train'")
    assert set(retained["measured_by"]) == {"released_success"}
    assert retained["attacker"].isna().all()
    assert records.suite.tuning.seeds == [101]
    assert len(list(personal.pictures())) == 10
    labels = records.frame.groupby("measured_by")["metric"].unique().map(set).to_dict()
    assert labels == {
        "released_success": {"retention", "reachable_asr"},
        "attack_success": {"asr", "retention", "asr_area", "retention_area"},
        "kept_similarity": {"similarity"},
        "similarity": {"similarity"},
        "msgr": {"msgr", "msgr_of_means", "msgr_area"},
        "mrsgr": {"mrsgr", "mrsgr_paired"},
        "cost": {"plugin_steps", "noted", "seconds", "peak_mb"},
    }


def reseal(cell: dict, kinds: list) -> None:
    figures = [{**place, "value": value} for place, value in zip(kinds[cell["kind"]], cell["values"], strict=True)]
    cell["files"]["records.json"] = hashlib.sha256(json.dumps(figures).encode()).hexdigest()


def other_figure(content):
    content["cells"][0]["values"][0] = 1e6


def no_cells(content):
    del content["cells"]


def deep(content):
    content["suite"] = "tiny"


def negative(content):
    content["suite"]["grids"][0]["defenses"]["none"] = -1


def number_kind(content):
    content["cells"][0]["kind"] = -1


def other_label(content):
    content["cells"][0]["at"]["defense"] = "<script>"


def other_judging(content):
    content["judging"]["elsewhere"] = content["judging"].pop("house_prices")


def script_policy(content):
    kind, cell = content["kinds"][0], content["cells"][0]
    kind[2]["policy"] = "<script>"
    for cell in content["cells"]:
        reseal(cell, content["kinds"])


def bomb(content):
    kind = [{"metric": "rir", "value": None, "step": step, "note": "x" * 20000} for step in range(500)]
    content["kinds"].append(kind)
    cell = {**content["cells"][0], "kind": len(content["kinds"]) - 1, "values": [1.0] * len(kind)}
    content["cells"] += [{**cell, "key": f"{place:064x}"} for place in range(60)]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (other_figure, "the figures of a cell are not those of its digest"),
        (no_cells, "KeyError"),
        (deep, "TypeError"),
        (negative, "-1 is no place"),
        (number_kind, "-1 is no place"),
        (other_label, "cells.0.coordinates.defense"),
        (other_judging, "judging is of other grids"),
        (script_policy, "variant"),
        (bomb, "longer than 512 MiB"),
    ],
)
def test_hostile_files_of_format_1_are_refused(harm, message):
    content = copy.deepcopy(old_content())
    harm(content)
    with pytest.raises(InvalidSubmission, match="here is not a valid submission: ") as caught:
        read_write.parse(content, "here")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_earlier_submission_is_neither_verified_nor_submitted_again(tmp_path):
    commit = old_content()["provenance"]["git"]["commit"]
    with pytest.raises(
        UsageError,
        match=f"made by an earlier version of the harness, .*: verify it with immunebench at commit {commit}",
    ):
        verify.verify(OLD, executor=executors.Serial)
    write_content(old_content(), tmp_path / pack.RUN)
    with pytest.raises(UsageError, match=f"written by an earlier harness .*{commit}.*: run the suite again"):
        pack.submit(tmp_path)
