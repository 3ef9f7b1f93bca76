"""Compares the ranks of two runs: `python docs/examples/small_predicts_large.py results/runs/small results/runs/large`.

Prints Spearman's ρ of the mean MSGR of defenses, of attackers and of their cells, each with a 95 % interval.
"""

import sys

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import immunebench

DRAWS = 2000
"""Resamplings of an interval."""
LEVELS = {"defenses": ["defense"], "attackers": ["attacker"], "cells": ["defense", "attacker"]}


def gaps(records: pd.DataFrame, encoder: str) -> pd.DataFrame:
    """MSGR in % at the last measured step: a row for each defense and attacker, a column for each task and seed."""
    rows = records[(records["metric"] == "msgr") & (records["variant"] == encoder) & (records["defense"] != "none")]
    rows = rows[rows["attacker"].notna() & (rows["step"] == rows["step"].max())]
    return rows.pivot_table(index=["defense", "attacker"], columns=["task", "seed"], values="value")


def correlation(small: pd.DataFrame, large: pd.DataFrame, level: list[str]) -> float:
    """Spearman's ρ of the means over all but `level`, of the rows that both tables have."""
    means = [table.mean(axis=1).groupby(level).mean() for table in (small, large)]
    both = pd.concat(means, axis=1, join="inner").dropna()
    return float(spearmanr(both[0], both[1]).statistic)


def resampled(table: pd.DataFrame, draws: np.random.Generator) -> pd.DataFrame:
    """`table` with as many tasks and as many seeds as it has, drawn with replacement."""
    tasks, seeds = (draws.choice(level, len(level)) for level in table.columns.levels)
    return pd.concat([table.get((task, seed)) for task in tasks for seed in seeds], axis=1)


def compare(small: pd.DataFrame, large: pd.DataFrame, draws: int = DRAWS) -> pd.DataFrame:
    """ρ with its interval by level. small, large: tables of `gaps`, which need not have the same tasks."""
    generator, rows = np.random.default_rng(0), {}
    for name, level in LEVELS.items():
        drawn = [correlation(resampled(small, generator), resampled(large, generator), level) for _ in range(draws)]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        rows[name] = {"rho": correlation(small, large, level), "low": low, "high": high}
    return pd.DataFrame(rows).T


if __name__ == "__main__":
    first, second = (immunebench.load(folder).records for folder in sys.argv[1:3])
    print(compare(gaps(first, "contrastive"), gaps(second, "clip")).round(2))
