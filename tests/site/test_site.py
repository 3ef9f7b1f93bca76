"""The site of boards: its figures are the boards', every link leads somewhere, nothing is fetched, labels are text; and
in a browser, where one is installed, tables sort and filter, and a figure leads to its cells."""

import datetime
import html
import json
import math
import re
import shutil
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from harness import site as sites
from harness.errors import UsageError
from harness.fields import fields
from harness.leaderboard import boards, looks, searches
from harness.leaderboard.flags import FLAGS
from harness.leaderboard.scores import read as read_scores
from harness.leaderboard.tables import interval
from harness.published import PUBLISHED
from harness.ranking import Ranking
from harness.registry import installed
from harness.site.pages import code, prose
from harness.submission import merge
from tests.leaderboard import builders
from tests.leaderboard.builders import asr, build, cells

HOSTILE = "<b>mine</b> & co"
SLOW = "slow <img src=x>"
PLAIN = "plain <img src=x>"
CHANGES = ["defenses.ascent.lr=0.001"]
NOTE = "<script>alert(1)</script>"
CALLS = {
    "none": "Undefended()", "ascent": "Ascent(lr=0.001)", HOSTILE: "Mine(tag='<i>')", "lora": "LoRA(rank=8)",
    "unheard": "Unheard(x=1)",
}  # fmt: skip
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


def rates():
    """A grid of text to image: three defenses, an attacker that breaks and one that does not, steps, retention and a
    failed cell; and a grid that no value ranks."""
    rows = cells({
        "none": {"lora": 1.0, SLOW: 0.2},
        "ascent": {"lora": lambda task, seed: 0.5 + 0.1 * seed, SLOW: 0.1},
        HOSTILE: {"lora": lambda task, seed: 0.1 * seed, SLOW: 0.0},
    })  # fmt: skip
    failed = {"status": "failed", "note": NOTE, "value": None, "metric": None, "role": None, "step": None}
    lost = [row["defense"] == "ascent" and (row["task"], row["seed"]) == ("b", 3) for row in rows]
    rows = [row | (failed if is_lost else {}) for row, is_lost in zip(rows, lost, strict=True)]
    rows += [row | {"step": 30, "value": row["value"] / 2} for row in rows if row["status"] == "ok"]
    released = {"attacker": None, "step": None, "role": "benign", "metric": "retention", "measured_by": "retention"}
    rows += [
        asr(defense, None, "a", seed, value + seed / 1000) | released
        for seed in (1, 2, 3)
        for defense, value in {"none": 0.9, "ascent": 0.3, HOSTILE: 0.4}.items()
    ]
    rows += [asr("none", attacker, "a", 1, 0.5) | {"grid": PLAIN} for attacker in ("lora", "unheard")]
    return build(rows, CALLS, tier="self-reported", grids={PLAIN: {"ranking": None}, "g": {"changed": CHANGES}})


def pairs():
    """RIR on all 90 ordered pairs of digits."""
    rir = {"grid": "digits", "metric": "rir", "measured_by": "conditioning", "role": None, "variant": "floor",
           "split": "train", "step": None}  # fmt: skip
    rows = [
        asr(defense, None, f"P{p}-H{h}", seed, factor * math.exp(p - h + 0.1 * seed)) | rir
        for defense, factor in {"none": 1, "ascent": 30, HOSTILE: 5}.items()
        for seed in (1, 2)
        for p in range(10)
        for h in range(10)
        if p != h
    ]
    members = {row["task"]: row["task"][1::3] for row in rows}
    return build(rows, CALLS, members, ranking=Ranking(value={"metric": "rir"}, better="higher", resolution=0.05))


PAPER = {"paper": "P 2025", "table": "Table 1", "setting": "g", "defense": "ascent", "attacker": "lora",
         "metric": "asr", "role": "harmful", "value": 0.123, "note": NOTE}  # fmt: skip


def build_site(out: Path, source: Path, refuse=pytest.fail) -> None:
    sites.build(out, source, refuse)


