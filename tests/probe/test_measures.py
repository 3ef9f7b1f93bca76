"""Golden values of the track's figures, computed by hand."""

import pytest
import torch

from harness.execution.meter import Reading
from harness.probe import measures
from harness.probe.data import Split


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def diagonal(*values):
    return torch.diag(tensor(*values))


def found(benign, harmful):
    """What the spectrum job leaves of two diagonal feature matrices, y = 1."""
    result = {}
    for role, features in (("benign", benign), ("harmful", harmful)):
        split = Split(features, torch.ones(len(features), dtype=torch.float64))
        result |= {f"{role}.{k}": v for k, v in measures.optimum(split, split, "squared", None).items()}
    return result


def figures(rows):
    return {tuple(row.get(k) for k in ("metric", "role", "policy", "split")): row for row in rows}


SETTINGS = {"policies": ["floor", "range", "fixed-rank"], "much": 2.0, "kept": 0.05}


def test_rir_by_hand():
    """Benign eigenvalues 4, 1 → 1, 1 and harmful 4, 1 → 36, 1: (i) = 36/4 = 9, (ii) = 1/4, RIR = 36."""
    reference = found(diagonal(2, 1), diagonal(2, 1))
    ours = found(diagonal(1, 1), diagonal(6, 1))
    rows = figures(measures.rir_figures(ours, reference, Reading(steps=1, seconds=2.5, peak_mb=3), **SETTINGS))
    for policy in ("range", "fixed-rank"):
        assert rows["rir", None, policy, "train"]["value"] == pytest.approx(36)
        assert rows["kappa_ratio", "harmful", policy, "train"]["value"] == pytest.approx(9)
        assert rows["kappa_ratio", "benign", policy, "train"]["value"] == pytest.approx(0.25)
    assert rows["rir", None, "floor", "train"]["value"] == pytest.approx(36, rel=1e-4)  # full rank: floor not hit
    assert rows["rir", None, "floor", "train"]["note"] is None
    assert rows["rank", "benign", None, "train"]["value"] == 2
    assert rows["seconds", None, None, None]["value"] == 2.5
    for part in ("definition", "definition_a", "definition_b", "definition_c"):
        assert rows[part, None, "range", "train"]["value"] == 1


def test_the_floor_is_named_and_scale_is_taken_out_of_the_definition():
    """Rank one of two: under floor κ = σ₁/1e-6, so features three times larger have nine times the κ of both sides;
    RIR is 1 and, after normalisation, neither side has changed."""
    one = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    rows = figures(measures.rir_figures(found(3 * one, 3 * one), found(one, one), Reading(), **SETTINGS))
    assert rows["kappa_ratio", "harmful", "floor", "train"]["value"] == pytest.approx(9, rel=1e-5)
    assert rows["rir", None, "floor", "train"]["value"] == pytest.approx(1)
    assert "floor hit" in rows["rir", None, "floor", "train"]["note"]
    assert rows["definition_a", None, "floor", "train"]["value"] == 0
    assert rows["definition_b", None, "floor", "train"]["value"] == 1


def test_a_fallen_rank_has_no_fixed_rank_figure_and_says_why():
    rows = figures(
        measures.rir_figures(found(diagonal(2, 1), diagonal(3, 0)), found(diagonal(2, 1), diagonal(2, 1)), Reading(),
                             **SETTINGS)
    )  # fmt: skip
    row = rows["rir", None, "fixed-rank", "train"]
    assert row["value"] is None
    assert "rank has fallen" in row["note"]


def test_a_destroyed_benign_task_fails_part_c():
    reference = found(diagonal(2, 1), diagonal(2, 1))
    rows = figures(measures.rir_figures(found(diagonal(2, 0), diagonal(2, 1)), reference, Reading(), **SETTINGS))
    assert rows["definition_c", None, "range", "train"]["value"] == 0


def progress(losses, reference, gap=0.1):
    attack = {
        "losses": tensor(*losses),
        "steps": torch.tensor([0, 2]),
        "heads": torch.tensor([[0.0, 3.0], [0.0, 4.0]], dtype=torch.float64),
        "scores": tensor(0.5, 0.9),
    }
    optimum = {"optimum": tensor(3, 5), "best_loss": tensor(1.0)[0]}
    rows = list(measures.progress_figures(attack, optimum, {"losses": tensor(*reference)}, optimum, gap))
    return {(row["metric"], row.get("step")): row for row in rows}


def test_progress_by_hand():
    """Losses 11, 6, 1.5 above a best of 1: gaps 1, .5, .05. Heads (0,0), (3,4) against w* = (3,5): 34/34, 1/34."""
    rows = progress([11, 6, 1.5], [11, 1.5, 1])
    assert rows["loss_gap", 0]["value"] == 1
    assert rows["loss_gap", 2]["value"] == pytest.approx(0.05)
    assert rows["norm_ratio", 2]["value"] == pytest.approx(1 / 34)
    assert rows["score", 2]["value"] == 0.9
    assert rows["steps_to_gap", None]["value"] == 2
    assert rows["slow_down", None]["value"] == 2  # two steps against one
    assert rows["slow_down", None]["note"] is None


def test_a_gap_that_is_not_reached_gives_a_lower_bound():
    rows = progress([11, 10, 9], [11, 1.5, 1])
    assert rows["slow_down", None]["value"] == 2
    assert "lower bound" in rows["slow_down", None]["note"]


def test_no_slow_down_where_the_undefended_model_does_not_reach_the_gap():
    rows = progress([11, 1.5, 1], [11, 10, 9])
    assert rows["slow_down", None]["value"] is None
    assert "undefended" in rows["slow_down", None]["note"]


def test_scores_by_hand():
    out = torch.tensor([[0.6, 0.4], [0.2, 0.9]], dtype=torch.float64)
    assert measures.score(out, tensor(1, 0), "accuracy").tolist() == [1.0, 0.0]
    # y = (0, 2): total 2; residuals (0.5² + 1²) and 0.
    out = torch.tensor([[0.5, 0.0], [1.0, 2.0]], dtype=torch.float64)
    assert measures.score(out, tensor(0, 2), "r2").tolist() == pytest.approx([1 - 1.25 / 2, 1.0])
