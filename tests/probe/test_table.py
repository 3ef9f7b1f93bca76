"""The readable table."""

import pandas as pd

from harness.probe.table import table


def row(defense, metric, value, **coordinates):
    """A row of a long-form board."""
    empty = dict.fromkeys(("attacker", "role", "variant", "split", "step", "ci_low", "ci_high", "flag", "published"))
    return {"grid": "g", "defense": defense, "metric": metric, "value": value, **empty, **coordinates}


def test_the_table_names_the_strongest_attacker_and_marks_lower_bounds():
    """whitening: adam leaves less excess loss than gd; rank_one: both leave none, and gd is first at success."""
    rows = [row("whitening", "rir", 315.0, variant="floor", split="train", ci_low=300.0, ci_high=330.0)]
    for defense, left, steps in (("whitening", (0.4, 0.2), (100, 100)), ("rank_one", (1e-17, -1e-17), (3, 7))):
        for attacker, excess, count in zip(("gd", "adam"), left, steps, strict=True):
            at = {"attacker": attacker, "role": "harmful"}
            flag = "lower-bound" if count == 100 else None
            rows += [
                row(defense, "excess_loss", 1.0, **at, step=0),
                row(defense, "excess_loss", excess, **at, step=100),
                row(defense, "steps_to_success", count, **at, flag=flag),
                row(defense, "slow_down", count / 2, **at, flag=flag),
                row(defense, "score", 1 - excess, **at, step=100),
                row(defense, "seconds", 9.0, attacker=attacker),
            ]
    rows.append(row("rank_one", "seconds", 0.5))
    wide = table(pd.DataFrame(rows)).set_index("defense")
    assert wide.loc["whitening"].to_dict() == {
        "RIR [95 %]": "315 [300, 330]",
        "best": "adam",
        "slow-down": "≥50",
        "score": "0.8",
        "s": "",
    }
    assert wide.loc["rank_one"].to_dict() == {
        "RIR [95 %]": "",
        "best": "gd",
        "slow-down": "1.5",
        "score": "1",
        "s": "0.5",
    }
