"""Fixtures of the client tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paxon import Client
from paxon.testing import MemoryCluster
from tests.kvstore.fake_cluster import SocketCluster


@pytest.fixture
def servers() -> Iterator[SocketCluster]:
    """Three fake servers behind real sockets, the first of which leads."""
    cluster = SocketCluster(3)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster() -> Iterator[MemoryCluster]:
    """One server in this process, for recipes: they see no difference."""
    with MemoryCluster() as made:
        yield made


@pytest.fixture
def kv(cluster: MemoryCluster) -> Iterator[Client]:
    with cluster.client() as made:
        yield made
