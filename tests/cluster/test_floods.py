"""One client floods the leader: the others go on, nobody is elected, no memory runs away.

With the timeouts that everybody has by default.

How much the others get is counted in operations; how long it takes depends on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paxon.kvstore import Client, LocalCluster
from tests.faults.flooding.floods import FLOODS, FULL, LARGE, MEMORY, MIB, Flood, memory_watched
from tests.waiting import stall_meter

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE = 240.0
"""Seconds for many values of the largest size, on a slow disk."""
LEAST = 3.0
"""Seconds without a heartbeat after which another wants to lead."""
OPERATIONS = 20
"""Writes of the others while the flood goes on."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    patient: dict[str, Any] = {"election_timeout_min": LEAST, "election_timeout_max": 4.0}
    with LocalCluster(3, tmp_path_factory.mktemp("floods"), **patient) as cluster:
        with cluster.client(timeout=60) as client:
            client.put(LARGE, bytes(MIB))
            client.put(FULL, bytes(8 * MIB))
            for number in range(20):
                client.put(f"key-{number}", b"value" * 100)
        yield cluster


def elections(cluster: LocalCluster) -> int:
    rows = [row.reply for row in cluster.status(60.0)]
    return sum(reply.counters["elections"] for reply in rows if reply is not None)


def is_calm(cluster: LocalCluster, leader: int, before: int, stood: Callable[[], float]) -> bool:
    """Nobody was elected, unless all stood still for about as long as a leader is waited for."""
    stayed = cluster.leader(30.0) == leader and elections(cluster) == before
    return stayed or stood() > LEAST / 2


@pytest.mark.parametrize("kind", FLOODS)
def test_one_clients_flood_takes_no_service_from_the_others(kind: str, three: LocalCluster) -> None:
    leader = three.leader()
    before = elections(three)
    stood = stall_meter()
    pids = [row.pid for row in three.status(10.0) if row.pid]
    with (
        three.client(timeout=60) as others,
        memory_watched(pids) as most,
        Flood(three, kind) as flood,
    ):
        work(others)
    sent = flood.frames
    print(f"{kind}: {sent} frames, {max(most.values()) >> 20} MiB at most")
    assert sent > 0
    assert max(most.values()) < MEMORY
    assert is_calm(three, leader, before, stood)
    with three.client(timeout=60) as client:
        assert client.get("others") == b"%d" % (OPERATIONS - 1)


def work(client: Client) -> None:
    for number in range(OPERATIONS):
        client.put("others", b"%d" % number)


def test_values_of_the_largest_size_depose_nobody(three: LocalCluster) -> None:
    leader, before, stood = three.leader(), elections(three), stall_meter()
    with three.client(timeout=PATIENCE) as client:
        for _ in range(3):
            client.put("largest", bytes(8 * MIB))
        for put in [client.submit_put(f"largest-{number}", bytes(8 * MIB)) for number in range(8)]:
            put.result(PATIENCE)
    assert is_calm(three, leader, before, stood)
