"""No launch outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.launching import launches_ended


@pytest.fixture(autouse=True)
def _launches_ended() -> Iterator[None]:
    """A test that fails may leave a launch that runs, or that it stopped: it would slow down and disturb the others."""
    with launches_ended():
        yield
