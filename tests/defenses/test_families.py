"""Families of harmful tasks, and multipliers instead of fixed weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from defenses._extractor import Batch
from harness.probe import initial_extractor
from harness.probe.data import ProbeTargets, Split, load
from harness.probe.model import Extractor
from harness.probe.tasks import Task

FLOOR = 1e-6


@pytest.fixture
def targets():
    """A benign task and a family of three harmful ones with features of unlike shape, 24 rows of 5 features each."""
    generator = torch.Generator().manual_seed(3)

    def rows(scales):
        x = torch.randn(24, 5, dtype=torch.float64, generator=generator) * torch.tensor(scales, dtype=torch.float64)
        return Split(x, (x[:, 0] > 0).double())

    benign, *family = (rows(scales) for scales in ([1] * 5, [1] * 5, [3, 1, 1, 1, 1], [1, 1, 1, 2, 2]))
    pooled = Split(torch.cat([member.x for member in family]), torch.cat([member.y for member in family]))
    return ProbeTargets(benign, pooled, family=tuple(family), seed=4)


def r_ill(x):
    """1/(‖S‖²/(2k) − ½σ_min²) with k = 2 and the released code's σ_min, the floor."""
    s = x.T @ x
    return 1 / (s.square().sum() / 4 - FLOOR**2 / 2)


@pytest.mark.parametrize(("over", "share", "worst"), [("mean", 0.5, 3), ("max", 0.5, 1), ("cvar", 0.5, 2)])
def test_the_objective_is_of_the_worst_members(build, targets, over, share, worst):
    defense = build("defense", "condition_number_family", over=over, share=share, k=2, weight_harmful=7.0)
    benign, *members = (Batch(task.x, task.x, task.y) for task in (targets.benign, *targets.members))
    head = torch.ones(5, dtype=torch.float64)
    ills = sorted((float(r_ill(member.features)) for member in members), reverse=True)[:worst]
    found = defense.family_objective(benign, members, head) - defense.kept(benign, head)
    assert float(found) == pytest.approx(7.0 * sum(ills) / len(ills), rel=1e-9)


def test_a_family_of_one_is_the_defense_of_one_task(build, targets):
    one = replace(targets, harmful=targets.family[1], family=targets.family[1:2])
    released = [Extractor(5), Extractor(5)]
    for model, name in zip(released, ("condition_number", "condition_number_family"), strict=True):
        list(build("defense", name, epochs=3, batch_size=8).immunize(model, one))
    assert torch.equal(released[0].weight, released[1].weight)


def test_members_are_not_pooled(build, targets):
    """The mean over members of R_ill is not R_ill of all rows."""
    pooled, apart = Extractor(5), Extractor(5)
    list(build("defense", "condition_number", epochs=3, batch_size=8).immunize(pooled, targets))
    list(build("defense", "condition_number_family", over="mean", epochs=3, batch_size=8).immunize(apart, targets))
    assert not torch.allclose(pooled.weight, apart.weight)


def log_kappa(features):
    return ((torch.linalg.eigvalsh(features.T @ features)[-1] + FLOOR) / FLOOR).log()


def plain_corridor(targets, width, rho, dual_lr, epochs, size):
    """The losses of the method, by autograd through dense Hessians."""
    draw = torch.Generator().manual_seed(targets.seed)
    rows = min(len(targets.benign), len(targets.harmful))
    theta = Extractor(5)
    initial_extractor(theta, draw)
    weight, bias = (nn.Parameter(part.detach().clone()) for part in (theta.weight, theta.bias))
    torch.randn(5, dtype=torch.float64, generator=draw)  # the head, which the objective does not read
    optimiser = torch.optim.Adam([weight, bias], lr=0.05)
    centre = torch.stack([log_kappa(batch) for batch in targets.benign.x.split(size)]).mean()
    upper = lower = 0.0
    losses = []
    for _ in range(epochs):
        for index in torch.randperm(rows, generator=draw).split(size):
            kept, raised = (log_kappa(x[index] @ weight.T + bias) for x in (targets.benign.x, targets.harmful.x))
            over, under = kept - centre - width, centre - kept - width
            forces = [max(0.0, upper + rho * over), max(0.0, lower + rho * under)]
            loss = -raised + sum(force**2 for force in forces) / (2 * rho)
            upper, lower = max(0.0, upper + dual_lr * over.item()), max(0.0, lower + dual_lr * under.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss))
    return losses


def test_the_corridor_is_the_method_of_multipliers(build, targets):
    defense = build("defense", "kappa_corridor", width=0.2, penalty=3.0, dual_lr=0.7, lr=0.05, epochs=6, batch_size=8)
    losses = [float(loss) for loss in defense.immunize(Extractor(5), targets)]
    assert losses == pytest.approx(plain_corridor(targets, 0.2, 3.0, 0.7, 6, 8), rel=1e-6)


@pytest.mark.parametrize("policy", ["floor", "range"])
def test_the_benign_condition_number_stays_in_the_corridor(build, targets, policy):
    """With hardly a penalty and no multipliers it leaves."""
    distances = []
    for force in ({}, {"penalty": 1e-3, "dual_lr": 0.0}):
        model = Extractor(5)
        defense = build(
            "defense", "kappa_corridor", width=0.5, policy=policy, lr=0.02, epochs=300, batch_size=24, **force
        )
        list(defense.immunize(model, replace(targets, harmful=targets.family[1])))
        values = [defense.log_kappa(x @ x.T) for x in (model.features(targets.benign).x.detach(), targets.benign.x)]
        distances.append(abs(float(values[0] - values[1])))
    assert distances[0] < 0.55
    assert distances[1] > 1.0


def test_a_defense_knows_its_family_and_no_other_digit():
    seen = load(Task(data="mnist5k", framing="single-class", benign=0, harmful=8, family=(3, 8)))
    unseen = load(Task(data="mnist5k", framing="single-class", benign=0, harmful=9, family=(3, 8)))
    single = [Task(data="mnist5k", framing="single-class", benign=0, harmful=digit) for digit in (3, 8, 9)]
    alone = {task.harmful: load(task).train.harmful for task in single}
    for task in (seen, unseen):
        assert [len(member) for member in task.targets.members] == [len(alone[3]), len(alone[8])]
        assert torch.equal(task.targets.members[1].x, alone[8].x)
        rows = sorted(task.targets.harmful.x.sum(1).tolist())
        assert rows == sorted(torch.cat([alone[3].x, alone[8].x]).sum(1).tolist())
    assert torch.equal(unseen.train.harmful.x, alone[9].x)
    first = seen.targets.harmful.x[: len(alone[3])].sum(1).tolist()
    assert 0 < len(set(first) & set(alone[8].x.sum(1).tolist())) < len(alone[8])  # the order mixes the members
