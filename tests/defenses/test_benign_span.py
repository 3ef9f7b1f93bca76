"""The control that keeps nothing but the named benign task."""

from harness.probe.data import ProbeData, load
from harness.probe.metrics.retention import Retention
from harness.probe.model import Extractor, LinearProbe
from harness.probe.optimum import optimum
from harness.probe.plugin import ReleasedData
from harness.probe.tasks import Task


def retention(model: Extractor, data: ProbeData) -> dict[str, float]:
    targets = {"benign": data.train.benign, "harmful": data.train.harmful, "heldout": data.heldout}
    known = ReleasedData(**targets, score=data.score, further=data.further, loss="squared", optima={}, undefended={})
    return {value["role"]: value["value"] for value in Retention().measure(model, known)}


def test_it_passes_the_older_measures_and_loses_the_other_tasks(build):
    """The best benign score stays, and no attacker, whitened features included, comes near the best harmful loss:
    excess .69, which is 0 on every other row. What it destroys is seen on further benign tasks alone."""
    data, model = load(Task(data="house_prices")), Extractor(79)
    undefended = retention(model, data)
    best = optimum(data.train.benign, data.heldout.benign, "squared", data.score).best_score
    list(build("defense", "benign_span").immunize(model, data.train))

    splits = {part: model.features(getattr(data, part).benign) for part in ("train", "heldout")}
    assert optimum(**splits, loss="squared", score=data.score).best_score >= best
    harmful = model.features(data.train.harmful)
    optimal = optimum(harmful, model.features(data.heldout.harmful), "squared", data.score)
    probe = LinearProbe(79)
    attack = build("attacker", "whitened_descent").adapt(probe, harmful)
    for _ in range(50):
        next(attack)
    excess = (float(probe.loss(harmful).detach()) - optimal.best_loss) / (optimal.null_loss - optimal.best_loss)
    assert excess > 0.5

    released = retention(model, data)
    assert released["benign"] > 0.99 * undefended["benign"]
    assert released["other"] < 0.5 * undefended["other"]


def test_constant_targets_have_a_direction_too(build):
    data, model = load(Task(data="mnist5k", framing="single-class", benign=3, harmful=8)), Extractor(784)
    list(build("defense", "benign_span").immunize(model, data.train))
    features = model.features(data.train.benign)
    assert optimum(features, features, "squared", None).best_loss < 1e-9
