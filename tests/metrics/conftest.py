"""The cluster that most of these tests look at."""

import pytest
from played_cluster import Cluster


@pytest.fixture
async def cluster(tmp_path):
    made = Cluster(tmp_path)
    async with made.closing:
        yield made
