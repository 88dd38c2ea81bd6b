"""What stands between a server and its sockets, duels read from messages, and clusters at hand."""

# mypy: disable-error-code=comparison-overlap
# (A step between two looks at a role changes it, which mypy does not know.)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from paxon.actors import Ballot
from paxon.actors.messages import P1A, P2A, P2B, HeartbeatReply
from paxon.bench.contention.compare import (
    CompareSettings,
    Reign,
    duel_of,
    points_of,
    reigns_of,
    sweeps_of,
)
from paxon.bench.harness.child import Children
from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.lab import SERVER, LabCluster
from paxon.bench.harness.lab_network import Event, EventKind, LabNetwork, Recorder
from paxon.bench.harness.measure import counts_of
from paxon.kvstore import Client
from paxon.transport import Burst
from tests.messages import beat, promise
from tests.quiet import QuietNetwork

ONE, TWO = Ballot(1, 1), Ballot(2, 2)


class FakeSockets(QuietNetwork):
    """Notes what leaves and when; sleeps by moving the clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.left: list[tuple[float, tuple[int, ...], Any]] = []
        self.waits: list[float | None] = []
        self.readable: set[int] = set()
        self.closed = False

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def broadcast(self, servers: Sequence[int], messages: Sequence[Any]) -> None:
        self.left.append((self.now, tuple(servers), list(messages)))

    def reply(self, client: bytes, messages: Sequence[Any]) -> None:
        self.left.append((self.now, (), (client, list(messages))))

    def receive(self) -> Burst[Any, Any]:
        return Burst()

    def wait(self, timeout_seconds: float | None, wake_fd: int) -> bool:
        self.waits.append(timeout_seconds)
        self.now += 60.0 if timeout_seconds is None else timeout_seconds
        return wake_fd in self.readable

    def counters(self) -> dict[str, int]:
        return {"bytes": 7}

    def close(self) -> None:
        self.closed = True


def network(delay: float, recorder: Recorder | None = None) -> tuple[LabNetwork, FakeSockets]:
    sockets = FakeSockets()
    endpoint: Any = sockets
    made = LabNetwork(
        endpoint, delay=delay, recorder=recorder, monotonic=sockets.monotonic, sleep=sockets.sleep
    )
    return made, sockets


def turn(lab: LabNetwork, timeout: float | None = None) -> None:
    """One round of an inbox that finds nothing."""
    lab.receive()
    lab.wait(timeout, -1)


def test_without_a_delay_nothing_is_held_up() -> None:
    lab, sockets = network(0.0)
    lab.send(2, [P1A(ONE, 1)])
    assert sockets.left == [(100.0, (2,), [P1A(ONE, 1)])]
    turn(lab)
    assert sockets.waits == [None]
    assert lab.counters() == {"bytes": 7}


def test_messages_to_servers_take_the_delay_and_keep_their_order() -> None:
    lab, sockets = network(0.0055)
    lab.broadcast((2, 3), [P2A(ONE, 1, b"a", 0)])
    sockets.now += 0.001
    lab.send(2, [P2A(ONE, 2, b"b", 0)])
    while len(sockets.left) < 2:
        turn(lab)
    (first, servers, _), (second, _, messages) = sockets.left
    assert servers == (2, 3)
    assert first == pytest.approx(100.0055, abs=0.0003)
    assert second == pytest.approx(100.0065, abs=0.0003)
    assert messages == [P2A(ONE, 2, b"b", 0)]
    # Whole milliseconds are left to the sockets, which notice what arrives meanwhile.
    assert sockets.waits[0] == pytest.approx(0.004)


def test_a_timer_that_is_due_before_the_delay_is_up_comes_in_time() -> None:
    lab, sockets = network(1.0)
    lab.send(2, [P1A(ONE, 1)])
    turn(lab, 0.25)
    assert sockets.waits == [0.25]
    assert sockets.left == []


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_who_was_woken_is_told_so(delay: float) -> None:
    """Else the inbox would never clear what woke it, and find no sleep from then on."""
    lab, sockets = network(delay)
    lab.send(2, [P1A(ONE, 1)])
    assert not lab.wait(0.25, 5)
    sockets.readable.add(5)
    assert lab.wait(0.25, 5)


def test_clients_are_near_by() -> None:
    lab, sockets = network(1.0)
    lab.reply(b"client", [])
    assert [when for when, _, _ in sockets.left] == [100.0]


def test_what_is_under_way_is_lost_with_the_server() -> None:
    lab, sockets = network(0.5)
    lab.send(2, [P1A(ONE, 1)])
    lab.close()
    sockets.now += 1.0
    assert sockets.left == []
    assert sockets.closed


def test_a_recorder_takes_down_what_tells_of_a_duel() -> None:
    recorder = Recorder(1, monotonic=lambda: 5.0)
    lab, _ = network(0.0, recorder)
    lab.broadcast((2, 3), [P1A(ONE, 1)])
    lab.send(2, [promise(TWO), HeartbeatReply(TWO, 1, 0)])
    lab.send(2, [P2B(ONE, 1, 1), P2B(ONE, 1, 1, TWO)])
    lab.broadcast((2, 3), [P2A(ONE, 9, b"v", 8), beat(ONE, commit=8)])
    assert recorder.events == [
        Event(5.0, 1, "P1A", 1, 1),
        Event(5.0, 1, "P1B", 2, 2),
        Event(5.0, 1, "rejected", 2, 2),
        Event(5.0, 1, "P2A", 1, 1, 9),
        Event(5.0, 1, "leads", 1, 1, 8),
    ]


def events(*rows: tuple[float, int, EventKind, int, int, int]) -> list[Event]:
    return [Event(*row) for row in rows]


def test_reigns() -> None:
    found = reigns_of(
        events(
            (0.1, 1, "P1A", 1, 1, 0),
            (0.2, 2, "P1B", 1, 1, 0),  # of another's ballot
            (0.3, 2, "P1A", 2, 2, 0),
            (0.4, 2, "P2A", 2, 2, 7),
            (0.5, 2, "leads", 2, 2, 6),
            (0.6, 2, "P2A", 2, 2, 8),
            (0.7, 2, "P2A", 2, 2, 8),
            (0.8, 1, "rejected", 2, 2, 0),
        )
    )
    assert found == [
        Reign(server=1, round=1, asked=0.1, led=None, ended=0.1, slots=0),
        Reign(server=2, round=2, asked=0.3, led=0.4, ended=0.7, slots=2),
    ]


def test_a_duel_keeps_its_stretch_and_a_close_up_of_a_candidacy() -> None:
    point = points_of(sweeps_of(CompareSettings(sweep=("contention",))))[0]
    found = duel_of(
        events(
            (9.9, 1, "P1A", 1, 1, 0),
            (10.1, 1, "P2A", 1, 1, 1),
            (10.4, 2, "P1A", 2, 2, 0),
            (10.41, 1, "P1B", 2, 2, 0),
            (10.5, 2, "leads", 2, 2, 0),
            (11.5, 3, "P1A", 3, 3, 0),
        ),
        point, 10.0,
    )  # fmt: skip
    assert [(reign.server, round(reign.asked, 9)) for reign in found.reigns] == [(1, 0.1), (2, 0.4)]
    assert [event.kind for event in found.close_up] == ["P1A", "P1B"]
    assert found.close_up_from < 0.4 < found.close_up_from + found.close_up_seconds
    nothing = duel_of([], point, 0.0)
    assert nothing.reigns == nothing.close_up == []


@pytest.mark.process
def test_host_processes_serve_one_cluster_after_the_other() -> None:
    with Children(SERVER) as hosts:
        with LabCluster(hosts, 3, round_trip=0.02) as far, Client(far.addresses) as client:
            leader = far.leader()
            client.put("a", b"1")
            pids = far.pids
            assert set(pids) == {1, 2, 3}
            follower = next(server for server in far.servers if server != leader)
            far.stop_server(follower)
            assert set(counts_of(far).replies) == set(far.servers) - {follower}
            client.put("a", b"2")
            assert far.start_server(follower) > 0
            assert far.pids == pids

        cluster = LabCluster(hosts, 3, trace=True, durability="memory").start()
        leader = cluster.leader()
        with Client(cluster.addresses) as client:
            assert client.get("a") is None  # nothing of the cluster before
            client.put("b", b"1")
        seen = cluster.stop()
        assert {event.kind for event in seen} >= {"P1A", "P1B", "P2A", "leads"}
        assert leader in {reign.server for reign in reigns_of(seen) if reign.slots}
        with pytest.raises(BenchError, match="heartbeat_interval"):
            LabCluster(hosts, 3, heartbeat_interval=9.0).start()
