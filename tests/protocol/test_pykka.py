"""The same class as a real actor: its thread, its inbox, what may be told and asked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from paxon.actors import (
    Ballot,
    Environment,
    Execute,
    InvariantViolation,
    NotLeading,
    PaxosServer,
    Settings,
    StorageError,
)
from paxon.actors.codecs import client_codec, peer_codec, port_codec
from paxon.actors.execution.agreed import first_agreed
from paxon.actors.messages import (
    P2A,
    ClientMessage,
    Command,
    CommandReply,
    OpenSession,
    PeerMessage,
    ReplyStatus,
    ServerReply,
    SessionOpened,
)
from paxon.transport import MemoryClient, MemoryEndpoint, MemoryHub
from tests.disks import MemoryDisk
from tests.harness import IDENTITY, Register, make_cluster, value_of
from tests.waiting import wait_until

PATIENCE = 10.0
"""Seconds after which a test gives up on what should happen at once."""


class RealClock:
    monotonic = staticmethod(time.monotonic)
    awake = staticmethod(time.monotonic_ns)


class Crew:
    """Servers as actors in this process, over a network in memory."""

    def __init__(self, size: int = 1) -> None:
        self.ids = tuple(range(1, size + 1))
        self.hub = MemoryHub()
        self.disks = {s: MemoryDisk("test", s) for s in self.ids}
        make_cluster(self.disks, first_agreed({}, {}))
        self.machines = {s: Register() for s in self.ids}
        self.endpoints: dict[int, MemoryEndpoint[PeerMessage, ClientMessage, ServerReply]] = {}
        self.failures: dict[int, BaseException] = {}
        self.failed = threading.Event()
        self.references: dict[int, pykka.ActorRef[PaxosServer]] = {}

    def settings(self, server: int) -> Settings:
        return Settings(
            cluster="test",
            server=server,
            servers=self.ids,
            heartbeat_interval=0.02,
            election_timeout_min=0.15,
            election_timeout_max=0.3,
        )

    def client(self, server: int) -> MemoryClient[ClientMessage, ServerReply]:
        return MemoryClient(self.hub, server, client_codec())

    def start(self, *servers: int) -> Crew:
        for server in servers or self.ids:
            self._start(server)
        return self

    def _start(self, server: int) -> None:
        ready = threading.Event()

        def network() -> MemoryEndpoint[PeerMessage, ClientMessage, ServerReply]:
            endpoint = MemoryEndpoint(
                self.hub, server,
                peer_codec=peer_codec(server, self.disks[server].incarnation),
                client_codec=port_codec(server),
            )  # fmt: skip
            self.endpoints[server] = endpoint
            return endpoint

        def failed(error: BaseException) -> None:
            self.failures[server] = error
            self.failed.set()
            ready.set()

        environment = Environment(
            clock=RealClock(),
            random=random.Random(server),
            storage=lambda: self.disks[server],
            network=network,
            on_ready=ready.set,
            on_failed=failed,
        )
        self.references[server] = PaxosServer.start(
            self.settings(server), self.machines[server], environment
        )
        assert ready.wait(PATIENCE)

    def leader(self) -> int:
        """Wait until a server leads and serves."""
        found: list[int] = []

        def look() -> bool:
            for server, reference in self.references.items():
                if reference.is_alive() and reference.proxy().role.get() == "leader":
                    found[:] = [server]
            return bool(found)

        wait_until(look)
        return found[0]

    def execute(self, server: int, command: bytes) -> bytes:
        future = self.references[server].ask(Execute(command), timeout=PATIENCE)
        reply = future.get(timeout=PATIENCE)
        assert isinstance(reply, bytes)
        return reply


@pytest.fixture
def crew() -> Iterator[Callable[[int], Crew]]:
    made: list[Crew] = []

    def make(size: int = 1) -> Crew:
        made.append(Crew(size))
        return made[-1]

    yield make
    for one in made:
        for reference in one.references.values():
            reference.stop(timeout=PATIENCE)


Make = Callable[[int], Crew]


def test_ask_execute_gives_a_future_of_the_state_machines_reply(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    assert one.execute(1, b"a") == b"a"
    assert one.execute(1, b"b") == b"a b"
    assert one.machines[1].applied == [b"a", b"b"]


def test_tell_execute_is_executed_too(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    one.references[1].tell(Execute(b"a"))
    assert one.execute(1, b"b") == b"a b"


def test_the_four_probes_and_the_role_are_there_by_proxy(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    one.execute(1, b"a")
    proxy = one.references[1].proxy()
    assert proxy.status(1).get() == "CHOSEN"
    assert proxy.status(2).get() == "EMPTY"
    assert b"a" in proxy.command(1).get()
    assert proxy.command(2).get() is None
    assert (proxy.first_non_cleared().get(), proxy.last_non_empty().get()) == (1, 1)
    assert proxy.describe().get().role == "leader"


def test_three_actors_agree(crew: Make) -> None:
    three = crew(3).start()
    leader = three.leader()
    for n in range(20):
        three.execute(leader, b"%d" % n)
    expected = [b"%d" % n for n in range(20)]
    wait_until(lambda: all(m.applied == expected for m in three.machines.values()))


def test_another_leads_when_the_leader_is_stopped(crew: Make) -> None:
    three = crew(3).start()
    first = three.leader()
    three.execute(first, b"a")
    three.references[first].stop(timeout=PATIENCE)
    second = three.leader()
    assert second != first
    wait_until(lambda: three.machines[second].applied == [b"a"])
    assert three.execute(second, b"b") == b"a b"


def test_clients_on_the_network_are_served(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    client = one.client(1)
    client.send([OpenSession(7)])
    (opened,) = client.receive(PATIENCE) or []
    assert isinstance(opened, SessionOpened)
    client.send([Command(opened.session, 1, 1, 0, b"x")])
    assert client.receive(PATIENCE) == [CommandReply(opened.session, 1, ReplyStatus.OK, b"x")]
    client.close()


def test_who_does_not_lead_fails_the_future(crew: Make) -> None:
    three = crew(3).start()
    leader = three.leader()
    follower = next(s for s in three.ids if s != leader)
    future = three.references[follower].ask(Execute(b"x"), timeout=PATIENCE)
    with pytest.raises(NotLeading, match=f"ask server {leader}.*no effect") as refused:
        future.get(timeout=PATIENCE)
    assert (refused.value.leader, refused.value.tried) == (leader, False)


@pytest.mark.parametrize("wrong", ["text", None, b"", bytearray(b"x"), b"x" * (17 << 20)])
def test_what_cannot_be_a_command_is_refused_and_the_actor_lives_on(crew: Make, wrong: Any) -> None:
    one = crew(1).start()
    one.leader()
    with pytest.raises((TypeError, ValueError), match="Execute: "):
        one.execute(1, wrong)
    assert one.execute(1, b"good") == b"good"


def test_a_bad_command_is_its_own_error_and_the_actor_lives_on(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    with pytest.raises(RuntimeError, match="ValueError: a bad command"):
        one.execute(1, b"bad")
    assert one.execute(1, b"good") == b"good"
    assert one.failures == {}


def test_an_unknown_message_does_no_harm(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    assert one.references[1].ask("what is this", timeout=PATIENCE) is None
    one.references[1].tell({"nor": "this"})
    assert one.execute(1, b"x") == b"x"


def test_an_exception_in_the_protocol_stops_the_actor(crew: Make) -> None:
    """Crash, not corruption: it is gone at once, with the reason, and has released everything."""
    three = crew(3).start(1)
    ballot = Ballot(5, 2)
    codec = peer_codec(2, three.disks[2].incarnation)
    codec.identify(IDENTITY)
    for text in (b"A", b"B"):  # two values in one ballot: somebody is not Paxos
        three.hub.to_server(1, codec.encode([P2A(ballot, 1, value_of(text), 0)]))
    assert three.failed.wait(PATIENCE)
    assert isinstance(three.failures[1], InvariantViolation)
    wait_until(lambda: not three.references[1].is_alive())
    assert three.hub.to_server(1, b"") is False
    with pytest.raises(pykka.ActorDeadError):
        three.references[1].ask(Execute(b"x"), timeout=PATIENCE)


def test_an_exception_while_asked_goes_to_the_asker_and_stops_the_actor(crew: Make) -> None:
    one = crew(1).start()
    one.leader()

    def fail() -> None:
        raise StorageError("the disk is full")

    one.disks[1].commit = fail  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="disk is full"):
        one.execute(1, b"x")
    assert one.failed.wait(PATIENCE)
    wait_until(lambda: not one.references[1].is_alive())


def test_a_disk_that_cannot_be_opened_is_reported_and_stops_the_actor(crew: Make) -> None:
    one = crew(1)

    def refuse() -> object:
        raise StorageError("the data directory belongs to server 2")

    one.disks[1].load = refuse  # type: ignore[method-assign, assignment]
    one.start()
    assert str(one.failures[1]) == "the data directory belongs to server 2"
    wait_until(lambda: not one.references[1].is_alive())
    assert one.endpoints == {}


def test_stopping_releases_disk_and_network_and_fails_what_waits(crew: Make) -> None:
    three = crew(3).start()
    leader = three.leader()
    for server in three.ids:
        if server != leader:
            three.references[server].stop(timeout=PATIENCE)
    future = three.references[leader].ask(Execute(b"x"), timeout=PATIENCE)
    three.references[leader].stop(timeout=PATIENCE)
    with pytest.raises(RuntimeError, match="outcome is unknown"):
        future.get(timeout=PATIENCE)
    assert three.hub.to_server(leader, b"") is False
    with pytest.raises(StorageError):
        three.disks[leader].commit()


def test_it_starts_again_on_the_same_disk(crew: Make) -> None:
    one = crew(1).start()
    one.leader()
    one.execute(1, b"a")
    one.references[1].stop(timeout=PATIENCE)
    one.machines[1] = Register()
    one.start()
    one.leader()
    assert one.execute(1, b"b") == b"a b"


def test_what_is_raised_while_receiving_stops_the_server_too(
    crew: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread alone ended, and a process that heard nobody lived on."""
    one = crew(1).start()
    assert one.leader() == 1
    broken = OSError("the sockets are out of order")
    monkeypatch.setattr(one.endpoints[1], "receive", lambda: fail(broken))
    assert one.failed.wait(PATIENCE)
    assert one.failures[1] is broken
    wait_until(lambda: not one.references[1].is_alive())


def fail(error: Exception) -> None:
    raise error
