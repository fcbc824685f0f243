"""The tests of the chart need helm."""

import pytest

from tests.deploy.tools import Tools, fetched


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The pinned programs, fetched where they are missing."""
    found = fetched()
    if found is None:
        pytest.skip("the pinned helm is made for Linux on x86-64")
    return found
