"""What this track's tests share."""

import pytest

from harness.probe import data


@pytest.fixture
def fresh():
    """No data set in memory, before and after."""

    def clear():
        for cached in (data._raw, data.digest, data.load):
            cached.cache_clear()

    clear()
    yield
    clear()
