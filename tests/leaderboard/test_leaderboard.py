"""Records to boards, by hand-made records and by a real run."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from harness import api, leaderboard, records
from harness.errors import UsageError
from harness.leaderboard.tables import further
from tests.helpers import grid

ROOT = Path(__file__).parents[2]


def record(**fields):
    base = {
        "suite": "s",
        "suite_version": 1,
        "grid": "house_prices",
        "track": "probe",
        "task": "t",
        "defense": "condition_number",
        "seed": 1,
        "metric": "rir",
        "policy": "floor",
        "split": "train",
        "value": 1.0,
        "scale": "log",
        "status": "ok",
        "key": "k",
    }
    return {**base, **fields}


def frame(*rows):
    return records._frame(list(rows))


def test_long_form_columns_and_figures_by_hand():
    """Two tasks, two seeds: logs ln 10, ln 1000 and ln 1, ln 100; seed means ln 100 and ln 10."""
    values = {("a", 1): 10.0, ("b", 1): 1000.0, ("a", 2): 1.0, ("b", 2): 100.0}
    board = leaderboard.board(frame(*(record(task=t, seed=s, value=v, key=t + str(s)) for (t, s), v in values.items())))
    (row,) = board.to_dict("records")
    asked = "suite, suite_version, track, defense, attacker, metric, policy, split, value, ci_low, ci_high, n_tasks"
    assert {*asked.split(", "), "n_seeds", "unit", "note"} <= set(board.columns)
    assert row["value"] == pytest.approx(10**1.5)
    assert (row["n_tasks"], row["n_seeds"]) == (2, 2)
    half = 12.7062 * (math.log(10) / math.sqrt(2)) / math.sqrt(2)  # t(0.975, 1)
    assert row["ci_low"] == pytest.approx(10**1.5 * math.exp(-half), rel=1e-4)
    assert row["ci_high"] == pytest.approx(10**1.5 * math.exp(half), rel=1e-4)


def test_a_further_figure_has_a_column_unless_it_is_of_one_concept_alone():
    rows = [record(metric="norm", policy=None, split=None, value=of, concept=concept, scale="linear")
            for of, concept in ((3.0, None), (1.0, "marvo"), (5.0, "telune"))]  # fmt: skip
    wide = pd.DataFrame([{"grid": "house_prices", "defense": "condition_number"}])
    found = further(wide, leaderboard.board(frame(*rows)), ["rir"])
    assert found.to_dict("records") == [{"grid": "house_prices", "defense": "condition_number", "norm": "3"}]


def test_failed_cells_are_counted():
    found = frame(
        record(seed=1, value=4.0, key="k1"),
        record(seed=2, status="failed", note="lost", metric=None, policy=None, split=None, value=None, key="k2"),
        record(defense="none", status="failed", note="gone", metric=None, policy=None, split=None, value=None),
    )
    rows = leaderboard.board(found).set_index("defense")
    assert rows.loc["condition_number", "value"] == pytest.approx(4)
    assert rows.loc["condition_number", "note"] == "1 of 2 cells failed: lost"
    assert pd.isna(rows.loc["none", "value"])
    assert rows.loc["none", "note"] == "1 of 1 cells failed: gone"
    assert rows.loc["none", "n_tasks"] == 0
    wide = leaderboard.make(found).tables["probe"].set_index("defense")
    assert wide.loc["none", "missing"] == "1 of 1 cells failed: gone"


def test_a_board_of_failed_cells_only_is_made(tmp_path):
    failed = record(status="failed", note="gone", metric=None, policy=None, split=None, value=None)
    leaderboard.write(frame(failed), tmp_path)
    assert "gone" in (tmp_path / "leaderboard.md").read_text()


def test_undefined_values_are_noted():
    board = leaderboard.board(frame(record(value=None, note="infinite", key="1"), record(value=3.0, seed=2, key="2")))
    assert board.loc[0, "note"] == "infinite (1 of 2); undefined in 1 of 2 cells"


def test_unseeded_figures_say_so():
    board = leaderboard.board(frame(record(defense="whitening", seed=None, value=315.0)))
    assert board.loc[0, "note"] == "deterministic"
    assert pd.isna(board.loc[0, "ci_low"])


def test_published_figures_stand_beside():
    published = leaderboard.read_published(ROOT / "results/published/condition_number_icml2025.csv")
    board = leaderboard.board(
        frame(
            record(),
            record(metric="kappa_ratio", role="benign"),
            record(policy="range"),
            record(split="heldout"),
            record(defense="whitening"),
            record(grid="digits"),
        ),
        published,
    )
    measured = board[board["value"].notna()]
    assert measured["published"].tolist()[:2] == [356.2, 0.053]
    assert measured["published"].isna().tolist() == [False, False, True, True, True, False]
    assert measured["published"].iloc[-1] == 70.04
    # Of the kinds that are measured here, what the paper has besides: (i), whose (ii) alone stands above.
    (other,) = board[board["value"].isna()].to_dict("records")
    assert (other["metric"], other["role"], other["published"]) == ("kappa_ratio", "harmful", 18.92)
    assert (other["note"], other["n_tasks"]) == ("published only", 0)


def test_published_figures_of_single_groups_are_averaged():
    """At an attack's last step; by encoders that are not at hand in rows of their own."""
    published = leaderboard.read_published(ROOT / "results/published/mima_aaai2025.csv")
    attacked = {
        "grid": "styles_two",
        "defense": "mima",
        "attacker": "lora",
        "metric": "msgr",
        "role": None,
        "split": None,
    }
    board = leaderboard.board(
        frame(*(record(**attacked, policy="clip", step=step) for step in (10, 60))), published
    ).set_index("policy")
    clip = board.loc["clip"].set_index("step")["published"]
    assert clip[60] == pytest.approx((6.66 + 12.2 + 6.84 + 3.89 + 7.26) / 5)
    assert pd.isna(clip[10])
    assert board.loc["dino", "published"] == pytest.approx((25.3 + 22.0 + 27.6 + 42.4 + 20.0) / 5)
    assert pd.isna(board.loc["dino", "value"])


