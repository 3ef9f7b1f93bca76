"""The track of deep networks through plan, scheduler and store, on a tiny transformer and folders of pictures."""

import shutil

import pytest
import torch
import yaml

from harness.checkpoints import locate
from harness.deep.model import Released
from harness.errors import RunError, UsageError
from harness.plan import repetitions
from harness.registry import installed
from harness.store import Store
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
    store = Store(tmp_path_factory.mktemp("store"))
    return run(suite, store=store, keep=True), store


def test_every_cell_has_values(result):
    (done, _) = result
    assert not done.failed
    cells = done.values[["task", "defense", "attacker", "seed"]].drop_duplicates()
    assert set(cells["defense"]) == {"none", "condition_number_deep", "rank_one_deep"}
    assert set(cells["attacker"].dropna()) == {"linear_probing", "fine_tuning"}
    assert set(done.values["task"]) == {"vit shirts cars"}


def test_the_undefended_row_is_its_own_measure(result):
    """RIR of θ₀ against itself is 1, and its deviation from the same attack is 0."""
    values = result[0].values
    none = values[values["defense"] == "none"]
    assert set(none.loc[none["metric"].isin(["rir", "kappa_ratio"]), "value"]) == {1.0}
    assert set(none.loc[none["metric"] == "rfd", "value"]) == {0.0}


def test_linear_controls_keep_the_released_accuracy(result):
    values = result[0].values
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


def test_a_released_model_can_be_saved_read_and_measured(result, suite, tmp_path):
    made, store = result[0].plan, result[1]
    job = next(job for job in made.jobs.values() if job.plugin and job.plugin.name == "rank_one_deep")
    track = installed().track("deep", "test")
    out = tmp_path / "released"
    out.mkdir()
    track.save_model(job, store.open(job.key), out)
    repetition = next(iter(repetitions(made.suite.grids[0], track)))
    spec = made.suite.grids[0].reference
    read = track.load_model(repetition, spec, locate(out))
    assert read.weights.digest == locate(out).digest
    first, second = job.base.model(store.open(job.key)), job.base.model(out)
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(first(x), second(x))
    wrong = Released(first.tail, 16, 7)
    wrong.save(out)
    with pytest.raises(UsageError, match=r"has 2 tensors that do not fit the task's model: head.bias has the size"):
        track.load_model(repetition, spec, locate(out))
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        second.load(tmp_path)


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