@pytest.fixture(scope="module", autouse=True)
def hand_made():
    """Submissions are hand-made records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "load", builders.load)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    papers = folder / "papers.csv"
    pd.DataFrame([PAPER]).reindex(columns=list(PUBLISHED)).to_csv(papers, index=False)
    builders.save(rates(), folder / "runs" / "rates" / "run.json.gz", papers)
    builders.save(pairs(), folder / "runs" / "all pairs" / "run.json.gz")
    for defense in ("ascent", "none"):
        Image.new("RGB", (300, 60), "teal").save(folder / "runs" / "rates" / f"g__a__{defense}__sheet.png")
    search = folder / "runs" / "tuned" / "rates"
    search.mkdir(parents=True)
    rows = [
        ["g", SLOW, defense, k, k / 4, k / 4, 1, True, 2, 0.1 * k] for defense in ("none", HOSTILE) for k in (0, 1, 2)
    ]
    pd.DataFrame(rows, columns=[*searches.TRIAL, "lr"]).to_csv(search / searches.TRIALS, index=False)
    rows = [[SLOW, "own", defense, 0.25, 1, True] for defense in ("none", HOSTILE)]
    names = ["attacker", "tuned_on", "defense", "score", "retention", "allowed"]
    pd.DataFrame(rows, columns=names).to_csv(search / searches.TRANSFER, index=False)
    return folder / "runs"


@pytest.fixture(scope="module")
def made(runs):
    """The boards of the runs."""
    loaded = {run: builders.load([runs / run / "run.json.gz"]).records for run in ("rates", "all pairs")}
    return {run: boards.make(records) for run, records in loaded.items()}


@pytest.fixture(scope="module")
def site(runs):
    build_site(runs.parent / "site", runs)
    return runs.parent / "site"


@given(st.text(st.sampled_from("<>&\"'`/ =\\") | st.characters(codec="utf-8"), max_size=40))
def test_a_text_of_anyone_makes_no_element_of_a_page(text):
    """What is in backticks is code; all other letters are shown as they are."""
    for html_of, allowed in ((code, {"code"}), (prose, {"code", "p"})):
        shown = Shown()
        shown.feed(str(html_of(text)))
        shown.close()
        assert shown.tags <= allowed
        assert "".join(shown.text.split()) == "".join(re.sub("`+([^`]*)`+", r"\1", text).split())


class Shown(HTMLParser):
    """The tags of a part of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        assert not attrs
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


LOAD = merge.load
"""The true reader of submissions."""