@pytest.mark.parametrize("name", ["condition_number_icml2025", "mima_aaai2025"])
def test_published_files_share_one_tidy_schema(name):
    published = leaderboard.read_published(ROOT / f"results/published/{name}.csv")
    assert published["value"].notna().all()
    for column in ("paper", "table", "setting", "defense", "metric"):
        assert published[column].notna().all()
    assert not published.duplicated([c for c in published.columns if c not in ("value", "note")]).any()


def test_the_papers_map_is_whole_and_its_mean_is_its_table():
    """Figure 2 has 90 pairs a method; the mean of exp is Table 2's RIR, as far as the printed digits go."""
    published = leaderboard.read_published(ROOT / "results/published/condition_number_icml2025.csv")
    maps = published[published["metric"] == "log_rir"]
    table = published[(published["table"] == "Table 2") & (published["metric"] == "rir")].set_index("defense")["value"]
    for defense, pairs in maps.groupby("defense"):
        assert len(pairs) == 90
        assert pairs["task"].str.fullmatch(r"P\d-H\d").all()
        assert pairs["value"].map(math.exp).mean() == pytest.approx(table[defense], rel=0.02)


def test_files_without_published_values_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="its columns must be paper, table"):
        leaderboard.read_published(tmp_path / "x.csv")


class Checked(HTMLParser):
    """Collects what an HTML page holds."""

    def __init__(self):
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_files_of_a_run(tiny, tmp_path):
    out = tmp_path / "out"
    result = api.run(str(tiny), workers=1, out=out)
    written = {path.name for path in out.iterdir()}
    assert {"records.parquet", *(f"leaderboard.{suffix}" for suffix in ("md", "csv", "tex", "html"))} <= written
    assert {"standings.csv", "comparisons.csv"} <= written
    assert {"house_prices_steps.png", "house_prices_steps.svg"} <= written

    back = records.load(out / "records.parquet")
    pd.testing.assert_frame_equal(back, result.records)
    long = pd.read_csv(out / "leaderboard.csv")
    assert len(long) == len(result.board)
    text = (out / "leaderboard.md").read_text()
    assert "| 1–3 | condition_number | " in " ".join(text.split())
    assert "![house_prices_steps.png](house_prices_steps.png)" in text
    latex = (out / "leaderboard.tex").read_text()
    assert latex.count("\\toprule") == latex.count("\\bottomrule") == 2
    page = Checked()
    page.feed((out / "leaderboard.html").read_text())
    assert page.tags.count("table") == 2  # standings, and the track's own
    assert page.tags.count("tr") == 2 * (1 + 3)
    assert "img" in page.tags

    # The same files again from the records alone, byte for byte.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    leaderboard.render(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_files_without_records_are_refused(tmp_path):
    with pytest.raises(UsageError, match="`immunebench run` writes it"):
        records.load(tmp_path / "records.parquet")
    (tmp_path / "records.parquet").write_text("no parquet")
    with pytest.raises(UsageError, match="holds no records"):
        records.load(tmp_path / "records.parquet")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "records.parquet")
    with pytest.raises(UsageError, match="holds no records"):
        records.load(tmp_path / "records.parquet")


def test_the_map_is_drawn_for_all_pairs_only(tmp_path):
    from harness.probe.figures import draw

    rows = [
        record(grid="digits", task=f"P{p}-H{h}", value=float(1 + p), key=f"{p}{h}")
        for p in range(10)
        for h in range(10)
        if p != h
    ]
    assert {path.name for path in draw(frame(*rows), tmp_path)} == {"digits_log_rir.png", "digits_log_rir.svg"}
    assert not draw(frame(*rows[:50]), tmp_path)


