"""One cluster for all tests here: they break it and leave it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.coordination.clocks import Clocks, jumping_clocks
from tests.faults.networks.network import RelayedCluster


@pytest.fixture(scope="package")
def clocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocks]:
    with jumping_clocks(tmp_path_factory.mktemp("coordination") / "clocks") as made:
        yield made


@pytest.fixture(scope="package")
def running(clocks: Clocks) -> Iterator[RelayedCluster]:
    with RelayedCluster(3) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RelayedCluster) -> Iterator[RelayedCluster]:
    """Whole, and with a leader."""
    running.leader(timeout=60.0)
    yield running
    running.network.heal()
    for row in running.status(state=False):
        if row.state == "paused":
            running.resume(row.server)
        elif row.state != "running":
            running.restart(row.server)
