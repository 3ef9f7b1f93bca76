"""The picture of a search."""

import pandas as pd

from harness.leaderboard import looks
from harness.tuning import plots


def test_each_defense_looks_as_on_the_site(tmp_path, monkeypatch):
    rows = [
        {"grid": "g", "attacker": attacker, "defense": defense, "trial": trial, "best": trial / 4}
        for attacker in ("lora", "full")
        for defense in ("none", "mine")
        for trial in range(3)
    ]
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, stem: figures.append(figure))
    plots.best_so_far(pd.DataFrame(rows), tmp_path)
    (figure,) = figures
    look = looks.of_names(["none", "mine"])
    for axis in figure.axes:
        shown = {line.get_label(): (line.get_color(), line.get_marker()) for line in axis.lines}
        assert shown == {name: (one.colour, one.marker) for name, one in look.items()}
    assert [text.get_text() for text in figure.legends[0].texts] == ["none", "mine"]
