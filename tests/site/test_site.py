"""The site of boards: its figures are the boards', every link leads somewhere, nothing is fetched, labels are text; and
in a browser, where one is installed, tables sort and filter, and a figure leads to its cells."""

import html
import json
import math
import shutil
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from harness import leaderboard
from harness.cli.reference import fields
from harness.errors import UsageError
from harness.leaderboard import scores as cells
from harness.leaderboard.flags import FLAGS
from harness.leaderboard.tables import interval
from harness.records import load
from harness.registry import Catalogue
from harness.site import build
from harness.submission import read_write as submission
from tests.helpers import frame, grid, rate

HOSTILE = "<b>mine</b> & co"
SLOW = "slow <img src=x>"
NOTE = "<script>alert(1)</script>"
CALLS = {"none": "Undefended()", "ascent": "Ascent(lr=0.001)", HOSTILE: "Mine(of='<i>')"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


def rates():
    """A grid of text to image: three defenses, an attacker that breaks and one that does not, steps, what is kept, and
    a hole; and one that nothing judges."""
    rows = grid({
        "none": {"lora": 1.0, SLOW: 0.2},
        "ascent": {"lora": lambda task, seed: 0.5 + 0.1 * seed, SLOW: 0.1},
        HOSTILE: {"lora": lambda task, seed: 0.1 * seed, SLOW: 0.0},
    })  # fmt: skip
    rows += [row | {"step": 30, "value": row["value"] / 2, "judged": None} for row in rows]
    kept = {"attacker": None, "step": None, "role": "kept", "judged": "kept"}
    rows += [rate(defense, None, "a", seed, value + seed / 1000) | kept for seed in (1, 2, 3)
             for defense, value in {"none": 0.9, "ascent": 0.3, HOSTILE: 0.4}.items()]  # fmt: skip
    hole = {"status": "failed", "note": NOTE, "value": None}
    rows = [row | (hole if (row["defense"], row["task"], row["seed"]) == ("ascent", "b", 3) else {}) for row in rows]
    rows += [rate("none", "lora", "a", 1, 0.5) | {"grid": "plain <img src=x>", "judged": None}]
    attacked = {"lora": "LoRA()", SLOW: "Unheard(of=1)"}
    return [
        row | {"defense_call": CALLS[row["defense"]], "attacker_call": attacked.get(row["attacker"])} for row in rows
    ]


def pairs():
    """RIR on all 90 ordered pairs of digits."""
    return [
        rate(defense, None, f"P{p}-H{h}", seed, many * math.exp(p - h + 0.1 * seed)) | {
            "grid": "digits", "metric": "rir", "role": None, "policy": "floor", "split": "train", "step": None,
            "scale": "log", "judged": "higher", "broken": None, "members": f"{p}+{h}", "defense_call": CALLS[defense],
        }
        for defense, many in {"none": 1, "ascent": 30, HOSTILE: 5}.items() for seed in (1, 2)
        for p in range(10) for h in range(10) if p != h
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    told = dict.fromkeys(leaderboard.PUBLISHED_SCHEMA) | {
        "paper": "P 2025", "table": "Table 1", "setting": "g", "defense": "ascent", "attacker": "lora",
        "metric": "rate", "role": "harmful", "value": 0.123, "note": NOTE,
    }  # fmt: skip
    leaderboard.write(frame(rates()), folder / "runs" / "rates", pd.DataFrame([told]))
    leaderboard.write(frame(pairs()), folder / "runs" / "all pairs")
    for defense in ("ascent", "none"):
        Image.new("RGB", (300, 60), "teal").save(folder / "runs" / "rates" / f"g__a__{defense}__sheet.png")
    return folder / "runs"


@pytest.fixture(scope="module")
def site(runs):
    build(runs.parent / "site", runs)
    return runs.parent / "site"


class Page(HTMLParser):
    """A page's elements with their attributes, its tables by caption as rows of texts, its charts and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.tables, self.data, self.text, self.within = [], {}, [], "", []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.elements.append((tag, of))
        self.within += [] if tag in ("meta", "link", "img") else [(tag, of)]
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

    def of(self, tag, name):
        return [of[name] for kind, of in self.elements if kind == tag and name in of]


def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def traces(page, kind="scatter"):
    return [trace for chart in page.data if "data" in chart for trace in chart["data"] if trace["type"] == kind]


def test_every_link_leads_somewhere(site):
    found = pages(site)
    followed = 0
    for path, page in found.items():
        for link in page.of("a", "href") + page.of("img", "src") + page.of("script", "src") + page.of("link", "href"):
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
                ids = [of.get("id") for _, of in found[target].elements]
                assert parts.fragment in ids, (path, link)
            followed += 1
    assert followed > 100


def test_nothing_comes_from_the_network(site):
    assert (site / "assets" / "plotly.js").is_file()
    for path, page in pages(site).items():
        for link in page.of("script", "src") + page.of("link", "href") + page.of("img", "src"):
            assert not link.startswith(("http", "//")), (path, link)
        assert "style" not in [tag for tag, _ in page.elements]  # libraries and style once, beside the pages
        assert "@import" not in path.read_text()
    for name in ("style.css", "tables.css"):
        assert "url(http" not in (site / "assets" / name).read_text()
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 8e6


def test_the_tables_are_the_boards(runs, site):
    for run in ("rates", "all pairs"):
        records = load(runs / run / "records.parquet")
        told = runs / run / "published.csv"
        made = leaderboard.make(records, leaderboard.read_published(told) if told.is_file() else None)
        page = Page(site / "boards" / run / "index.html")
        for name, section in zip(records["grid"].unique(), made.sections, strict=True):
            titles = ("Standings", "Figures") if name in made.judged else ("Figures",)
            for title, (table, below) in zip(titles, section.tables, strict=True):
                shown = page.tables[f"{title} of {name}"]
                assert shown[0] == list(table)
                assert [[" ".join(text.split()) for text in row] for row in shown[1:]] == [
                    ["" if pd.isna(text) else " ".join(str(text).split()) for text in row]
                    for row in table.itertuples(index=False)
                ]
                assert " ".join(below.replace("`", "").split()) in " ".join(page.text.split())
        for name in ("leaderboard", "standings", "comparisons"):
            pd.testing.assert_frame_equal(
                pd.read_csv(site / "boards" / run / f"{name}.csv"), pd.read_csv(runs / run / f"{name}.csv")
            )


def test_published_values_have_their_own_column(site):
    head, row = Page(site / "boards" / "rates" / "index.html").tables["Published figures of g, beside ours"]
    told = dict(zip(head, row, strict=True))
    assert told["published"] == "0.123"
    assert told["ours"].startswith("0.7 [")  # of seeds .6, .7 and .8
    assert told["where"] == f"P 2025, Table 1: {NOTE}"


def test_the_charts_show_the_boards_figures(runs, site):
    stood = pd.read_csv(runs / "rates" / "standings.csv").set_index("defense")
    board = pd.read_csv(runs / "rates" / "leaderboard.csv")
    drawn = traces(Page(site / "boards" / "rates" / "index.html"))
    (worst,) = [trace for trace in drawn if trace["name"] == "95 %, other seeds"]
    label = HOSTILE.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for name, value, up, down in zip(
        worst["y"], worst["x"], worst["error_x"]["array"], worst["error_x"]["arrayminus"], strict=True
    ):
        row = stood.loc[HOSTILE if name == label else name]
        assert value == pytest.approx(row["worst"])
        if not math.isnan(row["ci_low"]):
            assert (value - down, value + up) == pytest.approx((row["ci_low"], row["ci_high"]))

    (line, *_) = [trace for trace in drawn if trace["name"] == label and trace["mode"] == "lines+markers"]
    curve = board[(board["defense"] == HOSTILE) & (board["attacker"] == "lora")].sort_values("step")
    assert (line["x"], line["y"]) == (["30", "60"], pytest.approx(list(curve["value"])))
    (band, *_) = [trace for trace in drawn if trace.get("fill") == "toself" and trace["name"] == label]
    assert band["y"] == pytest.approx([*curve["ci_high"], *curve["ci_low"][::-1]])

    points = [trace for trace in drawn if trace["name"] == label and trace["mode"] == "markers"]
    kept = board[(board["defense"] == HOSTILE) & (board["role"] == "kept")]["value"].item()
    assert [trace["x"] + trace["y"] for trace in points] == [
        pytest.approx([kept, stood.loc[HOSTILE, figure]]) for figure in ("worst", "mean")
    ]
    (front, _) = [trace for trace in drawn if trace["name"] == "no other is better in both"]
    assert front["y"] == pytest.approx([stood.loc[HOSTILE, "worst"], 1])  # ascent protects less and keeps less


def test_every_chart_can_be_read_as_a_table(runs, site):
    """All but that of the intervals, whose figures are the standings."""
    for run in ("rates", "all pairs"):
        page = Page(site / "boards" / run / "index.html")
        assert len([of for of in page.data if "data" in of]) == page.text.count("As a table") + 1
    board = pd.read_csv(runs / "rates" / "leaderboard.csv")
    curve = board[(board["defense"] == HOSTILE) & (board["attacker"] == "lora")].sort_values("step")
    tables = Page(site / "boards" / "rates" / "index.html").tables
    (steps,) = [rows for caption, rows in tables.items() if caption.startswith("lora: rate")]
    rows = {row[0]: row[1:] for row in steps[1:]}
    assert steps[0] == ["defense", "30", "60"]
    assert rows[HOSTILE] == [interval(row) for _, row in curve.iterrows()]


def test_the_map_has_every_pair(site):
    none, ascent, _ = traces(Page(site / "boards" / "all pairs" / "index.html"), "heatmap")
    for of, many in ((none, 1), (ascent, 30)):
        for h, row in enumerate(of["z"]):
            for p, value in enumerate(row):
                assert value == (None if p == h else pytest.approx(math.log(many) + p - h + 0.15))
    assert not traces(Page(site / "boards" / "rates" / "index.html"), "heatmap")


def test_cells_are_the_judging_records(runs, site):
    records = load(runs / "rates" / "records.parquet")
    judging = records[records["judged"].notna()]
    (rows,) = Page(site / "boards" / "rates" / "cells.html").data
    assert len(rows) == len(judging)
    for row, (_, of) in zip(rows, judging.iterrows(), strict=True):
        assert row[:5] == [None if pd.isna(of[name]) else of[name]
                           for name in ("grid", "task", "defense", "attacker", "seed")]  # fmt: skip
        assert row[7] == (None if pd.isna(of["value"]) else pytest.approx(of["value"]))
    assert NOTE in [row[9] for row in rows]


def test_labels_and_notes_are_text(site):
    for path, page in pages(site).items():
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"b", "i"}, path
        assert "x" not in page.of("img", "src"), path
        assert "alert(1)" not in path.read_text().replace("&lt;script&gt;alert(1)", "").replace(
            "\\u003cscript\\u003ealert(1)", ""
        )
    assert HOSTILE in Page(site / "boards" / "rates" / "index.html").text


def test_pages_can_be_read_with_a_keyboard_and_a_reader(site):
    for path, page in pages(site).items():
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == 1, path
        assert tags.count("table") == tags.count("caption"), path
        assert all(of.get("lang") == "en" for tag, of in page.elements if tag == "html")
        assert all(of.get("alt") for tag, of in page.elements if tag == "img"), path
        assert all(of.get("scope") for tag, of in page.elements if tag == "th"), path
        assert all(of.get("aria-label") for _, of in page.elements if of.get("role") in ("img", "region")), path
        names = [of["id"] for _, of in page.elements if "id" in of]
        assert len(names) == len(set(names)), path


def test_flags_are_explained_once_and_linked_from_where_they_are_raised(runs, site):
    page = Page(site / "flags.html")
    for flag in FLAGS.values():
        assert flag.meaning[1:].replace("`", "") in page.text
        assert flag.todo[1:].replace("`", "") in page.text
    board = Page(site / "boards" / "rates" / "index.html")
    raised = {name for of in pd.read_csv(runs / "rates" / "standings.csv")["flags"].dropna() for name in of.split()}
    assert {"harms", "weak-attack", "missing", "unlike-published"} <= raised
    for name in raised:
        assert f"../../flags.html#{name}" in board.of("a", "href")


def test_each_plugin_has_a_page_with_its_fields_and_how_it_stands(site):
    for kind in ("defense", "attacker"):
        for entry in Catalogue().all(kind):
            page = Page(site / f"{kind}s" / f"{entry.name}.html")
            assert entry.about["summary"].replace("`", "").split()[-1] in page.text
            for field in fields(entry.load()):
                assert field.name in [row[0] for row in page.tables["Fields"]]
    ascent = Page(site / "defenses" / "ascent.html").tables["How it stands, on every board"]
    assert {row[0] for row in ascent[1:]} == {"rates", "all pairs"}
    assert "Ascent(lr=0.001)" in [row[-1] for row in ascent]
    told = Page(site / "boards" / "rates" / "index.html").tables["Standings of g"]
    rank, value = told[[row[1] for row in told].index("ascent")][::2][:2]
    assert ["rates", "g", "ascent", rank, "worst rate", value] in [row[:6] for row in ascent]
    flags = pd.read_csv(site / "boards" / "rates" / "standings.csv").set_index("defense").loc["ascent", "flags"]
    assert flags.split() in [row[7].split() for row in ascent]
    lora = Page(site / "attackers" / "lora.html").tables["What it leaves of each defense, on every board"]
    assert [row[3] for row in lora[1:4]] == [HOSTILE, "ascent", "none"]
    unheard = Page(site / "attackers" / "Unheard.html")
    assert "not installed" in unheard.text
    assert "Unheard(of=1)" in unheard.text


def test_contact_sheets_are_there_the_undefended_first(site):
    shown = Page(site / "boards" / "rates" / "index.html").of("img", "src")
    assert [name for name in shown if "__" in name] == [
        "g__a__none__sheet.png",
        "g__a__ascent__sheet.png",
    ]


def test_a_board_of_submissions_tells_what_is_known_of_them(tmp_path):
    """Its tier, where and by what it was computed, and the very file to download."""
    file = Path(__file__).parents[1] / "submission" / "submissions" / "tiny" / "tiny.json.gz"
    build(tmp_path / "site", file.parents[1])
    (page,) = (tmp_path / "site").rglob("tiny/index.html")
    text = page.read_text()
    found = submission.read(file)
    assert "self-reported" in text
    for told in (found.provenance.told, found.provenance.hardware.cpu, found.provenance.packages["torch"]):
        assert html.escape(told) in text
    assert (page.parent / file.name).read_bytes() == file.read_bytes()


def test_plugins_without_a_valid_call_have_no_page(tmp_path):
    rows = [row | {"defense_call": "../../../escaped()"} for row in grid({"none": {"lora": 1.0}})]
    leaderboard.write(frame(rows), tmp_path / "runs" / "one")
    build(tmp_path / "deep" / "site", tmp_path / "runs")
    assert not list(tmp_path.rglob("escaped*"))


def test_a_site_replaces_a_site_and_no_other_folder(runs, tmp_path):
    shutil.copytree(runs / "rates", tmp_path / "runs" / "rates")
    build(tmp_path / "site", tmp_path / "runs")
    (tmp_path / "runs" / "rates").rename(tmp_path / "runs" / "renamed")
    build(tmp_path / "site", tmp_path / "runs")
    assert [path.name for path in (tmp_path / "site" / "boards").iterdir()] == ["renamed"]
    with pytest.raises(UsageError, match="holds something that is no site"):
        build(tmp_path / "runs" / "renamed", tmp_path / "site")
    with pytest.raises(UsageError, match="the next site would be made of this one"):
        build(tmp_path / "runs" / "site", tmp_path / "runs")
    with pytest.raises(UsageError, match=r"no records.parquet lies below"):
        build(tmp_path / "other", tmp_path / "absent")
    shutil.copytree(tmp_path / "runs" / "renamed", tmp_path / "runs" / "more" / "renamed")
    with pytest.raises(UsageError, match=r"two runs below .* are called 'renamed'"):
        build(tmp_path / "other", tmp_path / "runs")


@pytest.mark.parametrize("absent", ["plotly", "itables"])
def test_without_the_extra_one_line_says_what_to_install(absent, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("harness.site.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("harness.site.pages", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UsageError, match=r"pip install 'immunebench\[site\]'"):
        build(tmp_path / "site", tmp_path)


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
    end = time.monotonic() + 300  # reached only on failure
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def column(table, title):
    """The texts of a column that are shown, and its header."""
    heads = table.find_elements("css selector", "thead th")
    (place,) = [i for i, head in enumerate(heads) if head.text.strip() == title]
    rows = table.find_elements("css selector", "tbody tr")
    return [row.find_elements("css selector", "th, td")[place].text for row in rows], heads[place]


def complaints(driver):
    """What it wrote on the console, and what it asked of the network."""
    told = [entry["message"] for entry in driver.get_log("browser")]
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [of["params"]["request"]["url"] for of in sent if of["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in asked)
    return told + [url for url in asked if not url.startswith(("file:", "blob:", "data:", "about:"))]


def test_sorting_by_mouse_and_by_keyboard(browser):
    driver = browser("boards/rates/index.html")
    table = driver.find_element("css selector", "table.data")
    sort = column(table, "lora")[1].find_element("css selector", "button[aria-label=Sort]")
    sort.click()
    until(lambda: column(table, "lora")[0] == ["1", "0.7", "0.2"])  # of figures the highest first
    assert column(table, "lora")[1].get_attribute("aria-sort") == "descending"
    sort.click()
    until(lambda: column(table, "lora")[0] == ["0.2", "0.7", "1"])
    sort = column(table, f"{SLOW} (weak)")[1].find_element("css selector", "button[aria-label=Sort]")
    driver.execute_script("arguments[0].focus()", sort)
    sort.send_keys(Keys.ENTER)
    until(lambda: column(table, f"{SLOW} (weak)")[0] == ["0.2", "0.1", "0"])
    assert not complaints(driver)
    table = browser("boards/all pairs/index.html").find_element("css selector", "table.data")
    sort = column(table, "rir [95 %]")[1].find_element("css selector", "button[aria-label=Sort]")
    sort.click()  # as numbers, not as texts
    until(lambda: [text.split()[0] for text in column(table, "rir [95 %]")[0]] == ["34.9", "5.81", "1.16"])
    sort.click()
    until(lambda: [text.split()[0] for text in column(table, "rir [95 %]")[0]] == ["1.16", "5.81", "34.9"])


def test_filtering(browser):
    driver = browser("boards/rates/index.html")
    table = driver.find_element("css selector", "table.data")
    driver.find_element("css selector", "input[type=search]").send_keys("ascent")
    until(lambda: column(table, "defense")[0] == ["ascent"])
    driver.find_element("css selector", "input[type=search]").send_keys(Keys.CONTROL, "a", Keys.DELETE)
    until(lambda: len(column(table, "defense")[0]) == 3)
    column(table, "mean")[1].find_element("css selector", "button[aria-label=Filter]").click()
    Select(driver.find_element("css selector", ".dtcc-dropdown select")).select_by_value("greater")
    driver.find_element("css selector", ".dtcc-dropdown input").send_keys("0.5")
    until(lambda: column(table, "mean")[0] == ["0.7", "1"])
    column(table, f"{SLOW} (weak)")[1].find_element("css selector", "button[aria-label=Filter]").click()
    assert until(lambda: driver.find_element("css selector", ".dtcc-title").text) == f"{SLOW} (weak)"
    assert not driver.find_elements("css selector", ".wide img")
    assert not complaints(driver)


def test_a_figure_leads_to_its_cells(browser):
    driver = browser("boards/rates/index.html")
    table = driver.find_element("css selector", "table.data")
    assert column(table, "worst rate [95 %]")[0][0].startswith("0.2 [")
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
        charts = driver.find_elements("css selector", "figure.chart")
        for chart in charts:
            driver.execute_script("arguments[0].scrollIntoView()", chart)
            until(lambda chart=chart: chart.find_elements("css selector", ".js-plotly-plot .main-svg"))
        assert len(charts) == len([of for of in Page(site / path).data if "data" in of])
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert colour == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
        if charts:
            drawn = "return getComputedStyle(document.querySelector('.main-svg text')).fill"
            assert (driver.execute_script(drawn) == "rgb(242, 245, 250)") == dark
        assert not complaints(driver), path


def test_the_map_by_task_is_the_mean_over_seeds():
    (of,) = cells.read(frame(pairs()))
    assert of.by_task.loc["P3-H1", "ascent"] == pytest.approx(30 * math.exp(2.15))
