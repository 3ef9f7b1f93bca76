"""Performance profiles as pictures."""

import xml.etree.ElementTree as ET

import pytest

from harness.leaderboard.profiles import draw
from harness.leaderboard.scores import read
from tests.helpers import frame, grid


def of(values, seeds=(1, 2, 3)):
    (found,) = read(frame(grid(values, seeds=seeds)))
    return found


def test_a_picture_names_every_defense(tmp_path):
    found = of({"none": {"lora": 1.0}, "mine": {"lora": lambda task, seed: 0.2 * seed}})
    files = draw(found, tmp_path / "g_profile")
    assert [file.name for file in files] == ["g_profile.png", "g_profile.svg"]
    text = " ".join(ET.parse(files[1]).getroot().itertext())
    assert "mine" in text
    assert "none" in text
    assert "rate under the strongest attacker" in text


@pytest.mark.parametrize(("value", "seeds"), [(1.0, (1, 2, 3)), (0.0, (1, 2))])
def test_no_profile_if_all_are_alike_or_cells_are_few(tmp_path, value, seeds):
    assert draw(of({"none": {"lora": 1.0}, "mine": {"lora": value}}, seeds), tmp_path / "g_profile") == []
    assert list(tmp_path.iterdir()) == []
