"""The long-form board of hand-made records: means, intervals, failures, published values, the mean over attackers."""

import math
from pathlib import Path

import pandas as pd
import pytest

from harness import published
from harness.errors import UsageError
from harness.leaderboard import boards, long_form, reproduction
from tests.leaderboard.builders import asr, build, cells

PUBLISHED = Path(__file__).parents[2] / "suites" / "published"


def rir(**fields):
    """One RIR, on a log scale."""
    row = {
        "suite": "s", "suite_version": 1, "grid": "house_prices", "track": "elsewhere", "task": "t",
        "defense": "condition_number", "seed": 1, "measured_by": "conditioning", "metric": "rir", "variant": "floor",
        "split": "train", "value": 1.0, "status": "ok", "key": "k",
    }  # fmt: skip
    return {**row, **fields}


def failed(**fields):
    """A failed cell."""
    return rir(status="failed", metric=None, variant=None, split=None, value=None, **fields)


def board(*rows, papers=None, **fields):
    records = build(rows, ranking=None, **fields)
    return long_form.board(records, reproduction.compare(records, papers))


def test_columns_and_values_by_hand():
    """Two tasks, two seeds: logs ln 10, ln 1000 and ln 1, ln 100; seed means ln 100 and ln 10."""
    values = {("a", 1): 10.0, ("b", 1): 1000.0, ("a", 2): 1.0, ("b", 2): 100.0}
    rows = (rir(task=task, seed=seed, value=value, key=f"{task}{seed}") for (task, seed), value in values.items())
    long = board(*rows, calls={"condition_number": "ConditionNumber(epochs=1)"})
    assert list(long) == list(long_form.COLUMNS)
    (row,) = long.to_dict("records")
    assert row["value"] == pytest.approx(10**1.5)
    assert (row["n_tasks"], row["n_seeds"], row["n_failed"]) == (2, 2, 0)
    half = 12.7062 * (math.log(10) / math.sqrt(2)) / math.sqrt(2)  # t(0.975, 1)
    assert row["ci_low"] == pytest.approx(10**1.5 * math.exp(-half), rel=1e-4)
    assert row["ci_high"] == pytest.approx(10**1.5 * math.exp(half), rel=1e-4)


def test_failed_cells_are_counted_and_never_silent():
    long = board(
        rir(seed=1, value=4.0, key="k1"), failed(seed=2, note="lost", key="k2"), failed(defense="none", note="gone")
    ).set_index("defense")
    assert long.loc["condition_number", "value"] == pytest.approx(4)
    assert long.loc["condition_number", "n_failed"] == 1
    assert long.loc["condition_number", "note"] == "1 of 2 cells failed: lost"
    assert pd.isna(long.loc["none", "value"])
    assert long.loc["none", "note"] == "1 of 1 cells failed: gone"
    assert (long.loc["none", "n_tasks"], long.loc["none", "n_failed"]) == (0, 1)


def test_a_failed_metric_is_not_another_metrics_failure():
    long = board(rir(value=4.0), failed(measured_by="optimum", note="lost", key="other"))
    assert list(long["measured_by"]) == ["conditioning", "optimum"]
    assert list(long["n_failed"]) == [0, 1]


def test_what_is_undefined_or_not_finite_is_counted_not_averaged():
    long = board(rir(value=None, note="no such thing", key="1"), rir(value=3.0, seed=2, key="2"))
    assert long.loc[0, "note"] == "no such thing (1 of 2); undefined in 1 of 2 cells"
    long = board(rir(value=math.inf, key="1"), rir(value=3.0, seed=2, key="2"))
    assert long.loc[0, "value"] == pytest.approx(3)
    assert long.loc[0, "note"] == "undefined in 1 of 2 cells"


def test_values_without_seeds_say_so():
    long = board(rir(defense="whitening", seed=None, value=315.0))
    assert long.loc[0, "note"] == "deterministic"
    assert pd.isna(long.loc[0, "ci_low"])


def test_intervals_over_tasks():
    """Two digit pairs that share a digit: without 1 there is the pair 2-3 alone, and so on."""
    values = {"P1-H2": 1.0, "P2-H3": math.e**2, "P3-H1": math.e**3}
    rows = (rir(task=task, value=value, seed=None, key=task) for task, value in values.items())
    (row,) = board(*rows, members={task: task[1::3] for task in values}).to_dict("records")
    mean, without = 5 / 3, [2.0, 3.0, 0.0]  # digits 1, 2 and 3
    half = 4.30265 * math.sqrt(2 / 3 * sum((one - mean) ** 2 for one in without))
    assert pd.isna(row["ci_low"])
    assert math.log(row["tasks_high"]) == pytest.approx(mean + half, rel=1e-4)
    assert math.log(row["tasks_low"]) == pytest.approx(mean - half, rel=1e-4)


