"""Leases between servers with other settings: what was asked for holds, and at both ends."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

import math
from typing import Any

import pytest

from paxon.actors import Ballot
from paxon.actors.disk.storage import Storage
from paxon.actors.messages import P1A, P1B, Heartbeat, HeartbeatReply, PreVote, QueryReply
from paxon.actors.records.reads import LONGEST_LEASE, Grants, counted
from tests.harness import Cluster, reign_of
from tests.messages import beat

SHORT = {"election_timeout_min": 0.3, "election_timeout_max": 0.5}
LONG = {"election_timeout_min": 3.0, "election_timeout_max": 5.0}


def mixed(leader: dict[str, Any], others: dict[str, Any], size: int = 3) -> Cluster:
    """Server 1 leads with settings of its own and has a lease that was asked for just now."""
    cluster = Cluster(size)
    cluster.start(1, **leader)
    cluster.start(*cluster.ids[1:], **others)
    cluster.lead(1)
    session = cluster.open_session(1)
    cluster.execute(1, session, b"a")
    cluster.query(1, 1, "lease")
    cluster.stabilize()
    cluster.clock.now += 0.06
    cluster.step(1)
    cluster.stabilize()
    assert cluster.servers[1]._lease_holds()
    return cluster


def hand_grant(cluster: Cluster, server: int, lease: float, drift: float = 0.05) -> None:
    cluster.hand(server, 1, beat(cluster.servers[1].promised, 100, lease=lease, drift=drift))


@pytest.mark.parametrize("policy", ["stable", "immediate", "random", "backoff"])
def test_a_leader_with_a_longer_timeout_than_its_followers(policy: str) -> None:
    """It counts 2.7 s, and they, whose own timeout is 0.3 s, have granted as much."""
    cluster = mixed(LONG, SHORT | {"policy": policy})
    cluster.isolate(1)
    while cluster.servers[1]._lease_holds():
        assert all(cluster.servers[s].role == "follower" for s in (2, 3))
        assert cluster.servers[2].promised == cluster.servers[1].promised
        cluster.clock.now += 0.05
        for server in cluster.ids:
            cluster.step(server)
        cluster.stabilize()
    cluster.clock.now += 1.0  # what the drift makes the grant longer, and a timeout
    cluster.step(2)
    assert cluster.servers[2].role == "candidate" or cluster.sent(PreVote, source=2)


def test_the_lease_is_as_long_as_what_was_asked_for_less_the_drift() -> None:
    cluster = mixed(LONG | {"max_clock_drift": 0.2}, SHORT)
    sent = cluster.clock.now
    cluster.isolate(1)
    cluster.clock.now = sent + 3.0 * 0.8 / 1.2 - 0.01
    assert cluster.servers[1]._lease_holds()
    cluster.clock.now = sent + 3.0 * 0.8 / 1.2 + 0.01
    assert not cluster.servers[1]._lease_holds()


def test_a_server_that_contends_does_not_campaign_under_a_lease() -> None:
    """A client's command is no reason to break what was granted; it waits and is not lost."""
    cluster = mixed(LONG, SHORT | {"policy": "immediate", "contend": True})
    granted = cluster.clock.now
    session = cluster.told_session()
    cluster.isolate(1)
    cluster.command(2, session, 2, b"b")
    cluster.step(2)
    assert cluster.servers[2].role == "follower"
    assert cluster.servers[2].next_deadline() > cluster.clock.now  # it sleeps until it may
    cluster.clock.now = granted + 3.01
    cluster.step(2)
    assert cluster.servers[2].role == "candidate"


@pytest.mark.parametrize("policy", ["stable", "immediate", "random", "backoff"])
@pytest.mark.parametrize("leases", [True, False])
def test_a_restart_under_other_settings_keeps_what_was_granted(policy: str, leases: bool) -> None:
    cluster = mixed(LONG, SHORT)
    restarted = cluster.clock.now
    cluster.isolate(1)
    settings = SHORT | {"policy": policy, "leases": leases, "max_clock_drift": 0.0}
    cluster.restart(2, **settings)
    cluster.restart(3, **settings)
    high = Ballot(cluster.servers[2].promised.round + 3, 3)
    while cluster.clock.now < restarted + 3.0:
        cluster.hand(2, 3, P1A(high, 1))
        cluster.step(2)
        assert cluster.sent(P1B) == []
        assert cluster.servers[2].role == "follower"
        assert cluster.sent(PreVote, source=2) == []
        cluster.drop()
        cluster.clock.now += 0.1
    cluster.clock.now = restarted + 3.0 * 1.05 + 0.01
    cluster.hand(2, 3, P1A(high, 1))
    assert [p.ballot for p in cluster.sent(P1B)] == [high]


def test_a_grant_is_on_the_disk_before_it_is_told() -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    commits = cluster.storages[2].count
    hand_grant(cluster, 2, 1.0)
    assert len(cluster.sent(HeartbeatReply, source=2)) == 1
    assert cluster.storages[2].count == commits + 1
    hand_grant(cluster, 2, 1.0)
    hand_grant(cluster, 2, 0.5)
    assert cluster.storages[2].count == commits + 1  # only what is longer takes a sync
    cluster.crash(2)
    assert cluster.storages[2].load().lease == math.ceil(1.05e6)


