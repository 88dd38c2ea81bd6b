"""Which servers hold watches (`Watches._is_current`), and what asking for them costs (rule 14)."""

from __future__ import annotations

import pytest

from paxon.actors.limits.allowances import FRAME_BYTES
from paxon.actors.messages import (
    P1A,
    P1B,
    P2A,
    QueryReply,
    ReplyStatus,
    Watch,
)
from paxon.actors.parts import watches
from paxon.actors.parts.watches import FAR_BEHIND
from tests.messages import beat
from tests.protocol.execution.test_watches import kept, running, told


def test_a_server_that_hears_no_leader_lets_go_of_its_watches() -> None:
    """Cut from its peers, but not from its client, it would keep a lock's waiter for ever."""
    cluster, _ = running()
    cluster.request(3, Watch(7, b"1"))
    cluster.isolate(3)
    cluster.pass_time(2.0, 0.05)
    assert told(cluster, 7) == [(ReplyStatus.NOT_CURRENT, b"")]
    assert kept(cluster, 3) == 0
    cluster.request(3, Watch(8, b"1"), Watch(9, b"0"))
    assert [told(cluster, n)[0][0] for n in (8, 9)] == 2 * [ReplyStatus.NOT_CURRENT]


def test_a_leader_that_was_cut_off_lets_go_of_its_watches() -> None:
    cluster, _ = running()
    cluster.request(1, Watch(7, b"1"))
    cluster.isolate(1)
    cluster.pass_time(3.0, 0.05)
    assert told(cluster, 7) == [(ReplyStatus.NOT_CURRENT, b"")]


def test_a_server_that_is_far_behind_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """However far all of them are."""
    assert FAR_BEHIND == 1000
    monkeypatch.setattr(watches, "FAR_BEHIND", 2)
    cluster, session = running()
    cluster.execute(1, session, b"b", b"c", first=2)
    cluster.pass_time(0.2)
    server = cluster.servers[3]
    assert server.log.chosen_to > 2
    cluster.request(3, Watch(7, b"3"))
    for number, behind in enumerate((2, 3)):
        assert told(cluster, 7) == []
        commit = server.log.chosen_to + behind
        cluster.hand(3, 1, beat(server.promised, 1000 + number, commit=commit))
    assert told(cluster, 7) == [(ReplyStatus.NOT_CURRENT, b"")]


def test_a_server_that_hears_of_more_and_never_gets_it_lets_go_of_its_watches() -> None:
    """What it asks for is lost on the way: it is but one slot behind, and for good."""
    cluster, _ = running()
    server = cluster.servers[3]
    cluster.request(3, Watch(7, b"1"))
    cluster.cut |= {frozenset((1, 3)), frozenset((2, 3))}
    for number in range(20):
        ahead = beat(server.promised, 1000 + number, commit=server.log.chosen_to + 1)
        cluster.hand(3, 1, ahead)
        assert number > 4 or told(cluster, 7) == []
        cluster.pass_time(0.2)
    assert told(cluster, 7) == [(ReplyStatus.NOT_CURRENT, b"")]


def test_a_server_without_its_vote_holds_none() -> None:
    cluster, _ = running()
    cluster.rejoining(3)
    cluster.request(3, Watch(7, b"0"))
    assert ReplyStatus.OK not in [status for status, _ in told(cluster, 7)]


def test_watches_outlive_a_change_of_leader_where_it_is_short() -> None:
    cluster, session = running()
    cluster.request(3, Watch(7, b"1"))
    cluster.crash(1)
    for _ in range(100):
        cluster.pass_time(0.05)
        if cluster.servers[2].role == "leader" or cluster.servers[3].role == "leader":
            break
    leader = next(s for s in (2, 3) if cluster.servers[s].role == "leader")
    cluster.command(leader, session, 2, b"b")
    cluster.pass_time(0.2)
    assert told(cluster, 7) == [(ReplyStatus.OK, b"b")]


@pytest.mark.parametrize("far", [0, FAR_BEHIND])
def test_who_begins_to_lead_keeps_its_watches_unless_it_has_much_to_take_over(
    monkeypatch: pytest.MonkeyPatch, far: int
) -> None:
    monkeypatch.setattr(watches, "FAR_BEHIND", far)
    cluster, session = running(policy="random")
    cluster.request(3, Watch(7, b"1"))
    cluster.command(1, session, 2, b"b")
    cluster.deliver(P2A, target=3)
    cluster.crash(1)
    cluster.drop()
    cluster.campaign(3)
    cluster.deliver(P1A)
    cluster.deliver(P1B)
    assert cluster.servers[3].role == "leader"
    cluster.step(3)
    assert kept(cluster, 3) == (far > 0)
    cluster.stabilize()
    answer = (ReplyStatus.OK, b"b") if far else (ReplyStatus.NOT_CURRENT, b"")
    assert told(cluster, 7) == [answer]


def test_what_watches_are_answered_at_once_counts_in_a_step() -> None:
    cluster, session = running()
    cluster.command(1, session, 2, bytes(FRAME_BYTES // 2))
    cluster.pass_time(0.2)
    cluster.request(2, *(Watch(number, b"0") for number in range(8)))
    assert 0 < len(cluster.told(QueryReply)) < 8  # others have their turn in between
    for _ in range(8):
        cluster.step(2)
    assert {reply.id for reply in cluster.told(QueryReply)} == set(range(8))
