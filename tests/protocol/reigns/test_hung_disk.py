"""A leader whose disk hangs: it can send nothing meanwhile, so another leads; then it gives in."""

from __future__ import annotations

import pytest

from paxon.actors.messages import NotLeader
from tests.harness import Cluster


def live_without(cluster: Cluster, absent: int, seconds: float) -> None:
    """Time passes for all but one, whose messages wait for it."""
    end = cluster.clock.now + seconds
    others = [server for server in cluster.ids if server != absent]
    while cluster.clock.now < end:
        cluster.clock.now += 0.01
        for server in others:
            if cluster.clock.now >= cluster.servers[server].next_deadline():
                cluster.step(server)
        while any(packet.target != absent for packet in cluster.packets):
            for server in others:
                cluster.deliver(target=server)


def test_another_leads_while_the_disk_hangs_and_nothing_is_lost_or_done_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(3, options={"policy": "stable"}).start()
    cluster.lead(1)
    cluster.pass_time(0.2)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"before")
    commit = cluster.storages[1].commit
    led: list[int] = []

    def hang() -> None:
        monkeypatch.setattr(cluster.storages[1], "commit", commit)
        live_without(cluster, 1, 2.0)
        led.extend(s for s in (2, 3) if cluster.servers[s].role == "leader")
        commit()

    monkeypatch.setattr(cluster.storages[1], "commit", hang)
    cluster.command(1, session, 2, b"meanwhile", acked=1)

    (leader,) = led
    assert cluster.servers[leader].promised > cluster.servers[1].promised
    cluster.pass_time(0.5)
    assert cluster.servers[1].role == "follower"
    assert cluster.servers[1].leader == leader
    # The votes that waited for it may be enough for the slot; else its client is sent on.
    told = [reply for _, _, reply in cluster.replies if isinstance(reply, NotLeader)]
    assert told or cluster.reply_to(2) is not None

    # The P2A had left before the sync, so what it proposed is taken over; asked again, the client
    # gets the answer of the one execution.
    cluster.command(leader, session, 2, b"meanwhile", acked=1)
    cluster.pass_time(0.5)
    for server in cluster.ids:
        assert cluster.applied(server) == [b"before", b"meanwhile"]
    answer = cluster.reply_to(2)
    assert answer is not None
    assert answer.payload == b"before meanwhile"