def test_two_versions_of_a_suite_never_mix():
    with pytest.raises(UsageError, match="suite 's' are of versions 1 and 2, which never mix"):
        leaderboard.board(frame(record(), record(suite_version=2, seed=2)))


def test_a_board_of_a_track_that_is_not_installed_is_readable(tmp_path):
    """Ranks, worst cases and flags come of the records alone."""
    rows = grid({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.1 * seed}})
    leaderboard.write(frame(*rows), tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert re.search(r"\| 1 +\| mine +\| 0.2 \[", text)
    assert "The track is not installed here" in text
    assert len(text) < 5000
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    leaderboard.render(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_intervals_over_tasks_stand_in_the_long_form():
    """Two digit pairs that share a digit: without 1 there is the pair 2-3 alone, and so on."""
    values = {"P1-H2": 1.0, "P2-H3": math.e**2}
    rows = [
        record(task=task, value=value, seed=None, members="+".join(task[1::3]), key=task)
        for task, value in values.items()
    ]
    rows += [record(task="P3-H1", value=math.e**3, seed=None, members="3+1", key="x")]
    (row,) = leaderboard.board(frame(*rows)).to_dict("records")
    mean, without = 5 / 3, [2.0, 3.0, 0.0]  # digits 1, 2 and 3
    half = 4.30265 * math.sqrt(2 / 3 * sum((one - mean) ** 2 for one in without))
    assert pd.isna(row["ci_low"])
    assert math.log(row["tasks_high"]) == pytest.approx(mean + half, rel=1e-4)
    assert math.log(row["tasks_low"]) == pytest.approx(mean - half, rel=1e-4)


def test_records_say_what_judges_and_what_is_a_control(tiny):
    """At the last step of the harmful side, of every attacker; the long form says who is worst."""
    result = api.run(str(tiny), workers=1)
    judged = result.records[result.records["judged"] == "higher"]
    assert set(judged["metric"]) == {"loss_gap"}
    assert set(judged["role"]) == {"harmful"}
    assert set(judged["step"]) == {5}
    assert set(judged["attacker"]) == {"gradient_descent", "adam"}
    assert judged["broken"].eq(0.1).all()
    control = result.records.groupby("defense")["control"].first()
    assert control["none"] == "undefended"
    assert control["random_init"] == "control"
    assert pd.isna(control["condition_number"])
    for _, row in result.standings.iterrows():
        cells = judged[judged["defense"] == row["defense"]]
        lowest = cells.groupby(cells["seed"].fillna(0))["value"].min().mean()
        assert row["worst"] == pytest.approx(lowest)


def test_a_failed_cell_that_would_judge_is_missing(tiny, tmp_path):
    (tmp_path / "quitter.py").write_text(
        "from harness.probe import ProbeAttacker\n\n\nclass Quitter(ProbeAttacker):\n"
        "    def adapt(self, model, data):\n        yield from ()\n"
    )
    result = api.run(str(tiny), workers=1, plugins=[tmp_path / "quitter.py"], attackers=["adam", "quitter"], seeds=1)
    rows = result.standings.set_index("defense")
    assert set(rows["missing"]) == {1}
    assert set(rows["n_cells"]) == {2}
    assert rows["flags"].str.contains("missing").all()
    assert "quitter: 1 of 1 cells" in result.text


def test_values_that_are_not_finite_are_counted_not_averaged():
    board = leaderboard.board(frame(record(value=math.inf, key="1"), record(value=3.0, seed=2, key="2")))
    assert board.loc[0, "value"] == pytest.approx(3)
    assert board.loc[0, "note"] == "undefined in 1 of 2 cells"


def test_a_tracks_table_holds_all_its_grids():
    """Columns that one grid lacks are empty there."""
    rows = [record(), record(grid="digits", task="P0-H1", key="2"), record(grid="digits", metric="seconds", key="3")]
    made = leaderboard.make(frame(*rows))
    table = made.tables["probe"]
    assert list(table["grid"]) == ["house_prices", "digits"]
    assert list(table["s"]) == ["", "1"]
    assert [section.title for section in made.sections] == ["house_prices (track probe)", "digits (track probe)"]


def test_where_nothing_judges_the_tracks_own_table_stands_alone():
    kept = record(track="diffusion", grid="styles", defense="none", metric="rate", role="kept", policy=None, value=0.9)
    (section,) = leaderboard.make(frame(kept)).sections
    assert [table.to_dict("records") for table, _ in section.tables] == [[{"defense": "none", "kept": "0.9"}]]
