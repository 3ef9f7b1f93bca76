"""Curves of this track: attack success rate and similarities against the steps of the attack."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from harness.leaderboard.plots import save


def plots(records: pd.DataFrame, out: Path) -> list[Path]:
    """Draw the curves of each grid into the folder `out`; returns the files. records: a frame of `COLUMNS` (see
    `harness.records`)."""
    measured = records[(records["status"] == "ok") & records["step"].notna()]
    return [save(_curves(part), out / f"{grid}_steps") for grid, part in measured.groupby("grid", sort=False)]


def _curves(records: pd.DataFrame) -> Figure:
    """Attack success rate, retention of benign concepts after fine-tuning on them and, by encoder, similarity to the
    reference (MIMA, Fig. 3 and 5) and MSGR, mean over tasks and seeds: a row for each attacker, a column for each
    quantity, a line for each defense."""
    attackers, defenses = list(records["attacker"].unique()), list(records["defense"].unique())
    columns = _columns(records)
    figure = Figure(figsize=(2.4 * len(columns) + 0.6, 2.1 * len(attackers) + 0.8), layout="constrained")
    axes = figure.subplots(len(attackers), len(columns), squeeze=False, sharex=True, sharey="col")
    for j, (title, values) in enumerate(columns):
        axes[0][j].set_title(title, fontsize=9)
        axes[-1][j].set_xlabel("steps")
        for i, attacker in enumerate(attackers):
            for k, defense in enumerate(defenses):
                line = values[(values["attacker"] == attacker) & (values["defense"] == defense)].dropna(
                    subset=["value"]
                )
                mean = line["value"].astype(float).groupby(line["step"].astype(int)).mean()
                style = {"color": mpl.colormaps["tab10"](k % 10), "linestyle": "-" if k < 10 else "--"}
                axes[i][j].plot(mean.index, mean, marker=".", label=defense, **style)
    for i, attacker in enumerate(attackers):
        axes[i][0].set_ylabel(attacker, fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _columns(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The plotted quantities, each with its title and records."""
    whole = records[records["concept"].isna()]
    harmful = whole[whole["role"] == "harmful"]
    rates, similarities = harmful[harmful["metric"] == "asr"], harmful[harmful["metric"] == "similarity"]
    gaps = whole[whole["metric"] == "msgr"]
    benign = whole[(whole["metric"] == "retention") & (whole["role"] == "benign")]
    columns = [(title, values) for title, values in (("ASR", rates), ("benign retention", benign)) if len(values)]
    for title, values in (("M, {}", similarities), ("MSGR, {} (%)", gaps)):
        columns += [(title.format(name), values[values["variant"] == name]) for name in values["variant"].unique()]
    return columns
