"""One run of the small suite for all tests of submissions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.submission import forge


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission as its author made it; its run lies beside it in `run`, its store in `store`."""
    folder = tmp_path_factory.mktemp("honest")
    return forge.submitted(forge.suite_file(folder), folder, store=folder / "store")


@pytest.fixture(scope="session")
def _content(honest: Path) -> dict[str, Any]:
    return forge.content_of(honest)


@pytest.fixture
def content(_content: dict[str, Any]) -> dict[str, Any]:
    """The content of that submission, to be changed."""
    return copy.deepcopy(_content)
