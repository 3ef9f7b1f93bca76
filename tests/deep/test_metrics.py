"""Metrics of deep networks against plain formulas in numpy."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from harness.deep import Course, FeatureSet, Inputs, ReleasedFeatures, Rows, UndefendedCourse
from harness.deep.metrics.attack_accuracy import AttackAccuracy
from harness.deep.metrics.conditioning import FeatureConditioning
from harness.deep.metrics.feature_accuracy import FeatureAccuracy
from harness.deep.trial import released, rows


def draw(seed, count, dim):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def features(seed, dim=8, count=60):
    tasks = {role: Rows(draw(seed + i, count, dim), torch.zeros(count, dtype=torch.int64)) for i, role in ROLES.items()}
    return {role: FeatureSet(task, task, 2) for role, task in tasks.items()}


ROLES = {0: "benign", 1: "harmful"}


def unused():
    raise AssertionError("this metric needs features only")


def measured(metric, data, model=None):
    return {
        (value["metric"], value.get("role"), value.get("variant"), value.get("step")): value["value"]
        for value in metric.measure(model, data)
    }


@pytest.mark.parametrize("dim", [8, 80], ids=["full rank", "fewer rows than features"])
def test_rir_is_that_of_dense_hessians(dim):
    """One group of all rows: κ from the eigenvalues of FᵀF, under each variant."""
    own, base = features(1, dim), features(5, dim)
    values = measured(FeatureConditioning(groups=1, rows=60), ReleasedFeatures(own, base, unused))

    def kappa(task, variant):
        f = task.train.x.double().numpy()
        if variant == "centred":
            f = f - f.mean(0)
        eigenvalues = np.linalg.eigvalsh(f.T @ f)
        if variant == "floor":
            smallest = eigenvalues[0] if dim < 60 else 0.0
            return (eigenvalues[-1] + 1e-6) / (smallest + 1e-6)
        return eigenvalues[-1] / eigenvalues[eigenvalues > 1e-9 * eigenvalues[-1]][0]

    for variant in ("floor", "range", "centred"):
        ratios = {role: kappa(own[role], variant) / kappa(base[role], variant) for role in ROLES.values()}
        for role, ratio in ratios.items():
            assert values["kappa_ratio", role, variant, None] == pytest.approx(ratio, rel=1e-5)
        rir = ratios["harmful"] / ratios["benign"]
        assert values["rir", None, variant, None] == pytest.approx(rir, rel=1e-5)


def test_rir_of_a_model_against_itself_is_one_and_scaling_moves_both_parts_alike():
    base = features(1, dim=80)
    scaled = {role: FeatureSet(Rows(3 * task.train.x, task.train.y), task.heldout, 2) for role, task in base.items()}
    same, larger = (
        measured(FeatureConditioning(groups=3, rows=20), ReleasedFeatures(own, base, unused)) for own in (base, scaled)
    )
    assert set(same.values()) == {1.0}
    assert larger["kappa_ratio", "harmful", "floor", None] == pytest.approx(9, rel=1e-4)
    assert larger["kappa_ratio", "benign", "floor", None] == pytest.approx(9, rel=1e-4)
    for variant in ("floor", "range", "centred"):
        assert larger["rir", None, variant, None] == pytest.approx(1, rel=1e-4)


def test_rir_as_the_released_code_measures_it():
    """BatchNorm scales by the statistics of each group, κ is over the floor, and means over groups are arithmetic. The
    code passes one network twice, so what it prints is always 1."""
    model, base = released(1), released(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tasks = {"benign": rows(3), "harmful": rows(4)}
    sets = {role: FeatureSet(task, task, 3) for role, task in tasks.items()}
    metric = FeatureConditioning(groups=4, rows=30, variants=("training", "itself"))
    data = ReleasedFeatures(sets, sets, lambda: Inputs(base, tasks), seed=5)
    values = measured(metric, data, model)

    draw = torch.Generator().manual_seed(5)
    places = {role: [torch.randperm(160, generator=draw)[:30] for _ in range(4)] for role in tasks}

    def kappas(network, role):
        """30 rows of 8 features: full rank."""
        with torch.no_grad():
            features = [network.features(tasks[role].x[group]).double().numpy() for group in places[role]]
        eigenvalues = [np.linalg.eigvalsh(f.T @ f) for f in features]
        return np.array([(sigma[-1] + 1e-6) / (sigma[0] + 1e-6) for sigma in eigenvalues])

    own, other = deepcopy(model).train(), deepcopy(base).train()
    parts = {role: kappas(own, role) / kappas(other, role) for role in tasks}
    for role, ratio in parts.items():
        assert values["kappa_ratio", role, "training", None] == pytest.approx(ratio.mean(), rel=1e-4)
    rir = (parts["harmful"] / parts["benign"]).mean()
    assert values["rir", None, "training", None] == pytest.approx(rir, rel=1e-4)
    assert {value for (_, _, variant, _), value in values.items() if variant == "itself"} == {1.0}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def course(predicted, validation):
    labels = torch.tensor([0, 1, 2, 3])
    return Course(
        steps=(0, 1, 4, 16),
        predictions=torch.tensor(predicted),
        labels=labels,
        validation=torch.tensor(validation, dtype=torch.float64),
        classes=4,
    )


def test_the_attacker_chooses_its_step_by_validation():
    """Held-out accuracies 1/4, 1/2, 1, 3/4; validation prefers the second step, then the last one."""
    own = course([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 2, 3], [0, 1, 2, 0]], [0.25, 0.6, 0.5, 0.6])
    base = course([[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]], [0.25, 0.9, 0.9, 0.9])
    values = measured(AttackAccuracy(), UndefendedCourse(base), own)
    assert [values["accuracy", "harmful", None, step] for step in own.steps] == [0.25, 0.5, 1, 0.75]
    success = [values["success", "harmful", None, step] for step in own.steps]
    assert success == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    # trapezoids over ln 1, ln 4, ln 16, which are equally far apart
    assert values["area", "harmful", None, None] == pytest.approx((1 / 3 + 2 * (1 / 3) + 2 / 3) / 4)
    assert values["rfd", "harmful", None, None] == pytest.approx(100 * (0.5 + 0 + 0.25) / 3)


def test_a_faster_attack_has_a_negative_deviation():
    slow = course([[0] * 4, [0] * 4, [0, 1, 0, 0], [0, 1, 2, 0]], [0.1, 0.2, 0.3, 0.4])
    fast = course([[0] * 4, [0, 1, 0, 0], [0, 1, 2, 0], [0, 1, 2, 3]], [0.1, 0.2, 0.3, 0.4])
    assert measured(AttackAccuracy(), UndefendedCourse(slow), fast)["rfd", "harmful", None, None] < 0


def test_retention_is_of_the_released_head_and_of_a_new_one():
    """A head of zeros predicts class 0; a new one separates the classes. A third task has no released head."""
    model, task = released(1), rows(2)
    task = Rows(model.features(task.x).detach(), task.y)
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)
    parts = FeatureSet(task.take(torch.arange(120)), task.take(torch.arange(120, 160)), 3)
    tasks = dict.fromkeys(("benign", "harmful", "other"), parts)
    values = measured(FeatureAccuracy(), ReleasedFeatures(tasks, tasks, unused), model)
    assert values["retention", "benign", "released", None] == float((parts.heldout.y == 0).double().mean())
    refitted = values["retention", "benign", "refitted", None]
    assert refitted > 0.85
    assert values["retention", "other", "refitted", None] == refitted
    assert values["best_success", "harmful", None, None] == pytest.approx((refitted - 1 / 3) * 1.5)
    assert ("retention", "other", "released", None) not in values
    assert not any(math.isnan(value) for value in values.values())
