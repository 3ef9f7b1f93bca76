"""What this track's tests share."""

import pytest

from harness import package_data
from harness.probe import data


@pytest.fixture
def fresh():
    """No data set and no folder of one in memory, before and after."""

    def clear():
        for cached in (data._raw, data.digest, data.load, package_data._folder):
            cached.cache_clear()

    clear()
    yield
    clear()
