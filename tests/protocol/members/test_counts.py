"""A false count of commits is forgotten, and a true one is not (docs/design/old-copies.md)."""

from __future__ import annotations

import msgspec
import pytest

from paxon.actors.disk.storage import StorageError
from paxon.actors.messages import CountAnswer, CountQuestion, Heartbeat, HeartbeatReply
from paxon.actors.parts.membership import CHECK_INTERVAL
from tests.harness import Cluster


def running() -> Cluster:
    """Server 1 leads three, all of which know what the others have."""
    cluster = Cluster(3).start()
    cluster.lead(1)
    cluster.execute(1, cluster.open_session(1), b"a")
    cluster.pass_time(0.2)
    return cluster


def counts(cluster: Cluster, *servers: int) -> list[int]:
    """What these remember of server 2."""
    return [cluster.servers[server].disks.counts[2] for server in servers]


def bogus(cluster: Cluster) -> int:
    return cluster.storages[2].count + 1000


def overstated(cluster: Cluster, target: int, count: int) -> None:
    """A heartbeat of server 1's is damaged on its way, to this server alone."""
    cluster.pass_time(0.06)
    cluster.packets.clear()
    cluster.clock.now += 0.06
    cluster.step(1)
    for packet in cluster.drop(Heartbeat, target=target):
        assert isinstance(packet.message, Heartbeat)
        told = [(s, n, count if s == 2 else c) for s, n, c in packet.message.incarnations]
        cluster.hand(target, 1, msgspec.structs.replace(packet.message, incarnations=told))
    cluster.packets.clear()


def starts_again(cluster: Cluster) -> None:
    cluster.confirms = False
    cluster.restart(2)
    cluster.pass_time(0.5)
    assert cluster.servers[2].is_voter


def test_who_hears_the_leader_alone_forgets_what_was_denied_to_it() -> None:
    """Server 3 is cut off from 2 for ever: no denial reaches it, nor does any question."""
    cluster = running()
    cluster.cut.add(frozenset((2, 3)))
    cluster.hand(1, 2, HeartbeatReply(cluster.servers[1].promised, 0, 0, count=bogus(cluster)))
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.deliver(Heartbeat, target=3)
    assert counts(cluster, 3) > [1000]
    cluster.pass_time(1.0)
    assert max(counts(cluster, 1, 3)) <= cluster.storages[2].count
    starts_again(cluster)
    cluster.cut.clear()
    cluster.pass_time(2 * CHECK_INTERVAL)
    assert cluster.servers[2].is_voter


def test_what_one_follower_alone_was_told_is_forgotten() -> None:
    cluster = running()
    overstated(cluster, 3, bogus(cluster))
    assert counts(cluster, 3) > [1000]
    cluster.pass_time(0.06)
    assert counts(cluster, 3) > [1000]  # one heartbeat might be the damaged one
    cluster.pass_time(0.06)
    assert counts(cluster, 1, 3) == counts(cluster, 1, 1)
    starts_again(cluster)


def test_what_the_server_itself_told_meanwhile_is_not_forgotten_with_that() -> None:
    """It is less than the false count, and more than the leader has heard."""
    cluster = running()
    overstated(cluster, 3, bogus(cluster))
    told = cluster.storages[2].count + 5
    cluster.servers[3].disks.note_count(2, told)  # in an answer to its pre-vote, say
    assert counts(cluster, 3) > [1000]
    cluster.pass_time(0.12)
    assert counts(cluster, 3) == [told]


def test_one_damaged_heartbeat_makes_nobody_forget_a_count() -> None:
    cluster = running()
    cluster.execute(1, cluster.told_session(), b"b", first=2)
    cluster.pass_time(0.2)
    before = counts(cluster, 3)
    for _ in range(3):
        overstated(cluster, 3, 1)
        assert counts(cluster, 3) == before
        cluster.pass_time(0.06)
    assert counts(cluster, 3) >= before


