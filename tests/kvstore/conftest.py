"""Fixtures of the client tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from paxon import Client, RequestTimeout
from paxon.testing import MemoryCluster
from tests.kvstore.client.fake_cluster import SocketCluster


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


@pytest.fixture
def unheard(kv: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """No answer comes to `kv`; to what it asks again, the one that this list then holds."""
    answers: list[Any] = []

    def ask(*_: object) -> None:
        error = RequestTimeout("no answer")
        error.kept = error
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(kv, "_ask", ask)
        patch.setattr(kv, "_ask_again", lambda _kept, _timeout, answer: answer(answers))
        yield answers
