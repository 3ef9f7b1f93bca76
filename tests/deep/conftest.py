import pytest

from harness.deep import DeepTargets
from harness.deep.trial import released, rows


@pytest.fixture
def model():
    """A base model with a BatchNorm in its tail."""
    return released(1)


@pytest.fixture
def targets():
    """A benign and a harmful task of three classes."""
    return DeepTargets(rows(2), rows(3), seed=4)