def test_a_leader_that_knows_less_than_the_one_before_makes_nobody_forget() -> None:
    cluster = running()
    cluster.crash(2)
    before = counts(cluster, 1, 3)
    cluster.servers[3].disks.counts[2] = 1  # (as if it had been away)
    cluster.packets.clear()
    cluster.campaign(3)
    cluster.pass_time(1.0)
    assert cluster.servers[3].role == "leader"
    assert counts(cluster, 1) == before[:1]


def test_what_was_told_by_a_leader_that_is_gone_is_denied_when_its_server_asks() -> None:
    """Server 3 alone heard it, and leads nobody: server 2 has to ask."""
    cluster = running()
    overstated(cluster, 3, bogus(cluster))
    cluster.isolate(3)
    cluster.campaign(2)
    cluster.pass_time(1.0)
    assert cluster.servers[2].role == "leader"
    cluster.cut.clear()
    cluster.pass_time(0.1)
    assert counts(cluster, 3) > [1000]
    cluster.pass_time(CHECK_INTERVAL + 2.0)
    assert counts(cluster, 3) <= [cluster.storages[2].count]


def test_who_has_not_answered_is_asked_until_it_does() -> None:
    cluster = running()
    cluster.isolate(3)
    cluster.pass_time(4 * CHECK_INTERVAL)
    cluster.servers[3].disks.counts[2] = bogus(cluster)
    cluster.cut.clear()
    cluster.pass_time(2.0)
    assert counts(cluster, 3) <= [cluster.storages[2].count]


def let_in() -> Cluster:
    """Server 2 runs on an old copy that 3, which knows nothing of the newest one, has confirmed."""
    cluster = running()
    old = cluster.storages[2].duplicate()
    cluster.isolate(3)
    session = cluster.told_session()
    cluster.execute(1, session, b"b", b"c", b"d", b"e", b"f", first=2)
    known = counts(cluster, 1)
    assert known > [old.count + 3]
    cluster.crash(2)
    cluster.cut.clear()
    cluster.isolate(1)
    cluster.storages[2] = old
    cluster.confirms = False
    cluster.restart(2)
    for _ in range(3):
        cluster.step(2)
        cluster.deliver(CountQuestion, target=3)
        cluster.deliver(CountAnswer, target=2)
    assert cluster.servers[2].is_voter
    cluster.packets.clear()
    assert counts(cluster, 1) == known
    return cluster


def test_an_old_copy_that_was_let_in_stops_at_the_first_who_knows_better() -> None:
    cluster = let_in()
    known = counts(cluster, 1)
    cluster.cut.clear()
    with pytest.raises(StorageError, match="is an old copy"):
        cluster.pass_time(2.0)
    assert counts(cluster, 1) == known


def test_an_old_copy_that_was_let_in_takes_nothing_back() -> None:
    """The one that confirmed it hears of the newest state from one that never answers."""
    cluster = let_in()
    known = counts(cluster, 1)
    cluster.cut = {frozenset((1, 2))}
    cluster.servers[3].disks.counts[2] = known[0]
    cluster.campaign(3)
    for _ in range(60):
        cluster.pass_time(0.1)
        assert counts(cluster, 1, 3) == known * 2


def test_the_only_voter_has_told_what_it_committed_since_it_started() -> None:
    """It was asked for no confirmation: learners, who remember that, must not refuse it."""
    cluster = Cluster(3, members=(1,)).start()
    cluster.lead(1)
    cluster.change(1, 1, learners=[2, 3])
    cluster.pass_time(0.5)
    cluster.confirms = False
    cluster.restart(1)
    cluster.pass_time(1.0)
    cluster.execute(1, cluster.open_session(1), b"a", b"b", b"c")
    cluster.pass_time(3 * CHECK_INTERVAL)
    assert cluster.servers[1].role == "leader"
    assert cluster.servers[1].membership.confirmation.vouched == {2, 3}
