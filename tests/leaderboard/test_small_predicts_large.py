"""The comparison of ranks between two base models, on values that are planted."""

import runpy

import numpy as np
import pandas as pd
import pytest

from tests.helpers import EXAMPLES

EXAMPLE = runpy.run_path(str(EXAMPLES / "small_predicts_large.py"))
DEFENSES, ATTACKERS = ["none", "ascent", "joint", "mima", "gauge"], ["lora", "full", "words"]


def records(encoder: str, strength: dict[str, float], noise: float, tasks: list[str]) -> pd.DataFrame:
    """MSGR = the defense's strength + 10 × the attacker's place + noise at the last of two steps."""
    draws, rows = np.random.default_rng(len(tasks)), []
    for defense in DEFENSES:
        for place, attacker in enumerate(ATTACKERS):
            for task in tasks:
                for seed in (1, 2, 3):
                    for step in (12, 60):
                        value = strength.get(defense, 99.0) + 10 * place + noise * draws.standard_normal()
                        rows.append((defense, attacker, task, seed, step, value if step == 60 else -value))
    frame = pd.DataFrame(rows, columns=["defense", "attacker", "task", "seed", "step", "value"])
    released = frame.head(1).assign(attacker=None, metric="retention", variant="classifier")
    return pd.concat([frame.assign(metric="msgr", variant=encoder), released], ignore_index=True)


def compare(small: dict[str, float], large: dict[str, float], noise: float) -> pd.DataFrame:
    tables = [
        EXAMPLE["gaps"](records("contrastive", small, noise, ["a+b", "c+d"]), "contrastive"),
        EXAMPLE["gaps"](records("clip", large, noise, ["A+B", "C+D", "E+F"]), "clip"),
    ]
    assert all("none" not in table.index.get_level_values("defense") for table in tables)
    return EXAMPLE["compare"](*tables, draws=40)


ORDER = {"ascent": 1.0, "joint": 2.0, "mima": 3.0, "gauge": 4.0}


def test_equal_and_opposite_orders_without_noise() -> None:
    """Every resampling has the same order, so the interval is a point."""
    same = compare(ORDER, ORDER, 0)
    assert same.to_numpy() == pytest.approx(np.ones((3, 3)))
    opposite = compare(ORDER, {name: -value for name, value in ORDER.items()}, 0)
    assert opposite.loc["defenses"].tolist() == pytest.approx([-1, -1, -1])
    assert opposite.loc["attackers"].tolist() == pytest.approx([1, 1, 1])
    assert 0 < opposite.loc["cells", "rho"] < 1  # attackers differ more than defenses do


def test_noise_widens_the_interval() -> None:
    noisy = compare(ORDER, ORDER, 3).loc["defenses"]
    assert noisy["low"] < noisy["rho"] <= noisy["high"] <= 1
