"""A leader takes up one change at a time, and has those call each other who are to vote."""

from __future__ import annotations

import msgspec

from paxon.actors.members import (
    ChangeMembers,
    MemberChange,
    Members,
    Rehearsal,
    Rehearsed,
)
from paxon.actors.messages import P2A, QueryReply
from tests.harness import Cluster, reign_of


def serving(**options: object) -> Cluster:
    """Server 1 leads servers 2 and 3; server 4 waits to join."""
    cluster = Cluster(4, options, members=(1, 2, 3)).start()
    cluster.lead(1)
    cluster.pass_time(0.2)
    return cluster


def test_who_takes_over_a_change_takes_up_no_other_yet() -> None:  # M16
    """Nor is one refused for good: it may be the very one that is under way."""
    cluster = serving(policy="random")
    cluster.change(1, 1, 2, 4)
    cluster.deliver(P2A, target=2)
    cluster.packets.clear()
    cluster.crash(1)
    cluster.campaign(2)
    while cluster.servers[2]._reign is None:
        cluster.deliver()
    cluster.drop(P2A)
    reign = reign_of(cluster.servers[2])
    assert reign.sealing
    wanted = (MemberChange("remove", 3),)
    cluster.request(2, ChangeMembers(77, cluster.servers[2].promised, wanted))
    assert (
        msgspec.msgpack.decode(cluster.told(QueryReply)[-1].payload, type=Members).outcome
        == "unknown"
    )
    assert reign.changing is None and not reign.asked


def test_a_rehearsal_is_repeated_where_its_messages_were_lost() -> None:  # M18
    cluster = serving()
    cluster.change(1, 1, 2, 3, learners=[4])
    cluster.pass_time(1.0)
    leader = next(s for s in cluster.servers.values() if s._reign is not None)
    wanted = (MemberChange("promote", 4), MemberChange("remove", 3))
    cluster.request(leader.settings.server, ChangeMembers(77, leader.promised, wanted))
    cluster.deliver(Rehearsal)
    assert cluster.drop(Rehearsed)
    cluster.pass_time(0.5)
    assert cluster.epochs(1, 2, 4) == [2, 2, 2]
