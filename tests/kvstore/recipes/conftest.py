"""Fixtures of the recipes' tests: each test is run with both kinds of client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paxon.testing import MemoryCluster
from tests.kvstore.recipes.bridge import BridgedCluster


@pytest.fixture(params=["threads", "asyncio"])
def cluster(request: pytest.FixtureRequest) -> Iterator[MemoryCluster]:
    with MemoryCluster() if request.param == "threads" else BridgedCluster() as made:
        yield made
