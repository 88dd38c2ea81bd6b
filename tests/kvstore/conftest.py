"""Fixtures of the client tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kvstore.fake_cluster import SocketCluster


@pytest.fixture
def servers() -> Iterator[SocketCluster]:
    """Three fake servers behind real sockets, the first of which leads."""
    cluster = SocketCluster(3)
    yield cluster
    cluster.close()
