"""The track of deep networks through plan, scheduler and store, on a tiny transformer and folders of pictures."""

import shutil

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

import harness
from harness import Folders, Located
from harness.deep import data, extractors
from harness.deep.model import Released
from harness.deep.stages import Activations
from harness.errors import RunError, UsageError
from tests.deep.folders import write_classes, write_vit
from tests.runs import plan, run

SUITE = """
format: 1
name: tiny_deep
version: 1
title: A tiny transformer
seeds: 2
grids:
  - name: tiny
    track: deep
    tasks: [{extractor: vit, benign: shirts, harmful: cars, other: null, size: 16}]
    protocol: {steps: 4, measure_at: [0, 1, 4], rows: 100}
    defenses:
      none:
      condition_number_deep: {steps: 2, batch_size: 16}
      rank_one_deep: {gain: 2}
    attackers:
      linear_probing: {optimiser: adam, batch: null, rates: [0.1]}
      fine_tuning: {batch: 16, rates: [1.e-3]}
      all_weights: {plugin: fine_tuning, part: network, batch: 16, rates: [1.e-3]}
      lora_deep: {batch: 16, rates: [1.e-2]}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    write_vit(folder / "vit")
    write_classes(folder / "shirts", classes=("a", "b"), train=20, test=6, seed=1)
    write_classes(folder / "cars", classes=("a", "b", "c"), train=20, test=6, seed=2)
    (folder / "suite.yaml").write_text(SUITE)
    return folder / "suite.yaml"


@pytest.fixture(scope="module")
def result(suite, tmp_path_factory):
    return run(suite, store=tmp_path_factory.mktemp("store"))


def test_every_cell_has_values(result):
    assert not result.failed
    cells = result.values[["task", "defense", "attacker", "seed"]].drop_duplicates()
    assert set(cells["defense"]) == {"none", "condition_number_deep", "rank_one_deep"}
    assert set(cells["attacker"].dropna()) == {"linear_probing", "fine_tuning", "all_weights", "lora_deep"}
    assert set(result.values["task"]) == {"vit shirts cars"}


def test_attacks_on_the_trunk_leave_the_one_that_all_share(suite, result):
    network = extractors.load(str(suite.parent / "vit"), 16).trunk.network
    saved = load_file(suite.parent / "vit" / "model.safetensors")
    own = network.state_dict()
    assert own.keys() == {key for key in saved if not key.startswith(("blocks.1.", "norm."))}
    assert all(torch.equal(value, saved[key]) for key, value in own.items())


def test_an_attack_on_the_trunk_receives_the_pictures_of_its_rows(suite, tmp_path):
    """The trunk maps them to the activations of the same rows. Pictures that have changed since are refused."""
    copy = tmp_path / "cars"
    shutil.copytree(suite.parent / "cars", copy)
    job = Activations(
        extractor=Located.of(str(suite.parent / "vit"), extractors.CONTENT),
        size=16,
        data=Located.of(str(copy), data.FOLDER),
    )
    out = tmp_path / "out"
    out.mkdir()
    job.run(Folders({}), out)
    places = torch.tensor([70, 0, 33])
    trunk = extractors.load(job.extractor.path, 16).trunk
    with torch.no_grad():
        own = trunk(job.pictures(places))
    torch.testing.assert_close(own, job.read(Folders({job.key: out}))[places])
    write_classes(copy, classes=("a",), train=1, test=0, seed=9)
    with pytest.raises(RunError, match=r"cars has other content here .* than in the plan"):
        job.pictures(places)


def test_the_undefended_row_is_its_own_measure(result):
    """RIR of θ₀ against itself is 1, and its deviation from the same attack is 0."""
    values = result.values
    none = values[values["defense"] == "none"]
    assert set(none.loc[none["metric"].isin(["rir", "kappa_ratio"]), "value"]) == {1.0}
    assert set(none.loc[none["metric"] == "rfd", "value"]) == {0.0}


def test_linear_controls_keep_the_released_accuracy(result):
    values = result.values
    kept = values[(values["metric"] == "retention") & (values["variant"] == "released")]
    by_defense = kept.groupby("defense")["value"].agg(set)
    assert by_defense["rank_one_deep"] == by_defense["none"]


def test_activations_are_computed_once_for_all_rows_and_seeds(suite):
    jobs = plan(suite).jobs.values()
    assert sum(job.name == "activations" for job in jobs) == 2
    assert sum(job.name == "base" for job in jobs) == 1


def test_keys_name_contents_not_places(suite, tmp_path):
    """A copy elsewhere has the same keys; another picture gives others."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(suite.parent, copy)
    assert set(plan(copy / "suite.yaml").jobs) == set(plan(suite).jobs)
    write_classes(copy / "cars", classes=("a",), train=1, test=0, seed=9)
    changed = set(plan(copy / "suite.yaml").jobs) - set(plan(suite).jobs)
    assert len(changed) == len(plan(suite).jobs) - 2  # all but the benign activations and the base model


def test_a_released_model_read_back_has_the_values_of_its_row(suite, tmp_path):
    harness.release(suite, "rank_one_deep", tmp_path / "mine", seed=1)
    values = run(suite, defenses="rank_one_deep", checkpoints=f"read={tmp_path / 'mine'}", seeds=1).values
    values = values[(values["measured_by"] != "cost") | values["attacker"].notna()]
    columns = [column for column in values if column not in ("defense", "key", "seed")]
    ours, theirs = (
        values[values["defense"] == row][columns].reset_index(drop=True) for row in ("read", "rank_one_deep")
    )
    assert len(ours) > 20
    pd.testing.assert_frame_equal(ours, theirs)


def test_weights_that_do_not_fit_are_one_line_before_anything_is_computed(suite, tmp_path):
    extractor = extractors.load(str(suite.parent / "vit"), 16)
    Released(extractor.tail, extractor.dim, 7).save(tmp_path)
    with pytest.raises(UsageError, match=r"2 tensors that do not fit the task's model: head.bias has the size \(7,\)"):
        plan(suite, checkpoints=str(tmp_path))


def test_a_missing_extractor_fails_its_cells_with_one_line(suite, tmp_path):
    content = yaml.safe_load(suite.read_text())
    content["grids"][0]["tasks"][0] |= {"extractor": "resnet18", "benign": str(suite.parent / "shirts")}
    content["grids"][0]["tasks"][0]["harmful"] = str(suite.parent / "cars")
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(content))
    done = run(path, seeds=1)
    reasons = set(done.failed.values())
    assert any("cannot load extractor 'resnet18'" in reason for reason in reasons)
    assert all("\n" not in reason for reason in reasons)
