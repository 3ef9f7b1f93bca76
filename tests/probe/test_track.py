"""The track's jobs: which are shared, what they draw from, what they leave."""

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import torch
import yaml

from harness.errors import RunError, UsageError
from harness.execution.executors import local
from harness.execution.scheduler import run
from harness.meter import Cost
from harness.metric import read_values
from harness.plan import make
from harness.probe import data
from harness.probe.model import Extractor, LinearProbe
from harness.probe.optimum import scores
from harness.probe.plugin import TrainingRows
from harness.probe.stages import ATTACK, Attack, Immunize, MeasureReleased
from harness.probe.tasks import LABELS, Data, Task
from harness.probe.track import ProbeTrack, Protocol
from harness.registry import Registry, installed
from harness.stage import Folders
from harness.store import Store
from harness.store.tensors import load_tensors
from harness.suite_reader import load
from harness.track import Repetition

HOUSES = Task(data="house_prices")
PAIR = Task(data="mnist5k", framing="one-vs-rest", benign=3, harmful=8)
TRACK = ProbeTrack()


def spec(kind, name, **settings):
    return installed().get(kind, name).spec(settings, "test")


def repetition(task=HOUSES, seed=1, **protocol):
    return Repetition(task, Protocol(**protocol), seed)


def attacks(repetition, defense):
    """The jobs of the attacks of a random attacker on both tasks."""
    attacker = spec("attacker", "adam").model_copy(update={"deterministic": False})
    metric = spec("metric", "convergence")
    undefended = TRACK.immunize(repetition, spec("defense", "none"))
    model = TRACK.immunize(repetition, spec("defense", defense))
    cells = TRACK.measure(repetition, metric, model, undefended, attacker)
    return {coordinates["role"]: job.attacked.attack for coordinates, job in cells}


def test_two_defenses_meet_the_same_attack():
    one, other = (attacks(repetition(), defense) for defense in ("random_init", "whitening"))
    for role, attack in one.items():
        assert attack.seed == other[role].seed
        assert attack.key != other[role].key  # on other models
        assert attack.plugin == other[role].plugin
    assert one["benign"].seed != one["harmful"].seed


def test_tasks_and_seeds_share_no_draw():
    seeds = []
    for task in (HOUSES, PAIR, PAIR.model_copy(update={"harmful": 4})):
        for seed in (1, 2):
            jobs = attacks(repetition(task, seed), "random_init")
            seeds += [jobs["harmful"].model.seed, jobs["harmful"].seed, jobs["benign"].seed]
    assert len(set(seeds)) == len(seeds) == 18


def test_a_deterministic_defense_draws_nothing():
    models = [TRACK.immunize(repetition(seed=seed), spec("defense", "whitening")) for seed in (1, 2)]
    assert models[0].seed is None
    assert models[0].key == models[1].key
    assert not models[0].random


def test_run_costs_are_of_the_attack_on_the_harmful_task():
    model = TRACK.immunize(repetition(), spec("defense", "none"))
    (attack,) = TRACK.attacks(repetition(), model, spec("attacker", "adam"))
    assert isinstance(attack, Attack)
    assert attack.role == "harmful"
    assert attack.work == 100


def test_a_plan_shares_what_it_can(tiny: Path):
    """none once, two random defenses on two seeds; optima once a model; two attackers on two tasks each."""
    plan = make(load(str(tiny)))
    stages = pd.Series([type(job).__name__ for job in plan.jobs.values()]).value_counts()
    models = 1 + 2 + 2
    assert stages[["Immunize", "FindOptima", "Attack", "MeasureReleased", "MeasureAttacked"]].tolist() == [
        models,
        models,
        models * 2 * 2,
        models * 4,
        models * 2 * 2,
    ]
    seeds = {(cell.coordinates["defense"], cell.coordinates["seed"]) for cell in plan.cells}
    assert seeds == {("none", None), *((d, s) for d in ("random_init", "condition_number") for s in (1, 2))}


def test_keys_depend_on_the_data(monkeypatch):
    before = TRACK.immunize(repetition(), spec("defense", "none"))
    monkeypatch.setattr(data, "digest", lambda name: "0" * 64)
    assert TRACK.immunize(repetition(), spec("defense", "none")).key != before.key


