"""Values: what a measuring job may leave."""

import json

import pytest

from harness.errors import PluginError
from harness.metric import VALUES, Quantity, read_values, write_values


def test_values_come_back(tmp_path):
    values = [{"metric": "error", "value": 0.1, "role": "harmful", "step": 5}, {"metric": "error", "value": None}]
    write_values(iter(values), tmp_path)
    assert read_values(tmp_path) == values
    assert list(json.loads((tmp_path / VALUES).read_text())[0]) == ["metric", "value", "role", "step"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"metric": "error"}, "value: is missing"),
        ({"value": 1.0}, "metric: is missing"),
        ({"metric": "error", "value": float("nan")}, "finite number"),
        ({"metric": "error", "value": float("inf")}, "finite number"),
        ({"metric": "error", "value": "1"}, "must be a number"),
        ({"metric": "error", "value": 1.0, "colour": "red"}, "unknown key 'colour'"),
        ({"metric": "error", "value": 1.0, "step": "last"}, "step: must be an integer"),
        ({"metric": "error", "value": 1.0, "role": "<b>"}, "role: must be a text of at most"),
        ({"metric": "error", "value": 1.0, "note": "two\nlines"}, "note: must be one line of text"),
        (1.0, "yielded float: yield self.value"),
    ],
)
def test_an_invalid_value_fails_the_job(value, message, tmp_path):
    with pytest.raises(PluginError, match=message) as caught:
        write_values([{"metric": "error", "value": 1.0}, value], tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / VALUES).exists()


QUANTITIES = (Quantity(name="error", title="error", description="an error"),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"metric": "beauty", "value": 1.0}], "a value of 'beauty', which its quantities do not define"),
        (
            [
                {"metric": "error", "value": 1.0, "step": 5},
                {"metric": "error", "value": 2.0, "step": 5, "note": "again"},
            ],
            "two values at the same coordinates: .*error.*5",
        ),
    ],
)
def test_values_that_a_board_would_mix_fail_the_job(values, message, tmp_path):
    with pytest.raises(PluginError, match=message):
        write_values(values, tmp_path, QUANTITIES)
    assert not (tmp_path / VALUES).exists()


def test_an_integer_of_any_size_is_a_number(tmp_path):
    write_values([{"metric": "error", "value": 2**64}], tmp_path)
    (value,) = read_values(tmp_path)
    assert isinstance(value["value"], float)
    assert value["value"] == 2.0**64
