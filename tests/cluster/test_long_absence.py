"""A server that was away for very many slots: nobody keeps them all for it, and it comes back.

`make test` has it miss 20,000 slots, `make soak` (PAXON_SOAK=1) a million.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from paxon.actors.messages import StatusReply
from paxon.kvstore import Client
from paxon.kvstore.client.client import Future
from paxon.kvstore.client.leader_search import CoreOptions
from paxon.kvstore.cluster.local_cluster import LocalCluster
from tests.cluster.helpers import wait_until
from tests.soak import sized

MISSED = sized(20_000, 1_000_000)
RETAINED = 5_000
LIMITS: dict[str, Any] = {"retain_slots": RETAINED, "snapshot_slots": 4_000}
A_SLOT_EACH: dict[str, Any] = {"batch_bytes": 1, "window": 256}
A_COMMAND_EACH = CoreOptions(eager=1024, batch_weight=1)
OUTSTANDING = 512


def reply_of(cluster: LocalCluster, server: int) -> StatusReply | None:
    return next(row.reply for row in cluster.status(60.0) if row.server == server)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(sized(180, 3600))
def test_a_server_that_was_away_for_very_many_slots(tmp_path: Path) -> None:
    with (
        LocalCluster(3, tmp_path, **LIMITS, **A_SLOT_EACH) as cluster,
        Client(cluster.addresses, timeout=60, options=A_COMMAND_EACH) as client,
    ):
        client.put("before", "it left")
        leader = cluster.leader()
        away = 1 + leader % 3
        cluster.kill(away)
        begun = time.monotonic()
        waiting: deque[Future[int]] = deque()
        for number in range(MISSED):
            waiting.append(client.submit_put(f"key/{number % 1000}", f"{number}"))
            if len(waiting) == OUTSTANDING:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
        wrote = time.monotonic() - begun

        def has_executed_all() -> bool:  # (it may follow by now, one heartbeat behind)
            reply = reply_of(cluster, leader)
            return reply is not None and reply.executed > MISSED

        wait_until(has_executed_all, "the old leader has executed all")
        reply = reply_of(cluster, leader)
        assert reply is not None
        # A cut waits for a snapshot, and one of those may have just begun.
        assert reply.counters["log_slots"] < 3 * RETAINED

        begun = time.monotonic()
        cluster.restart(away)

        def is_back() -> bool:
            replies = [reply_of(cluster, server) for server in (leader, away)]
            states = [(r.executed, r.state_digest) for r in replies if r is not None]
            return len(states) == 2 and states[0] == states[1]

        wait_until(is_back, "it has caught up", seconds=120.0)
        back = reply_of(cluster, away)
        assert back is not None
        assert back.counters["snapshots_received"] >= 1
        print(
            f"{MISSED:,} slots missed, written at {MISSED / wrote:,.0f} a second; "
            f"back in {time.monotonic() - begun:.1f} s"
        )