def test_data_that_cannot_be_loaded_fails_the_cells_that_need_it(fresh, tiny: Path, tmp_path: Path, monkeypatch):
    digits = "{data: mnist5k, framing: single-class, pairs: [[3, 8]]}"
    tiny.write_text(tiny.read_text().replace("{data: house_prices}]", f"{{data: house_prices}}, {digits}]"))

    def missing():
        raise RunError("data package is not installed; pip install it")

    monkeypatch.setitem(data._TABLES, "house_prices", missing)
    plan = make(load(str(tiny)))
    undefended = [cell for cell in plan.cells if cell.coordinates["defense"] == "none"]
    plan = plan.part({cell.job.key for cell in undefended if isinstance(cell.job, MeasureReleased)})
    failed = run(plan, Store(tmp_path / "store"), local(1))
    by_task = {cell.coordinates["task"]: failed.get(cell.job.key) for cell in plan.cells}
    assert by_task == {"house_prices": "data package is not installed; pip install it", "P3-H8": None}


@pytest.mark.parametrize("rows", [None, "0" * 64])
def test_a_job_reads_the_data_of_its_key_or_none(rows, tmp_path):
    """Data that appeared or changed after the plan was made would be kept under the key of others."""
    job = TRACK.immunize(Repetition(HOUSES, Protocol(), 1), spec("defense", "none"))
    other = type(job)(task=job.task, plugin=job.plugin, rows=rows)
    with pytest.raises(RunError, match="the data set house_prices has other values here than in the plan"):
        other.run(Folders({}), tmp_path)
    job.run(Folders({}), tmp_path)


def test_known_values_of_closed_forms(tiny: Path, tmp_path: Path):
    """House prices: RIR of whitening and rank one, which draw nothing; rank one leaves the benign κ as it is."""
    content = yaml.safe_load(tiny.read_text())
    content["grids"][0]["defenses"] = dict.fromkeys(("none", "whitening", "rank_one"))
    tiny.write_text(yaml.safe_dump(content))
    plan = make(load(str(tiny)))
    plan = plan.part({cell.job.key for cell in plan.cells if isinstance(cell.job, MeasureReleased)})
    store = Store(tmp_path / "store")
    assert run(plan, store, local(1)) == {}
    values = {
        (cell.coordinates["defense"], *(value.get(name) for name in ("metric", "role", "variant", "split"))): value
        for cell in plan.cells
        for value in read_values(store.folder(cell.job.key))
    }
    assert values["none", "rir", None, "floor", "train"]["value"] == 1
    assert values["whitening", "rir", None, "floor", "train"]["value"] == pytest.approx(324.7, rel=2e-3)
    assert values["rank_one", "rir", None, "floor", "train"]["value"] == pytest.approx(46.98, rel=2e-3)
    assert values["rank_one", "kappa_ratio", "benign", "floor", "train"]["value"] == pytest.approx(1, rel=1e-4)
    assert values["rank_one", "rank", "harmful", None, "train"]["value"] == 74
    assert values["none", "best_loss", "harmful", None, "train"]["value"] == pytest.approx(0.0454, rel=1e-2)


def test_an_attack_chooses_a_step_on_rows_that_it_does_not_fit(tmp_path: Path, build):
    """The validation scores are those of a run on four fifths of the rows, on the other fifth."""
    model = TRACK.immunize(repetition(), spec("defense", "none"))
    (attack,) = TRACK.attacks(
        repetition(steps=5, measure_at=[0, 2, 5]), model, spec("attacker", "krylov", intercept=True)
    )
    folders = Folders({model.key: tmp_path / "model"})
    for job, folder in ((model, tmp_path / "model"), (attack, tmp_path / "attack")):
        folder.mkdir()
        job.run(folders, folder)
    tensors = load_tensors(tmp_path / "attack" / ATTACK)
    rows = data.load(HOUSES).train.harmful
    fit, validation = TrainingRows(rows.x, rows.y).split()
    assert (len(fit), len(validation)) == (160, 40)
    for split, steps in ((rows, (0, 2, 5)), (fit, (2, 5))):
        probe = LinearProbe(79)
        generator = build("attacker", "krylov", intercept=True).generator(probe, TrainingRows(split.x, split.y))
        for step in range(1, 6):
            next(generator)
            column = (0, 2, 5).index(step) if step in steps else None
            if column and split is rows:
                assert torch.equal(tensors["heads"][:, column], probe.weight.detach())
                assert float(tensors["biases"][column]) == float(probe.bias) != 0
            elif column:
                score = scores(probe(validation.x).detach()[:, None], validation.y, data.load(HOUSES).score)
                assert tensors["validation"][column] == pytest.approx(float(score[0]))
    cost = Cost.load(tmp_path / "attack")
    assert (cost.gradients, cost.samples) == (5, 5 * 200)  # the second run is not in it
    assert {step: spent.gradients for step, spent in cost.at.items()} == {2: 2, 5: 5}


