"""Values: what a measuring job may leave."""

import json

import pytest

from harness.errors import PluginError
from harness.metric import VALUES, read_values, write_values


def test_values_come_back(tmp_path):
    values = [{"metric": "error", "value": 0.1, "role": "harmful", "step": 5}, {"metric": "error", "value": None}]
    write_values(iter(values), tmp_path)
    assert read_values(tmp_path) == values
    assert list(json.loads((tmp_path / VALUES).read_text())[0]) == ["metric", "value", "role", "step"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metric": "error"}, "value: Field required"),
        ({"value": 1.0}, "metric: Field required"),
        ({"metric": "error", "value": float("nan")}, "finite number"),
        ({"metric": "error", "value": float("inf")}, "finite number"),
        ({"metric": "error", "value": "1"}, "valid number"),
        ({"metric": "error", "value": 1.0, "colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"metric": "error", "value": 1.0, "step": "last"}, "step: .* valid integer"),
        ({"metric": "error", "value": 1.0, "role": "<b>"}, "role: String should match pattern"),
        ({"metric": "error", "value": 1.0, "note": "two\nlines"}, "note: String should match pattern"),
        (1.0, "yielded float: yield self.value"),
    ],
)
def test_an_invalid_value_fails_the_job(value, message, tmp_path):
    with pytest.raises(PluginError, match=message) as caught:
        write_values([{"metric": "error", "value": 1.0}, value], tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / VALUES).exists()
