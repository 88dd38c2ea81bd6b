"""A dead leader is noticed by its closed connection (docs/design/elections.md)."""

from __future__ import annotations

from paxon.actors.messages import Heartbeat, PreVote
from paxon.transport import Burst
from tests.harness import Cluster


def led_by_1(**options: object) -> Cluster:
    cluster = Cluster(3, options=dict(options)).start()
    cluster.lead(1)
    cluster.pass_time(0.1)
    return cluster


def lose(cluster: Cluster, server: int, lost: int) -> None:
    cluster.step(server, Burst(lost=[lost]))


def test_followers_that_lost_the_leader_elect_another_within_a_heartbeat() -> None:
    cluster = led_by_1()
    cluster.crash(1)
    lose(cluster, 2, 1)
    lose(cluster, 3, 1)
    cluster.pass_time(cluster.servers[2].settings.heartbeat_interval)
    assert {cluster.servers[2].role, cluster.servers[3].role} == {"leader", "follower"}


def test_one_that_lost_only_its_connection_does_not_disturb_the_leader() -> None:
    cluster = led_by_1()
    ballot = cluster.servers[1].promised
    lose(cluster, 2, 1)
    cluster.pass_time(0.5)
    assert cluster.servers[1].role == "leader"
    assert all(server.promised == ballot for server in cluster.servers.values())


def test_losing_another_follower_means_nothing() -> None:
    cluster = led_by_1()
    lose(cluster, 2, 3)
    cluster.clock.now += 0.06
    cluster.step(2)
    assert not [p for p in cluster.packets if type(p.message) is PreVote]


def test_a_lease_that_was_granted_runs_out_before_another_leads() -> None:
    cluster = led_by_1()
    cluster.query(1, 1, "lease")
    cluster.pass_time(0.06)  # the next heartbeat asks for a lease, and gets it
    granted_at = cluster.clock.now
    cluster.drop(Heartbeat)
    cluster.crash(1)
    lose(cluster, 2, 1)
    lose(cluster, 3, 1)
    cluster.pass_time(0.2)
    assert "leader" not in {server.role for server in cluster.servers.values()}
    cluster.pass_time(0.5)
    assert "leader" in {server.role for server in cluster.servers.values()}
    assert cluster.clock.now >= granted_at + cluster.servers[2].settings.election_timeout_min


def test_heartbeats_ask_for_leases_only_while_clients_use_them() -> None:
    cluster = led_by_1()
    assert not any(beat.lease for beat in _heartbeats(cluster))
    cluster.query(1, 1, "lease")
    assert any(beat.lease for beat in _heartbeats(cluster))
    cluster.pass_time(6.0)
    assert not any(beat.lease for beat in _heartbeats(cluster))


def _heartbeats(cluster: Cluster) -> list[Heartbeat]:
    cluster.clock.now += 0.06
    cluster.step(1)
    beats = [p.message for p in cluster.packets if isinstance(p.message, Heartbeat)]
    cluster.stabilize()
    return beats
