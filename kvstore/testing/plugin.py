"""Pytest's fixtures `paxon_cluster` and `paxon_client`; loaded by pytest itself once installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paxon.kvstore.recipes.clients import Client
    from paxon.kvstore.testing.cluster import MemoryCluster

__all__ = ["paxon_client", "paxon_cluster"]


@pytest.fixture
def paxon_cluster() -> Iterator[MemoryCluster]:
    """A fresh `paxon.testing.MemoryCluster` of the key-value store, in this process."""
    from paxon.kvstore.testing.cluster import MemoryCluster  # noqa: PLC0415 (for those who ask for it)

    with MemoryCluster() as cluster:
        yield cluster


@pytest.fixture
def paxon_client(paxon_cluster: MemoryCluster) -> Iterator[Client]:
    """A `Client` of `paxon_cluster`."""
    with paxon_cluster.client() as client:
        yield client
