"""The ensemble red_team 1 on a planted weak defense."""

import numpy as np
import pytest
import yaml

from harness.leaderboard.cost_to_break import read
from harness.records import Records
from tests.runs import run

WEAK = '''
from harness.probe import ProbeDefense


class Shrunk(ProbeDefense):
    """Shrinks all features a thousandfold, so that a fixed step size learns nothing (a planted weak defense)."""

    deterministic = True

    def immunize(self, model, targets):
        model.weight.data.mul_(1e-3)
        yield 0.0
'''


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """The costs to break of a house price split, by threat model."""
    folder = tmp_path_factory.mktemp("weak")
    (folder / "shrunk.py").write_text(WEAK)
    grid = {
        "name": "prices", "track": "probe", "tasks": [{"data": "house_prices", "splits": 1}], "ensemble": "red_team 1",
        "protocol": {"steps": 24, "measure_at": [0, 1, 2, 4, 8, 16, 24]}, "defenses": {"none": {}, "shrunk": {}},
        "attackers": {"fixed": {"plugin": "adam", "lr": 3e-2}},
    }  # fmt: skip
    suite = {"format": 1, "name": "weak", "version": 1, "title": "A weak defense", "seeds": 1, "plugins": ["shrunk.py"]}
    (folder / "weak.yaml").write_text(yaml.safe_dump(suite | {"grids": [grid]}))
    done = run(folder / "weak.yaml", store=folder / "store")
    assert not done.failed
    suite = done.plan.suite
    return read(Records(suite, done.values), suite.grids[0])


@pytest.mark.slow
def test_an_attacker_with_a_fixed_step_size_is_stopped(costs):
    stopped = costs["other attackers"]
    assert np.isfinite(stopped.costs.loc["none"].to_numpy()).all()
    assert np.isinf(stopped.costs.loc["shrunk"].to_numpy()).all()


@pytest.mark.parametrize("model", ["matrix-free methods", "full-batch optimisers", "ridge regression on few rows"])
def test_the_ensemble_breaks_a_weak_defense(costs, model):
    assert (costs[model].least.loc["shrunk"] <= costs[model].budget).all()
    assert not costs[model].censored.loc["shrunk"].any()
