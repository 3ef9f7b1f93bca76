"""What a run returns."""

import pandas as pd

from harness.api import Result


def test_a_notebook_shows_verdict_picture_and_table_of_each_grid(tmp_path):
    empty = pd.DataFrame()
    (tmp_path / "a_protection.png").write_bytes(b"picture")
    table = pd.DataFrame({"defense": ["<b>"]})
    result = Result(
        records=empty, board=empty, verdict={"a": "1 < 2.", "b": ""}, protection=empty, standings=empty,
        tables={"a": table, "b": table}, failed={}, left_out={}, text="", out=tmp_path,
    )  # fmt: skip
    shown = result._repr_html_()
    parts = ["<h3>a</h3>", "<p>1 &lt; 2.</p>", 'src="data:image/png;base64,cGljdHVyZQ=="', "<table", "<h3>b</h3>"]
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    assert shown.count("<img") == 1
    assert "<b>" not in shown