def test_the_mean_over_attackers_is_taken_cell_by_cell():
    """Of three attackers, one without seeds: .1 for each; one lacks a cell, so that cell is in no mean."""
    rows = cells({"mine": {"lora": lambda task, seed: 0.1 * seed, "sgd": lambda task, seed: 0.2 * seed}})
    rows = [row for row in rows if (row["attacker"], row["task"], row["seed"]) != ("sgd", "b", 3)]
    rows += cells({"mine": {"exact": 0.1}}, seeds=(None,))
    rows += [row | {"step": 30, "value": 0.9} for row in rows]  # an earlier step has no mean
    rows += [asr("mine", "lora", "a", 1, 5.0, metric="seconds", measured_by="cost")]
    long = long_form.board(build(rows))
    (mean,) = long[long["attacker"] == "mean"].to_dict("records")
    by_seed = [(0.1 * seed + 0.2 * seed + 0.1) / 3 for seed in (1, 2, 3)]
    assert mean["value"] == pytest.approx(sum(by_seed) / 3)
    assert (mean["metric"], mean["step"], mean["n_tasks"], mean["n_seeds"]) == ("asr", 60, 2, 3)


def test_the_mean_over_attackers_of_ratios_is_geometric_and_of_undefined_ones_undefined():
    ratios = [rir(attacker=attacker, value=value, key=attacker) for attacker, value in (("x", 10.0), ("y", 1000.0))]
    assert board(*ratios).set_index("attacker").loc["mean", "value"] == pytest.approx(100)
    undefined = [ratios[0], {**ratios[1], "value": None}]
    row = board(*undefined).set_index("attacker").loc["mean"]
    assert pd.isna(row["value"])
    assert row["note"] == "undefined in 1 of 1 cells"


def test_no_mean_of_one_attacker_nor_over_a_row_of_that_name():
    assert set(board(rir(attacker="x"))["attacker"]) == {"x"}
    named = board(rir(attacker="x", value=10.0), rir(attacker="mean", value=1000.0))
    assert named.set_index("attacker")["value"].to_dict() == pytest.approx({"x": 10, "mean": 1000})


def test_published_values_are_in_the_rows_of_ours():
    papers = published.read(PUBLISHED / "condition_number_icml2025.csv")
    long = board(
        rir(),
        rir(metric="kappa_ratio", role="benign"),
        rir(variant="range"),
        rir(split="heldout"),
        rir(defense="whitening"),
        rir(grid="digits"),
        papers=papers,
    )
    measured = long[long["value"].notna()]
    beside = {
        tuple(row[:5]): row[5]
        for row in measured[["grid", "defense", "metric", "variant", "split", "published"]].itertuples(index=False)
        if not pd.isna(row[5])
    }
    assert beside == {
        ("house_prices", "condition_number", "rir", "floor", "train"): 356.2,
        ("house_prices", "condition_number", "kappa_ratio", "floor", "train"): 0.053,
        ("digits", "condition_number", "rir", "floor", "train"): 70.04,
    }
    # Of the quantities that are measured here, what the paper has besides: (i), of which only (ii) is above.
    (other,) = long[long["value"].isna()].to_dict("records")
    assert (other["metric"], other["role"], other["published"]) == ("kappa_ratio", "harmful", 18.92)
    assert (other["note"], other["n_tasks"]) == ("published only", 0)


def test_published_values_of_single_tasks_are_averaged():
    """At an attack's last step; of encoders that are not at hand in rows of their own."""
    papers = published.read(PUBLISHED / "mima_aaai2025.csv")
    attacked = {"grid": "styles_two", "defense": "mima", "attacker": "lora", "metric": "msgr", "split": None}
    long = board(*(rir(**attacked, variant="clip", step=step) for step in (10, 60)), papers=papers)
    by_variant = long.set_index("variant")
    clip = by_variant.loc["clip"].set_index("step")["published"]
    assert clip[60] == pytest.approx((6.66 + 12.2 + 6.84 + 3.89 + 7.26) / 5)
    assert pd.isna(clip[10])
    assert by_variant.loc["dino", "published"] == pytest.approx((25.3 + 22.0 + 27.6 + 42.4 + 20.0) / 5)
    assert pd.isna(by_variant.loc["dino", "value"])