def test_the_latest_of_all_grants_counts() -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    granted = cluster.clock.now
    hand_grant(cluster, 2, 2.0)
    cluster.clock.now += 0.1
    hand_grant(cluster, 2, 0.2)  # the leader began to ask for less; what it had, it may still count
    cluster.drop()
    cluster.clock.now = granted + 1.99
    high = Ballot(9, 3)
    cluster.hand(2, 3, P1A(high, 1))
    assert cluster.sent(P1B) == []
    cluster.clock.now = granted + 2.01
    cluster.hand(2, 3, P1A(high, 1))
    assert len(cluster.sent(P1B)) == 1


def test_what_was_granted_before_a_restart_is_forgotten_when_it_has_run_out() -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    hand_grant(cluster, 2, 2.0, 0.0)
    cluster.drop()
    cluster.restart(2)
    hand_grant(cluster, 2, 0.5, 0.0)
    assert cluster.storages[2].load().lease == 2_000_000
    cluster.clock.now += 1.99
    cluster.step(2)
    assert cluster.storages[2].load().lease == 2_000_000
    cluster.clock.now += 0.02
    cluster.step(2)
    cluster.servers[2]._commit()
    cluster.crash(2)
    assert cluster.storages[2].load().lease == 500_000  # granted in the second life


@pytest.mark.parametrize(
    ("lease", "drift"),
    [
        (LONGEST_LEASE + 0.001, 0.0), (math.inf, 0.0), (math.nan, 0.0), (-1.0, 0.0),
        (1.0, 0.5), (1.0, -0.1), (1.0, math.nan),
    ],
)  # fmt: skip
def test_a_lease_that_nobody_may_ask_for_is_not_answered(lease: float, drift: float) -> None:
    cluster = Cluster(3).start()
    cluster.lead(1)
    cluster.drop()
    hand_grant(cluster, 2, lease, drift)
    assert cluster.sent(HeartbeatReply) == []
    assert cluster.servers[2]._counters["malformed_messages"] == 1
    assert not cluster.servers[2]._grants.hold(cluster.clock.now)


def test_nobody_asks_for_more_than_the_longest() -> None:
    settings = {"election_timeout_min": 90.0, "election_timeout_max": 95.0}
    cluster = mixed(settings, settings)
    reign_of(cluster.servers[1]).heartbeat_at = 0.0
    cluster.step(1)
    assert {h.lease for h in cluster.sent(Heartbeat)} == {LONGEST_LEASE}


def test_a_lease_counts_for_no_longer_than_the_shortest_round_that_may_have_been_answered() -> None:
    """A follower that replies to a later round may have missed the one that asked for more."""
    cluster = mixed(LONG, SHORT)
    server = cluster.servers[1]
    cluster.clock.now += 3.0
    cluster.hand(1, 2, HeartbeatReply(server.promised, reign_of(server).rounds.last, 2))
    reign_of(server).rounds.lease_until = 0.0
    cluster.drop()
    first, sent = reign_of(server).rounds.last + 1, cluster.clock.now
    reign_of(server).rounds.sent.extend(
        [(first, sent, 2.7, 0.0), (first + 1, sent + 0.05, 0.27, 0.0)]
    )
    reign_of(server).rounds.last += 2
    cluster.clock.now += 0.1
    cluster.hand(1, 2, HeartbeatReply(server.promised, first, 2))
    assert reign_of(server).rounds.lease_until == pytest.approx(sent + 0.27)


def test_grants_by_themselves() -> None:
    grants = Grants()
    assert not grants.hold(0.0)
    assert grants.grant(Ballot(1, 1), 1.0, 0.5, 10.0) == 1_500_000
    assert grants.hold(10.999)
    assert not grants.hold(11.0)
    assert grants.grant(Ballot(1, 1), 1.0, 0.5, 10.5) == 0
    again = Grants()
    again.recover(1_500_000, 20.0)
    assert again.hold(21.499)
    assert again.forget_at == again.until == 21.5
    assert again.grant(Ballot(1, 1), 0.5, 0.0, 20.5) == 0
    assert again.forget() == 500_000
    assert counted(1.0, 0.0) == 1.0
    assert counted(0.0, 0.3) == 0.0


def test_lease_reads_are_answered_from_a_mixed_cluster() -> None:
    cluster = mixed(LONG, SHORT | {"policy": "random"})
    cluster.query(1, 7, "lease")
    assert [r.id for r in cluster.told(QueryReply)][-1] == 7


def test_what_the_life_before_granted_counts_from_when_the_directory_was_free() -> None:
    """It may have gone on granting until the very moment at which its lock was released."""
    cluster = Cluster(3).start()
    storage = cluster.storages[2]
    storage.save_lease(300_000)
    storage.commit()
    cluster.crash(2)
    server = cluster.make(2)
    opened = server._environment.storage

    def late() -> Storage:
        cluster.clock.now += 5.0
        return opened()

    server._environment.storage = late
    server.open()
    assert server._grants.until == cluster.clock.now + 0.3


def test_a_disk_that_knows_of_no_lease_leaves_nothing_to_wait_for_or_to_forget() -> None:
    grants = Grants()
    grants.recover(0, 50.0)
    assert grants.until == -math.inf
    assert grants.forget_at == math.inf


def test_the_leases_of_an_earlier_life_are_forgotten_once() -> None:
    grants = Grants()
    grants.recover(3_000_000, 50.0)
    assert grants.hold(52.9)
    assert grants.forget_at == 53.0
    assert grants.grant(Ballot(1, 1), 0.5, 0.0, 51.0) == 0  # the disk knows of a longer one
    assert grants.forget() == 500_000
    assert grants.forget_at == math.inf
    assert grants.grant(Ballot(1, 1), 0.5, 0.0, 54.0) == 0
    assert grants.grant(Ballot(1, 1), 0.6, 0.0, 54.0) == 600_000
