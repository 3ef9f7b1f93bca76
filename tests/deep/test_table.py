"""The readable table, with the values of the paper's Table 3 beside ours."""

from pathlib import Path

import pandas as pd
import pytest

from harness import published
from harness.deep.table import table

PAPER = Path(__file__).parents[2] / "suites" / "published" / "condition_number_icml2025.csv"


def row(defense, metric, value, **coordinates):
    """A row of a long-form board."""
    empty = dict.fromkeys(("attacker", "role", "variant", "split", "step", "ci_low", "ci_high", "published"))
    return {"grid": "g", "defense": defense, "metric": metric, "value": value, **empty, **coordinates}


def test_each_number_of_the_papers_table_is_beside_ours():
    rows = [
        row("none", "rir", 1.0, variant="floor"),
        row("none", "retention", 0.92, role="benign", variant="released", published=0.6824),
        row("cn", "rir", 20.0, variant="floor", ci_low=18.0, ci_high=22.0, published=5.5),
        row("cn", "rir", 60.0, variant="range"),
        row("cn", "rir", 1.6, variant="training"),
        row("cn", "kappa_ratio", 5.0, variant="floor", role="harmful", published=2.8),
        row("cn", "kappa_ratio", 0.25, variant="floor", role="benign", published=0.53),
        row("cn", "rfd", 30.0, attacker="gd", role="harmful"),
        row("cn", "rfd", 10.0, attacker="adam", role="harmful"),
        row("cn", "rfd", 20.0, attacker="mean", role="harmful"),
    ]
    wide = table(pd.DataFrame(rows)).set_index("defense")
    assert wide.loc["cn"].to_dict() == {
        "RIR [95 %]": "20 [18, 22]",
        "published": "5.5",
        "(i)": "5",
        "published (i)": "2.8",
        "(ii)": "0.25",
        "published (ii)": "0.53",
        "range": "60",
        "training": "1.6",
        "benign": "",
        "published benign": "",
        "RFD %": "20",
    }
    assert wide.loc["none", ["benign", "published benign"]].tolist() == ["0.92", "0.682"]


def test_the_papers_table_is_whole():
    """Two networks, each with four methods on two harmful sets, and the undefended accuracy; RIR is about (i)/(ii)."""
    papers = published.read(PAPER)
    papers = papers[papers["table"] == "Table 3"]
    assert papers.groupby("setting").size().to_dict() == {"resnet18_small": 33, "vit_small": 33}
    cells = papers.assign(number=papers["metric"] + papers["role"].fillna(""))
    wide = cells.pivot(index=["setting", "task", "defense"], columns="number", values="value")
    methods = wide.dropna()
    assert len(methods) == 16
    ratio = methods["kappa_ratioharmful"] / methods["kappa_ratiobenign"]
    assert (ratio / methods["rir"]).between(0.6, 1.2).all()  # the paper averages each over groups
    undefended = papers[papers["defense"] == "none"].set_index("setting")["value"]
    assert undefended.to_dict() == pytest.approx({"resnet18_small": 0.6824, "vit_small": 0.8178})