class Page(HTMLParser):
    """A page's elements with their attributes, its tables by caption as rows of texts, its charts and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.tables, self.data, self.text, self.within = [], {}, [], "", []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.within += [] if tag in ("meta", "link", "img") else [(tag, attributes)]
        if tag == "table":
            self.caption, self.rows = "", []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.within.pop()[0] == tag
        if tag == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        tags = [tag for tag, _ in self.within]
        if "caption" in tags:
            self.caption += data
        elif "td" in tags or "th" in tags:
            self.rows[-1][-1] += data
        if tags and tags[-1] == "script" and data.strip():
            self.data.append(json.loads(data))
        else:
            self.text += data

    def attributes(self, tag, name):
        return [found[name] for kind, found in self.elements if kind == tag and name in found]


def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def traces(page, kind="scatter"):
    return [trace for chart in page.data if "data" in chart for trace in chart["data"] if trace["type"] == kind]


def dots(page):
    """The traces of rows with the interval for other seeds."""
    return [trace for trace in traces(page) if trace.get("error_x", {}).get("thickness") == 4]


def test_every_link_leads_somewhere(site):
    found = pages(site)
    followed = 0
    for path, page in found.items():
        for link in (
            page.attributes("a", "href")
            + page.attributes("img", "src")
            + page.attributes("script", "src")
            + page.attributes("link", "href")
        ):
            if link == "data:,":  # no icon
                continue
            parts = urlsplit(link)
            assert not parts.scheme, link
            assert not parts.netloc, link
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path, link)
            if target.name == "cells.html" != path.name and parts.fragment:
                assert "grid" in parse_qs(parts.fragment)
            elif parts.fragment:
                ids = [attributes.get("id") for _, attributes in found[target].elements]
                assert parts.fragment in ids, (path, link)
            followed += 1
    assert followed > 100


def test_nothing_comes_from_the_network(site):
    assert (site / "assets" / "plotly.js").is_file()
    for path, page in pages(site).items():
        for link in page.attributes("script", "src") + page.attributes("link", "href") + page.attributes("img", "src"):
            assert not link.startswith(("http", "//")), (path, link)
        assert "style" not in [tag for tag, _ in page.elements]  # libraries and style once, beside the pages
        assert "@import" not in path.read_text()
    for name in ("style.css", "tables.css"):
        assert "url(http" not in (site / "assets" / name).read_text()
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 8e6


def test_the_tables_are_the_boards(made, site):
    for run, board in made.items():
        page = Page(site / "boards" / run / "index.html")
        for grid in board.grids:
            titles = ("Standings", "Values") if grid.cells is not None else ("Values",)
            for title, (table, below) in zip(titles, grid.section.tables, strict=True):
                shown = page.tables[f"{title} of {grid.grid.name}"]
                assert shown[0] == list(table)
                assert [[" ".join(text.split()) for text in row] for row in shown[1:]] == [
                    ["" if pd.isna(text) else " ".join(str(text).split()) for text in row]
                    for row in table.itertuples(index=False)
                ]
                assert " ".join(below.replace("`", "").split()) in " ".join(page.text.split())
        for name, text in board.csv().items():
            assert (site / "boards" / run / name).read_text() == text


def test_the_verdict_the_chart_and_the_protection_come_first(made, site):
    page = Page(site / "boards" / "rates" / "index.html")
    section = made["rates"].grids[0].section
    assert page.text.index(section.verdict) < page.text.index("Protection of g") < page.text.index("Standings of g")
    shown = page.tables["Protection of g"]
    assert [row[0] for row in shown[1:]] == list(section.headline[0]["defense"])
    assert "../../defenses/ascent.html" in page.attributes("a", "href")
    protection = made["rates"].protection.set_index("defense")
    control, worst = (trace for trace in dots(page) if trace["y"] == ["ascent (control)"])
    assert control["x"] == pytest.approx([protection.loc["ascent", "ratio"]])
    look = looks.of_grid(made["rates"].records.suite.grids[0])["ascent"]
    assert look.colour == looks.CONTROL
    assert control["marker"] | {"size": 0} == {"color": look.colour, "symbol": f"{look.symbol}-open", "size": 0}
    assert worst["marker"] | {"size": 0} == {"color": look.colour, "symbol": look.symbol, "size": 0}
    (arrows,) = (trace for trace in traces(page) if trace["name"] == "or more")
    assert "ascent (control)" in arrows["y"]  # retains too little and is not broken
    assert (site / "boards" / "rates" / "g_survival.png").is_file() == (
        "g_survival.png" in page.attributes("img", "src")
    )


def test_boards_with_costs_to_break_come_first_each_with_one_sentence(made, site):
    page = Page(site / "index.html")
    links = page.attributes("a", "href")
    assert links.index("boards/rates/index.html") < links.index("boards/all%20pairs/index.html")
    first, *others = made["rates"].grids[0].section.verdict.split(". ")
    assert first in page.text
    assert not [other for other in others if other in page.text]


def test_calls_and_changes_are_shown(site):
    page = Page(site / "boards" / "rates" / "index.html")
    assert "ascent* lr=0.001" in [row[0] for row in page.tables["Standings of g"]]
    assert "defense ascent*: Ascent(lr=0.001)" in page.text
    assert f"defense {HOSTILE}: Mine(tag='<i>')" in page.text
    assert "attacker lora: LoRA(rank=8)" in page.text
    assert "ascent* is changed: defenses.ascent.lr=0.001" in page.text
    assert "../../flags.html#changed" in page.attributes("a", "href")
    calls = Page(site / "boards" / "rates" / "cells.html").tables["The call that makes each row"]
    assert ["g", "attacker", "lora", "LoRA(rank=8)"] in calls


def test_published_values_have_their_own_column(site):
    head, row = Page(site / "boards" / "rates" / "index.html").tables["Published values of g, beside ours"]
    cell = dict(zip(head, row, strict=True))
    assert cell["published"] == "0.123"
    assert cell["ours"].startswith("0.7 [")  # of seeds .6, .7 and .8
    assert cell["where"] == f"P 2025, Table 1: {NOTE}"


def test_the_charts_show_the_boards_values(made, site):
    standings = made["rates"].standings.set_index("defense")
    long = made["rates"].long[made["rates"].long["grid"] == "g"]
    page = Page(site / "boards" / "rates" / "index.html")
    drawn = traces(page)
    label = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    labels = {label: HOSTILE, "ascent (control)": "ascent", "none (undefended)": "none"}
    worst = dots(page)[-3:]  # behind those of the costs to break
    assert [labels[trace["name"]] for trace in worst] == list(standings.index[::-1])
    for trace in worst:
        row, (value,) = standings.loc[labels[trace["name"]]], trace["x"]
        assert value == pytest.approx(row["worst"])
        if not math.isnan(row["ci_low"]):
            (up,), (down,) = trace["error_x"]["array"], trace["error_x"]["arrayminus"]
            assert (value - down, value + up) == pytest.approx((row["ci_low"], row["ci_high"]))

    (line, *_) = [trace for trace in drawn if trace["name"] == label and trace["mode"] == "lines+markers"]
    curve = long[(long["defense"] == HOSTILE) & (long["attacker"] == "lora")].sort_values("step")
    assert (line["x"], line["y"]) == (["30", "60"], pytest.approx(list(curve["value"])))
    (band, *_) = [trace for trace in drawn if trace.get("fill") == "toself" and trace["name"] == label]
    assert band["y"] == pytest.approx([*curve["ci_high"], *curve["ci_low"][::-1]])

    points = [trace for trace in drawn if trace["name"] == label and trace.get("marker", {}).get("size") == 11]
    retained = long[(long["defense"] == HOSTILE) & (long["metric"] == "retention")]["value"].item()
    assert [trace["x"] + trace["y"] for trace in points] == [
        pytest.approx([retained, standings.loc[HOSTILE, score]]) for score in ("worst", "mean")
    ]
    (front, _) = [trace for trace in drawn if trace["name"] == "no other is better in both"]
    assert front["y"] == pytest.approx([standings.loc[HOSTILE, "worst"], 1])  # ascent protects and retains less


def test_every_chart_can_be_read_as_a_table(made, site):
    """All but that of the intervals, whose values are the standings."""
    page = Page(site / "boards" / "all pairs" / "index.html")
    assert len([data for data in page.data if "data" in data]) == page.text.count("As a table") + 1
    long = made["rates"].long[made["rates"].long["grid"] == "g"]
    curve = long[(long["defense"] == HOSTILE) & (long["attacker"] == "lora")].sort_values("step")
    tables = Page(site / "boards" / "rates" / "index.html").tables
    (steps,) = [rows for caption, rows in tables.items() if caption.startswith("lora: attack success rate")]
    rows = {row[0]: row[1:] for row in steps[1:]}
    assert steps[0] == ["defense", "30", "60"]
    assert rows[HOSTILE] == [interval(row) for _, row in curve.iterrows()]


def test_the_map_has_every_pair(site):
    none, ascent, _ = traces(Page(site / "boards" / "all pairs" / "index.html"), "heatmap")
    for trace, factor in ((none, 1), (ascent, 30)):
        for p, row in enumerate(trace["z"]):
            for h, value in enumerate(row):
                assert value == (None if p == h else pytest.approx(math.log(factor) + p - h + 0.15))
    assert not traces(Page(site / "boards" / "rates" / "index.html"), "heatmap")


def test_cells_are_the_ranking_values_and_retention(made, site):
    frame = made["rates"].records.frame
    frame = frame[frame["grid"] == "g"]
    ranks = (frame["metric"] == "asr") & (frame["step"] == 60)
    wanted = frame[ranks.fillna(False) | (frame["metric"] == "retention").fillna(False) | (frame["status"] != "ok")]
    (rows,) = Page(site / "boards" / "rates" / "cells.html").data
    assert len(rows) == len(wanted) == 45
    for row, (_, record) in zip(rows, wanted.iterrows(), strict=True):
        assert row[:5] == [None if pd.isna(record[name]) else record[name]
                           for name in ("grid", "task", "defense", "attacker", "seed")]  # fmt: skip
        assert row[7] == (None if pd.isna(record["value"]) else pytest.approx(record["value"]))
    assert NOTE in [row[9] for row in rows]


def test_labels_and_notes_are_text(site):
    for path, page in pages(site).items():
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"b", "i"}, path
        assert "x" not in page.attributes("img", "src"), path
        assert "alert(1)" not in path.read_text().replace("&lt;script&gt;alert(1)", "").replace(
            "\\u003cscript\\u003ealert(1)", ""
        )
    assert HOSTILE in Page(site / "boards" / "rates" / "index.html").text


def test_pages_can_be_read_with_a_keyboard_and_a_reader(site):
    for path, page in pages(site).items():
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == 1, path
        assert tags.count("table") == tags.count("caption"), path
        assert all(found.get("lang") == "en" for tag, found in page.elements if tag == "html")
        assert all(found.get("alt") for tag, found in page.elements if tag == "img"), path
        assert all(found.get("scope") for tag, found in page.elements if tag == "th"), path
        assert all(found.get("aria-label") for _, found in page.elements if found.get("role") in ("img", "region")), (
            path
        )
        names = [found["id"] for _, found in page.elements if "id" in found]
        assert len(names) == len(set(names)), path


def test_flags_are_explained_once_and_linked_from_where_they_are_raised(made, site):
    page = Page(site / "flags.html")
    for flag in FLAGS.values():
        assert flag.meaning[1:].replace("`", "") in page.text
        assert flag.advice[1:].replace("`", "") in page.text
    board = Page(site / "boards" / "rates" / "index.html")
    raised = {name for names in made["rates"].standings["flags"].dropna() for name in names.split()}
    assert {"harms", "weak-attack", "forfeited", "unlike-published", "changed"} <= raised
    for name in raised:
        assert f"../../flags.html#{name}" in board.attributes("a", "href")


def test_each_plugin_has_a_page_with_its_fields_and_its_ranks(made, site):
    for kind in ("defense", "attacker"):
        for entry in installed().all(kind):
            page = Page(site / f"{kind}s" / f"{entry.name}.html")
            assert entry.about["summary"].replace("`", "").split()[-1] in page.text
            for field in fields(entry.load()):
                assert field.name in [row[0] for row in page.tables["Fields"]]
    ascent = Page(site / "defenses" / "ascent.html").tables["Ranks, on every board"]
    assert {row[0] for row in ascent[1:]} == {"rates", "all pairs"}
    assert "callAscent(lr=0.001)" in [row[-1] for row in ascent]  # folded
    standings = Page(site / "boards" / "rates" / "index.html").tables["Standings of g"]
    _, value, rank = standings[[row[0] for row in standings].index("ascent* lr=0.001")][:3]
    assert ["rates", "g", "ascent", "worst ASR", value, rank] in [row[:6] for row in ascent]
    flags = made["rates"].standings.set_index("defense").loc["ascent", "flags"]
    assert flags.split() in [row[7].split() for row in ascent]
    lora = Page(site / "attackers" / "lora.html").tables["Values after its attack, by defense, on every board"]
    assert [row[3] for row in lora[1:4]] == [HOSTILE, "ascent* lr=0.001", "none"]
    unheard = Page(site / "attackers" / "unheard.html")
    assert "not installed" in unheard.text


def test_a_search_for_settings_has_a_page_with_its_trials_and_transfer(site):
    page = Page(site / "searches" / "rates.html")
    assert [(trace["x"], trace["y"]) for trace in traces(page)] == [([1, 2, 3], [0, 0.25, 0.5])] * 2
    assert page.tables["Best settings"][1] == ["g", SLOW, "none", "0", "0.5", "2", "lr=0.2"]
    assert page.tables["Transfer"] == [["attacker", "tuned on", "none", HOSTILE], [SLOW, "own", "0.25", "0.25"]]
    assert "searches/rates.html" in Page(site / "index.html").attributes("a", "href")


def test_contact_sheets_are_there_the_undefended_first(site):
    shown = Page(site / "boards" / "rates" / "index.html").attributes("img", "src")
    assert [name for name in shown if "__" in name] == [
        "g__a__none__sheet.png",
        "g__a__ascent__sheet.png",
    ]


def test_a_board_of_submissions_shows_what_is_known_of_them(tmp_path):
    """Its tier, where and by what it was computed, and the very file to download."""
    file = Path(__file__).parents[1] / "submission" / "submissions" / "tiny" / "tiny.json.gz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "load", LOAD)
        build_site(tmp_path / "site", file.parents[1])
        loaded = merge.load([file])
    (page,) = (tmp_path / "site").rglob("tiny/index.html")
    text = page.read_text()
    assert "self-reported" in text
    for provenance in loaded.provenance.values():
        assert html.escape(provenance) in text
    assert (page.parent / file.name).read_bytes() == file.read_bytes()


def test_a_plugin_whose_name_could_be_a_path_has_no_page(tmp_path):
    records = build(cells({"none": {"lora": 1.0}}))
    grid = records.suite.grids[0]
    grid.defenses["none"] = grid.defenses["none"].model_copy(update={"name": "x/../../../escaped"})
    builders.save(records, tmp_path / "runs" / "one" / "run.json.gz")
    build_site(tmp_path / "deep" / "site", tmp_path / "runs")
    assert not list(tmp_path.rglob("escaped*"))


def test_a_site_replaces_a_site_and_no_other_folder(runs, tmp_path):
    shutil.copytree(runs / "rates", tmp_path / "runs" / "rates")
    build_site(tmp_path / "site", tmp_path / "runs")
    (tmp_path / "runs" / "rates").rename(tmp_path / "runs" / "renamed")
    (tmp_path / "site" / "CNAME").write_text("boards.example")
    build_site(tmp_path / "site", tmp_path / "runs")
    assert [path.name for path in (tmp_path / "site" / "boards").iterdir()] == ["renamed"]
    assert (tmp_path / "site" / "CNAME").exists()
    with pytest.raises(UsageError, match="of another origin"):
        build_site(tmp_path / "runs" / "renamed", tmp_path / "site")
    with pytest.raises(UsageError, match="the next site would be made of this one"):
        build_site(tmp_path / "runs" / "site", tmp_path / "runs")
    with pytest.raises(UsageError, match=r"no run.json.gz lies below"):
        build_site(tmp_path / "other", tmp_path / "absent")
    shutil.copytree(tmp_path / "runs" / "renamed", tmp_path / "runs" / "more" / "renamed")
    with pytest.raises(UsageError, match=r"two runs below .* are called 'renamed'"):
        build_site(tmp_path / "other", tmp_path / "runs")


def test_a_submission_that_cannot_be_read_costs_its_own_board_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "load", LOAD)
    shutil.copytree(Path(__file__).parents[1] / "submission" / "submissions" / "tiny", tmp_path / "results" / "tiny")
    (tmp_path / "results" / "cut").mkdir()
    whole = (tmp_path / "results" / "tiny" / "tiny.json.gz").read_bytes()
    (tmp_path / "results" / "cut" / "cut.json.gz").write_bytes(whole[:100])
    refused = []
    build_site(tmp_path / "site", tmp_path / "results", refused.append)
    assert ["cut.json.gz" in str(error) for error in refused] == [True]
    assert [path.name for path in (tmp_path / "site" / "boards").iterdir()] == ["tiny"]
    shutil.rmtree(tmp_path / "results" / "tiny")
    with pytest.raises(UsageError, match=r"no submission below .* can be read"):
        build_site(tmp_path / "site", tmp_path / "results", refused.append)


@pytest.mark.parametrize("absent", ["plotly", "itables"])
def test_without_the_extra_one_line_says_what_to_install(absent, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("harness.site.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("harness.site.pages", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UsageError, match=r"pip install 'immunebench\[site\]'"):
        build_site(tmp_path / "site", tmp_path)


@pytest.fixture(scope="module")
def browser(site):
    """`browser(page, width, dark)`: a headless Chromium that has opened a page from its folder, and has nothing to
    complain of once the test is over."""
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium with its chromedriver is installed (Debian: chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def opened(page, width=1280, dark=False):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get("about:blank")  # or only the hash would change
        driver.get((site / page).as_uri().replace("%23", "#"))
        if driver.find_elements("css selector", "table.data"):
            until(lambda: driver.find_elements("css selector", "html[data-ready]"))
        return driver

    yield opened
    driver.quit()


def until(condition):
    """Its value as soon as it holds."""
    end = time.monotonic() + 60  # reached only on failure
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def opened(driver, caption):
    """The table with this caption, with all parts that were folded in view."""
    driver.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    (table,) = [
        table
        for table in driver.find_elements("css selector", "table.data")
        if table.find_element("css selector", "caption").text == caption
    ]
    return table


def column(table, title):
    """The texts of a column that are shown, and its header."""
    heads = table.find_elements("css selector", "thead th")
    (place,) = [i for i, head in enumerate(heads) if head.text.strip() == title]
    rows = table.find_elements("css selector", "tbody tr")
    return [row.find_elements("css selector", "th, td")[place].text for row in rows], heads[place]


def complaints(driver):
    """What it wrote on the console, and what it asked of the network."""
    messages = [entry["message"] for entry in driver.get_log("browser")]
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in urls)
    return messages + [url for url in urls if not url.startswith(("file:", "blob:", "data:", "about:"))]


def test_sorting_by_mouse_and_by_keyboard(browser):
    driver = browser("boards/rates/index.html")
    table = opened(driver, "Standings of g")
    sort = column(table, "lora")[1].find_element("css selector", "button[aria-label^=Sort]")
    sort.click()
    until(lambda: column(table, "lora")[0] == ["1", "0.733", "0.2"])  # of figures the highest first
    assert column(table, "lora")[1].get_attribute("aria-sort") == "descending"
    sort.click()
    until(lambda: column(table, "lora")[0] == ["0.2", "0.733", "1"])
    sort = column(table, f"{SLOW} (weak)")[1].find_element("css selector", "button[aria-label^=Sort]")
    driver.execute_script("arguments[0].focus()", sort)
    sort.send_keys(Keys.ENTER)
    until(lambda: column(table, f"{SLOW} (weak)")[0] == ["0.2", "0.117", "0"])
    assert not complaints(driver)
    table = opened(browser("boards/all pairs/index.html"), "Standings of digits")
    sort = column(table, "RIR [95 %] (other tasks)")[1].find_element("css selector", "button[aria-label^=Sort]")
    sort.click()  # as numbers, not as texts
    until(
        lambda: [text.split()[0] for text in column(table, "RIR [95 %] (other tasks)")[0]] == ["34.9", "5.81", "1.16"]
    )
    sort.click()
    until(
        lambda: [text.split()[0] for text in column(table, "RIR [95 %] (other tasks)")[0]] == ["1.16", "5.81", "34.9"]
    )


def test_filtering(browser):
    driver = browser("boards/rates/index.html")
    table = opened(driver, "Standings of g")
    assert not driver.find_elements("css selector", "input[type=search]")  # a table of three rows needs none
    head = column(table, "mean")[1]
    assert head.find_element("css selector", "button[aria-label^=Filter]").get_attribute("aria-label") == "Filter mean"
    head.find_element("css selector", "button[aria-label^=Filter]").click()
    Select(driver.find_element("css selector", ".dtcc-dropdown select")).select_by_value("greater")
    driver.find_element("css selector", ".dtcc-dropdown input").send_keys("0.5")
    until(lambda: column(table, "mean")[0] == ["0.733", "1"])
    column(table, f"{SLOW} (weak)")[1].find_element("css selector", "button[aria-label^=Filter]").click()
    assert until(lambda: driver.find_element("css selector", ".dtcc-title").text) == f"{SLOW} (weak)"
    assert not driver.find_elements("css selector", ".wide img")
    assert not complaints(driver)


def test_a_long_table_can_be_searched(browser):
    driver = browser("boards/rates/cells.html")
    cells = driver.find_element("id", "cells")
    driver.find_element("css selector", "input[type=search]").send_keys("ascent")
    until(lambda: set(column(cells, "defense")[0]) == {"ascent"})
    assert not complaints(driver)


def test_a_figure_leads_to_its_cells(browser):
    driver = browser("boards/rates/index.html")
    table = opened(driver, "Standings of g")
    assert column(table, "worst ASR [95 %] (other tasks)")[0][0].startswith("0.2 [")
    table.find_element("partial link text", "0.2 [").click()
    until(lambda: driver.current_url.partition("#")[0].endswith("cells.html"))
    until(lambda: driver.find_elements("css selector", "html[data-ready]"))
    cells = driver.find_element("id", "cells")
    assert set(column(cells, "defense")[0]) == {HOSTILE}
    shown = [float(value) for value in column(cells, "value")[0]]
    assert sorted(shown) == pytest.approx([0] * 6 + [0.1, 0.1, 0.2, 0.2, 0.3, 0.3])  # of slow, and of lora
    assert all(column(cells, "job")[0])
    assert "12 of 45" in driver.find_element("id", "chosen").text
    driver.find_element("link text", "Show all").click()
    until(lambda: len(column(cells, "defense")[0]) == 45)
    assert not driver.find_element("id", "chosen").is_displayed()
    assert NOTE in column(cells, "note")[0]
    assert not complaints(driver)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["light", "dark phone"])
def test_every_page_is_drawn_without_complaint(browser, site, width, dark):
    for path in ("index.html", "flags.html", "defenses/ascent.html", "attackers/lora.html", "boards/rates/cells.html",
                 "boards/rates/index.html", "boards/all pairs/index.html"):  # fmt: skip
        driver = browser(path, width, dark)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        if path == "boards/rates/index.html":  # sentence, chart, table and flags of two grids come first
            assert driver.execute_script("return document.documentElement.scrollHeight") < 3000 * (1 + (width < 600))
        driver.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        charts = driver.find_elements("css selector", "figure.chart")
        for chart in charts:
            driver.execute_script("arguments[0].scrollIntoView()", chart)
            until(lambda chart=chart: chart.find_elements("css selector", ".js-plotly-plot .main-svg"))
        assert len(charts) == len([data for data in Page(site / path).data if "data" in data])
        colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert colour == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
        if charts:
            drawn = "return getComputedStyle(document.querySelector('.main-svg text')).fill"
            assert (driver.execute_script(drawn) == "rgb(242, 245, 250)") == dark
        assert not complaints(driver), path


def test_plotly_is_loaded_once(browser, site):
    """By the pages with charts alone, and from one file of the site."""
    for path, times in (("boards/rates/index.html", 1), ("index.html", 1), ("flags.html", 0)):
        driver = browser(path)
        assert len(driver.find_elements("css selector", "script[src$='plotly.js']")) == times
        assert (driver.execute_script("return typeof Plotly") == "object") == bool(times)
    code = (site / "assets" / "plotly.js").read_bytes()[:2000]
    assert sum(code in path.read_bytes() for path in site.rglob("*") if path.is_file()) == 1


def test_printing_shows_what_is_folded_in_light_colours(browser):
    """All of it, as wide as paper, also from a dark page; then the page is as before."""
    driver = browser("boards/rates/index.html", dark=True)
    folded = "return document.querySelectorAll('details:not([open])').length"
    before = driver.execute_script(folded)
    assert before
    driver.execute_script("""
        addEventListener("beforeprint", () => {
          const charts = [...document.querySelectorAll("figure.chart .plot")];
          window.printed = {
            folded: document.querySelectorAll("details:not([open])").length,
            charts: charts.length,
            drawn: charts.filter((chart) => chart.querySelector(".main-svg")).length,
            widest: Math.max(...charts.map((chart) => chart.querySelector(".main-svg").getBoundingClientRect().width)),
            colours: [...new Set(charts.map((chart) => getComputedStyle(chart.querySelector("text")).fill))],
          };
        });
    """)
    driver.execute_cdp_cmd("Page.printToPDF", {})
    printed = until(lambda: driver.execute_script("return window.printed"))
    assert printed["folded"] == 0
    assert printed["drawn"] == printed["charts"] > 5
    assert printed["widest"] <= 700
    assert printed["colours"] == ["rgb(42, 63, 95)"]  # of the light template
    assert driver.execute_script(folded) == before
    drawn = "return getComputedStyle(document.querySelector('.main-svg text')).fill"
    until(lambda: driver.execute_script(drawn) == "rgb(242, 245, 250)")
    assert not complaints(driver)


def test_a_phone_shows_value_and_interval(browser):
    """Without scrolling to the side, with a headline and without one."""
    for path, caption in (("boards/all pairs", "Standings of digits"), ("boards/rates", "Protection of g")):
        driver = browser(f"{path}/index.html", 390)
        (table,) = [
            table
            for table in driver.find_elements("css selector", "table.data")
            if table.find_element("css selector", "caption").text == caption
        ]
        for row in table.find_elements("css selector", "tbody tr"):
            cell = row.find_elements("css selector", "th, td")[1]
            assert cell.text
            assert cell.rect["x"] + cell.rect["width"] <= 390
        assert "[" in table.text


def test_the_header_says_what_when_and_where_to_go_on(browser):
    driver = browser("boards/rates/index.html")
    header = driver.find_element("css selector", "header")
    assert header.text.startswith("ImmuneBench")
    assert datetime.date.today().isoformat() in header.text
    for link, command in (("Docs", "immunebench docs"), ("Submit", "immunebench submit")):
        driver.find_element("css selector", "header").find_element("link text", link).click()
        text = "return document.querySelector(':target')?.nextElementSibling.textContent"
        assert command in until(lambda text=text: driver.execute_script(text))
        driver.back()
    assert not complaints(driver)


def test_the_map_by_task_is_the_mean_over_seeds():
    ranked = read_scores(pairs())["digits"]
    assert ranked.by_task.loc["P3-H1", "ascent"] == pytest.approx(30 * math.exp(2.15))