KNOWING = '''"""An attacker that knows the weights."""

from harness.probe import ProbeAttacker


class Knowing(ProbeAttacker):
    """Sets the weight to the extractor's first row, or to its seed (a control)."""

    knows_weights = KNOWS

    def adapt(self, model, data):
        while True:
            model.weight.data.copy_(data.extractor.weight[0] if data.extractor else data.y[0] * 0 + data.seed % 97)
            yield 0.0
'''


@pytest.mark.parametrize("knows", [True, False])
def test_only_an_attacker_that_knows_the_weights_receives_them(tmp_path: Path, knows):
    file = tmp_path / "knowing.py"
    file.write_text(KNOWING.replace("KNOWS", str(knows)))
    attacker = Registry().with_files([file]).get("attacker", "knowing").spec({}, "test")
    model = TRACK.immunize(repetition(), spec("defense", "random_init"))
    (attack,) = TRACK.attacks(repetition(steps=1, measure_at=[1]), model, attacker)
    folders = Folders({model.key: tmp_path / "model"})
    for job, folder in ((model, tmp_path / "model"), (attack, tmp_path / "attack")):
        folder.mkdir()
        job.run(folders, folder)
    head = load_tensors(tmp_path / "attack" / ATTACK)["heads"][:, 0]
    weight = Extractor.load(tmp_path / "model").weight.detach()
    assert torch.equal(head, weight[0] if knows else torch.full_like(head, attack.seed % 97))


def test_ranking_and_members():
    ranking = TRACK.ranking(Protocol(success=0.2), attacked=True)
    assert ranking.value == {"metric": "excess_loss", "role": "harmful", "split": "train"}
    assert (ranking.better, ranking.broken, ranking.resolution) == ("higher", 0.2, 1e-3)
    assert ranking.retention == [{"metric": "retention"}]
    assert ranking.adapted == [{"metric": "success", "role": "benign"}]
    ranking = TRACK.ranking(Protocol(), attacked=False)
    assert ranking.value == {"metric": "rir", "variant": "floor", "split": "train"}
    assert ranking.broken is None
    assert TRACK.outcomes(Protocol())["success"].value == {"metric": "success", "role": "harmful", "split": "heldout"}
    assert TRACK.members(PAIR) == ("3", "8")
    assert TRACK.members(HOUSES) == ("house_prices",)
    assert TRACK.members(HOUSES.model_copy(update={"split": 2})) == ("house_prices split 2",)


@pytest.mark.parametrize(
    ("protocol", "rows", "message"),
    [
        ({"loss": "logistic"}, {"none": None}, "loss is logistic"),
        ({}, {"none": None, "mine": {"plugin": "condition_number"}}, "defense 'mine' task_loss is logistic"),
    ],
)
def test_a_logistic_loss_on_prices_is_refused_when_the_suite_is_read(tiny: Path, protocol, rows, message):
    """The preset of this data set, and the same loss on digits, are read."""
    content = yaml.safe_load(tiny.read_text())
    grid = content["grids"][0]
    grid |= {"protocol": {"steps": 2, **protocol}, "defenses": rows}
    tiny.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=f"{message}, but the labels of house_prices are real numbers"):
        load(str(tiny))
    grid["tasks"] = [{"data": "mnist5k", "framing": "one-vs-rest", "pairs": [[3, 8]]}]
    tiny.write_text(yaml.safe_dump(content))
    load(str(tiny))
    grid |= {"tasks": [{"data": "house_prices"}], "protocol": {"steps": 2}}
    grid["defenses"] = {"mine": {"plugin": "condition_number", "preset": "house_prices"}}
    tiny.write_text(yaml.safe_dump(content))
    load(str(tiny))


def test_every_data_set_has_a_kind_of_labels():
    """As many as there are loaders; the rows of those that come with packages have labels of that kind."""
    assert set(LABELS) == set(get_args(Data)) == {*data._DIGITS, *data._TABLES}
    for task in (HOUSES, PAIR):
        labels = {float(y) for y in data.load(task).train.harmful.y}
        assert (labels <= {0.0, 1.0}) == (LABELS[task.data] == "classes")


def test_a_plugin_that_changes_the_rows_changes_them_for_no_other_job():
    job = Immunize(plugin=spec("defense", "none"), task=HOUSES, rows=data.digest("house_prices"))
    for part in ("train", "heldout"):
        for role in ("benign", "harmful"):
            given = getattr(getattr(job.data(), part), role)
            before = given.x.clone()
            given.x.sub_(1)
            assert torch.equal(getattr(getattr(job.data(), part), role).x, before)