def test_published_means_over_attackers_are_in_the_rows_of_ours():
    papers = published.read(PUBLISHED / "mima_aaai2025.csv")
    attacked = {"grid": "personal_two", "defense": "mima", "metric": "msgr", "variant": "clip", "split": None}
    long = board(*(rir(**attacked, attacker=name, step=60, key=name) for name in ("lora", "dreambooth")), papers=papers)
    rows = long[long["variant"] == "clip"].set_index("attacker")
    assert rows.loc["mean", "value"] == pytest.approx(1)
    assert rows["published"].notna().to_dict() == {"lora": False, "dreambooth": False, "mean": True}


@pytest.mark.parametrize("name", ["condition_number_icml2025", "mima_aaai2025"])
def test_published_files_share_one_tidy_form(name):
    papers = published.read(PUBLISHED / f"{name}.csv")
    assert papers["value"].notna().all()
    for column in ("paper", "table", "setting", "defense", "metric"):
        assert papers[column].notna().all()
    assert not papers.duplicated([column for column in papers if column not in ("value", "note")]).any()


def test_the_papers_map_is_whole_and_its_mean_is_its_table():
    """Figure 2 has 90 pairs a method; their arithmetic mean is Table 2's RIR, as far as the printed digits go."""
    papers = published.read(PUBLISHED / "condition_number_icml2025.csv")
    maps = papers[papers["table"] == "Figure 2"]
    table = papers[papers["mean"] == "arithmetic"].set_index("defense")["value"]
    for defense, pairs in maps.groupby("defense"):
        assert len(pairs) == 90
        assert pairs["task"].str.fullmatch(r"P\d-H\d").all()
        assert pairs["value"].mean() == pytest.approx(table[defense], rel=0.02)


HEADER = ",".join(published.PUBLISHED)


def papers_row(value):
    """A line of a file of published values."""
    return f"P,Table 1,g,,,,none,,rir,,floor,train,{value},"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "each row must have the columns paper, table"),
        (HEADER.replace(",", ";").encode(), "each row must have the columns paper, table"),
        (f"{HEADER}\n{papers_row('40,5')}\n".encode(), "each row must have the columns paper, table"),
        (f"{HEADER}\n{papers_row(1)}\n{papers_row('4,5')}\n".encode(), "as CSV in UTF-8: .*Expected 14 fields"),
        (f"{HEADER}\n{papers_row(1)}\n\n{papers_row('40.5%')}\n".encode(), r"row 4: the value '40\.5%' is no number"),
        *((f"{HEADER}\n{papers_row(value)}\n".encode(), "row 2: the value .* is no number")
          for value in ('"40,5"', "-", "40.5±1", "inf", "1e999", "1_000")),
        (f"{HEADER}\n{papers_row(1).replace(',,,,none', ',,median,,none')}\n".encode(), "row 2: the mean is 'median'"),
        (f"{HEADER}\n{papers_row('')}\n".encode(), "row 2: the value is missing"),
        (f"{HEADER}\n{papers_row(1)}\n\n{papers_row(2)}note\n".encode(), "row 4: an earlier row has a value"),
        (b"", "cannot read the published values .* as CSV in UTF-8"),
        (f"{HEADER}\né".encode("latin-1"), "cannot read the published values .* as CSV in UTF-8"),
        (HEADER.encode("utf-16"), "cannot read the published values .* as CSV in UTF-8"),
        (None, "the published values .* do not exist"),
    ],
)  # fmt: skip
def test_other_files_are_no_published_values(content, message, tmp_path):
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        published.read(tmp_path / "x.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_published_values_may_have_a_byte_order_mark_and_any_line_ends(mark, end, tmp_path):
    text = mark + end.join([HEADER, papers_row("1e3"), "", papers_row(" 4 ").replace("none", "mima"), ""])
    (tmp_path / "x.csv").write_bytes(text.encode())
    assert list(published.read(tmp_path / "x.csv")["value"]) == [1000, 4]


def test_a_suite_may_name_published_values():
    rows = [rir(grid="styles_two", defense="joint", attacker="lora", metric="msgr", variant="clip", split=None)]
    assert boards.make(build(rows)).long["published"].isna().all()
    papers = {"published": PUBLISHED / "mima_aaai2025.csv"}
    assert boards.make(build(rows, suite=papers)).long["published_note"].str.startswith("AAAI 2025").any()
