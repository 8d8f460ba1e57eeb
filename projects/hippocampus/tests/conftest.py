"""Fixtures of the project's tests."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real data; tests that use it are marked `data`."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} does not exist")
    return SHARED_DATA
