"""The tables of a search for attackers' settings."""

import pandas as pd
import pytest

from harness.errors import UsageError
from harness.leaderboard import searches
from harness.leaderboard.searches import SearchTables

TRIALS = pd.DataFrame(
    [
        ("g", "lora", "none", 0, 0.2, 0.2, 1.0, True, 3.0, 0.001, 4),
        ("g", "lora", "none", 1, 0.9, 0.2, 0.1, False, 3.0, 0.1, 4),  # destroys what is retained
        ("g", "lora", "none", 2, 0.5, 0.5, 1.0, True, 3.0, 0.01, 16),
        ("g", "lora", "none", 3, 0.5, 0.5, 1.0, True, 3.0, 0.02, 16),
        ("g", "lora", "mima", 0, 0.1, 0.1, 1.0, True, 3.0, 0.001, 4),
        ("g", "word", "mima", 0, 0.9, None, 0.2, False, 3.0, 0.3, None),  # no trial is allowed
    ],
    columns=[*searches.TRIAL, "lr", "rank"],
)
TRANSFERS = pd.DataFrame(
    [
        ("lora", "own", "none", 0.2, 1.0, True),
        ("lora", "own", "mima", 0.1, 1.0, True),
        ("lora", "none", "none", 0.5, 1.0, True),
        ("lora", "none", "mima", 0.4, 0.2, False),
        ("word", "mima", "mima", 0.9, 0.2, False),
    ],
    columns=["attacker", "tuned_on", "defense", "score", "retention", "allowed"],
)


def test_the_best_trial_is_the_first_of_the_highest_scores_that_are_allowed():
    table = SearchTables("s", TRIALS, TRANSFERS).best().set_index(["attacker", "defense"])
    assert table.loc["lora", "none"].to_dict() == {
        "grid": "g", "own settings": "0.2", "best": "0.5", "trial": "2", "settings": "lr=0.01, rank=16",
    }  # fmt: skip
    assert table.loc[("word", "mima"), "trial"] == "0"
    assert table.loc[("word", "mima"), "settings"] == "lr=0.3"


def test_transfer_has_a_row_for_each_setting_in_order():
    table = SearchTables("s", TRIALS, TRANSFERS).transfer()
    assert list(table) == ["attacker", "tuned on", "none", "mima"]
    assert table.to_numpy().tolist() == [
        ["lora", "own", "0.2", "0.1"],
        ["lora", "none", "0.5", "0.4 ×"],
        ["word", "mima", "", "0.9 ×"],
    ]


def test_a_search_is_read_back_from_its_files(tmp_path):
    folder = tmp_path / "tuned" / "styles"
    folder.mkdir(parents=True)
    TRIALS.to_csv(folder / searches.TRIALS, index=False)
    TRANSFERS.to_csv(folder / searches.TRANSFER, index=False)
    (found,) = searches.below(tmp_path)
    written = SearchTables("styles", TRIALS, TRANSFERS)
    assert found.name == "styles"
    assert found.best().equals(written.best())
    assert found.transfer().equals(written.transfer())
    assert found.cost() == "6 trials took 18 s inside the attackers."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trials.csv", ""),
        ("trials.csv", "grid,attacker\ng,lora\n"),
        ("transfer.csv", "attacker\nlora\n"),
        ("transfer.csv", None),
    ],
)
def test_damaged_files_of_a_search_are_one_line(tmp_path, name, text):
    TRIALS.to_csv(tmp_path / searches.TRIALS, index=False)
    TRANSFERS.to_csv(tmp_path / searches.TRANSFER, index=False)
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="holds no search that can be read") as raised:
        list(searches.below(tmp_path))
    assert "\n" not in str(raised.value)
