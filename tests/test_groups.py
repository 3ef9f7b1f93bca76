"""Tests that share a costly fixture run in one process."""

import pytest


@pytest.mark.xdist_group("cluster")
def test_a_group_of_tests_is_kept_together(request):
    """The scheduler reads the group from a test's id; with pytest 9.2, pytest-xdist 3.8 does not write it there."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("groups are for `--dist loadgroup`")
    assert request.node.nodeid.endswith("@cluster")
