"""Rows of released extractors that are read from a folder."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

import harness
from harness.plan import make
from harness.probe.model import FILE, Extractor
from harness.probe.stages import ReadCheckpoint
from harness.selection import Selection
from harness.store import Store
from harness.suite_reader import load
from tests.helpers import change, immunebench
from tests.runs import run

DIM = 79
"""Inputs of the house prices."""


def weights(folder: Path, factor: float = 2.0, **changes: torch.Tensor) -> Path:
    """An extractor in a folder of its own."""
    folder.mkdir(parents=True)
    identity = {"weight": factor * torch.eye(DIM, dtype=torch.float64), "bias": torch.zeros(DIM, dtype=torch.float64)}
    save_file({**identity, **changes}, folder / FILE)
    return folder


def test_a_released_model_read_back_has_the_values_of_its_row(tiny: Path, tmp_path: Path) -> None:
    harness.release(tiny, "random_init", tmp_path / "mine", seed=1)
    records = run(tiny, defenses="random_init", checkpoints=f"read={tmp_path / 'mine'}", seeds=1).values
    records = records[(records["measured_by"] != "cost") | records["attacker"].notna()]
    columns = [column for column in records if column not in ("defense", "key", "seed")]
    ours, theirs = (
        records[records["defense"] == row][columns].reset_index(drop=True) for row in ("read", "random_init")
    )
    assert len(ours) > 20
    pd.testing.assert_frame_equal(ours, theirs)


def test_each_task_takes_its_own_folder_and_may_be_selected(tiny: Path, tmp_path: Path) -> None:
    suite = change(tiny, grids__0__tasks=[{"data": "house_prices", "splits": 3}])
    for task in (1, 3):
        weights(tmp_path / "mine" / f"house_prices split {task}", factor=task)
    chosen = {"tasks": ["house_prices split 1", "house_prices split 3"], "checkpoints": str(tmp_path / "mine")}
    made = make(load(suite, Selection.of(**chosen)))
    (grid,) = made.suite.grids
    assert [task["split"] for task in grid.tasks] == [1, 3]
    assert grid.changed == ["defenses.mine. added", "2 of 3 tasks"]
    assert not grid.notes
    jobs = {job.task.split: job for job in made.jobs.values() if isinstance(job, ReadCheckpoint)}
    assert {task: job.read().weight[0, 0].item() for task, job in jobs.items()} == {1: 1.0, 3: 3.0}
    with pytest.raises(harness.UsageError, match=r"task 'house_prices split 2': .* has no model\.safetensors"):
        make(load(suite, Selection.of(checkpoints=str(tmp_path / "mine"))))
    (grid,) = load(suite, Selection.of(checkpoints=weights(tmp_path / "one"))).grids
    assert grid.notes == ["the checkpoint one is one model for 3 tasks; --task selects the one it is made for"]


def test_attack_prints_the_board_of_the_checkpoint_and_no_defense(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights(tmp_path / "mine")
    done = immunebench("attack", "mine", "--suite", tiny, "--workers", 1, "--attacker", "gradient_descent")
    assert done.returncode == 0, done.stderr
    out = Path("results/runs/attack-mine-tiny")
    assert f"results are in {out}/" in done.stdout
    records = pd.read_parquet(out / "records.parquet")
    assert set(records["defense"]) == {"none", "mine"}
    (call,) = set(records.loc[records["defense"] == "mine", "defense_call"])
    assert call in done.stdout
    (rir,) = records.loc[(records["metric"] == "rir") & (records["defense"] == "mine"), "value"].unique()[:1]
    assert rir == pytest.approx(1)  # a multiple of the identity changes no condition number
    assert "harms" not in done.stdout
    assert not any(str(tmp_path) in str(value) for value in records.to_numpy().ravel())


ONES = torch.ones(DIM, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.eye(3)}, "model.safetensors has tensors of the sizes"),
        ({"head": ONES}, "'head': (79,)"),
        ({"bias": ONES / 0}, "has values that are not finite"),
    ],
)
def test_a_bad_folder_is_one_line_before_anything_is_computed(tiny: Path, tmp_path: Path, changes, message) -> None:
    done = immunebench("plan", tiny, "--checkpoint", weights(tmp_path / "mine", **changes))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not Store().keys()


def test_a_truncated_file_is_one_line(tiny: Path, tmp_path: Path) -> None:
    file = weights(tmp_path / "mine") / FILE
    file.write_bytes(file.read_bytes()[:-8])
    done = immunebench("plan", tiny, "--checkpoint", tmp_path / "mine")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{file} cannot be read" in done.stderr


def test_a_row_reads_weights_of_its_digest_only(tiny: Path, tmp_path: Path) -> None:
    """A suite may name published weights by their digest."""
    folder = weights(tmp_path / "mine")
    given = f"theirs={folder}"
    (grid,) = load(str(tiny), Selection.of(checkpoints=given)).grids
    digest = grid.defenses["theirs"].params["digest"]
    row = {"plugin": "checkpoint", "digest": digest}
    suite = change(tiny, grids__0__defenses={"none": None, "theirs": row})
    (grid,) = load(suite, Selection.of(checkpoints=given)).grids
    assert grid.changed == []
    with pytest.raises(harness.UsageError, match="give the folder with the weights of 'theirs': --checkpoint theirs="):
        load(suite)
    Extractor(DIM).save(folder)
    with pytest.raises(harness.UsageError, match=f"the row has those of {digest[:8]}"):
        load(suite, Selection.of(checkpoints=given))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": ["random_init=FOLDER"]}, "the suite has a row 'random_init'; choose another name"),
        ({"checkpoints": ["a=FOLDER", "a=/"]}, "another checkpoint is called 'a'"),
        ({"checkpoints": "a="}, "name a folder after ="),
        ({"checkpoints": ["*=FOLDER"]}, "write NAME=DIR"),
        ({"defenses": "checkpoint"}, "--checkpoint checkpoint=DIR"),
        ({"checkpoints": 3}, "checkpoints: must be a list"),
        ({"tasks": "house_price"}, "runs no task 'house_price'; did you mean house_prices"),
    ],
)
def test_wrong_options(tiny: Path, tmp_path: Path, options, message) -> None:
    folder = str(weights(tmp_path / "mine"))
    placed = {
        name: [text.replace("FOLDER", folder) for text in given] if isinstance(given, list) else given
        for name, given in options.items()
    }
    with pytest.raises(harness.UsageError) as caught:
        load(str(tiny), Selection.of(**placed))
    assert message in str(caught.value)


def test_tuned_attackers_have_the_settings_for_no_defense(tiny: Path, tmp_path: Path) -> None:
    """None were searched against a checkpoint."""
    searched = {"none": {"lr": 0.3}, "random_init": {"lr": 0.5}}
    content = {
        "format": 1,
        "suite": "tiny",
        "version": 3,
        "trials": 2,
        "epsilon": 0.05,
        "attackers": {"adam": searched},
    }
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(content))
    suite = change(tiny, grids__0__attackers={"adam": {"tuned": "tuned.yaml"}})
    chosen = Selection.of(defenses=["none", "random_init"], checkpoints=weights(tmp_path / "mine"))
    (grid,) = load(suite, chosen).grids
    rates = {row: grid.attacker("adam", row).params["lr"] for row in grid.defenses}
    assert rates == {"none": 0.3, "random_init": 0.5, "mine": 0.3}


def test_a_track_that_reads_no_models(tmp_path: Path) -> None:
    with pytest.raises(harness.UsageError, match="track 'two_layer' reads no checkpoints"):
        run(checkpoints=str(weights(tmp_path / "mine")))
