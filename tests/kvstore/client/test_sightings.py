"""Why a client had no answer: a sentence for each cause."""

from __future__ import annotations

import random
from collections.abc import Callable

import loguru
import pytest

from paxon.actors.execution.state_machine import StateMachine
from paxon.actors.messages import NotLeader, OpenSession, OtherCluster, SessionOpened
from paxon.kvstore import (
    Client,
    CommandClient,
    InvalidRequest,
    OperationFailed,
    RequestTimeout,
    WrongCluster,
)
from paxon.kvstore.client.core import RawCore
from paxon.kvstore.client.sightings import Sightings
from tests.kvstore.client.fake_cluster import SocketCluster
from tests.ports import own_ports

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


def seen(**replies: NotLeader) -> Sightings:
    sightings = Sightings()
    for name, reply in replies.items():
        address = {"a": A, "b": B, "c": C}[name]
        sightings.heard[address] = 5.0
        sightings.not_leader(address, reply, 5.0)
    return sightings


def test_no_majority() -> None:
    assert seen(a=NotLeader(0, "", 3)).why(1.0, [A]) == (
        "1 of 3 servers answered, none leads, 2 are needed"
    )
    two = seen(a=NotLeader(0, "", 5), b=NotLeader(0, "", 5))
    assert two.why(1.0, [A, B, C]) == "2 of 5 servers answered, none leads, 3 are needed"
    two.trouble(C, "server 3 speaks another version")
    assert two.why(1.0, [A, B, C]) == (
        "2 of 5 servers answered, none leads, 3 are needed (tcp://c:1: server 3 speaks another "
        "version)"
    )


def test_a_majority_that_has_not_made_its_cluster_say() -> None:
    """That two of three are needed explains nothing where three answered."""
    status = "see what `paxon status` says"
    three = {name: NotLeader(0, "", 3) for name in "abc"}
    assert seen(**three).why(1.0, [A, B, C]) == (
        f"3 of 3 servers answered, and none leads: {status}"
    )
    two = seen(a=NotLeader(0, "", 3), b=NotLeader(0, "", 3))
    assert two.why(1.0, [A]) == f"2 of 3 servers answered, and none leads: {status}"
    one = seen(a=NotLeader(0, "", 1))
    assert one.why(1.0, [A]) == f"the server answered, and does not lead: {status}"


def test_a_leader_that_cannot_be_reached() -> None:
    sightings = seen(a=NotLeader(2, B, 3))
    why = sightings.why(1.0, [A, B])
    assert f"server 2 leads at {B}, which does not answer" in why
    sightings.trouble(B, "it cannot be connected to (no public key is known for this address)")
    assert "no public key" in sightings.why(1.0, [A, B])
    sightings.heard[B] = 4.0
    assert sightings.why(1.0, [A, B]) == ""  # it does answer: something else is slow


def test_servers_that_point_at_each_other() -> None:
    two = seen(a=NotLeader(2, B, 3), b=NotLeader(1, A, 3))
    assert two.why(1.0, [A, B, C]).startswith(
        "2 of 3 servers answered, and whom they name does not lead"
    )


def test_a_leader_whose_address_nobody_knows() -> None:
    assert "server 2 leads, but not where clients" in seen(a=NotLeader(2, "", 3)).why(1.0, [A])


def test_silence() -> None:
    sightings = Sightings()
    assert sightings.silence([A, B]) == (
        f" (asked {A}, {B}): check that they are running and reachable"
    )
    sightings.trouble(A, "it is odd")
    assert f"(asked {A}, {B}; {A}: it is odd): check" in sightings.silence([A, B])
    sightings.trouble(B, "it is odd")
    assert sightings.silence([A, B]) == f": {A}, {B}: it is odd"
    sightings.trouble(A, "")
    assert sightings.silence([A]).startswith(" (asked")


def test_what_was_long_ago_explains_nothing() -> None:
    assert seen(a=NotLeader(0, "", 3)).why(6.0, [A]) == ""
    assert Sightings().why(1.0, [A]) == ""


def test_a_server_of_another_cluster() -> None:
    core = RawCore([A], random.Random(1))
    ticket = core.submit(b"q", now=1.0, deadline=2.0, mode="linearizable")
    core.poll(1.0)
    core.receive(A, [OtherCluster("orders", 0xAB, 0xCD)], 1.5)
    assert "cluster 'orders' (00000000000000ab)" in str(ticket.error)
    assert "belongs to cluster 00000000000000cd" in str(ticket.error)


def test_a_write_may_have_come_before_the_other_cluster_did() -> None:
    """The one that answers has taken the address of one that was sent it."""
    core = RawCore([A], random.Random(1))
    sent = core.submit(b"w", now=1.0, deadline=9.0)
    [(_, [opening, _])] = core.poll(1.0)
    assert isinstance(opening, OpenSession)
    core.receive(A, [SessionOpened(opening.nonce, 9)], 1.1)
    core.poll(1.1)
    unsent = core.submit(b"v", now=1.2, deadline=9.0)
    core.receive(A, [OtherCluster("orders", 0xAB, 0xCD)], 1.3)
    errors = sent.error, unsent.error
    assert [isinstance(e, WrongCluster) and e.unknown for e in errors] == [True, False]


def test_a_client_says_so(servers: SocketCluster) -> None:
    with Client(servers.addresses, timeout=20) as client:
        client.put("key", "value")
        servers.cluster.hint = ""
        servers.cluster.leader = "nobody"
        with pytest.raises(RequestTimeout, match="3 of 3 servers answered, and none leads: see"):
            client.get("key", timeout=0.6)
        with pytest.raises(RequestTimeout, match="none leads") as write:
            client.put("key", "value", timeout=0.6)
        assert "outcome is unknown" in str(write.value)


def test_a_client_that_reaches_followers_but_not_the_leader(servers: SocketCluster) -> None:
    leader, *others = servers.addresses
    servers.silent = {leader}
    with Client(others, timeout=0.8) as client:
        with pytest.raises(RequestTimeout, match=f"server 1 leads at {leader}") as refused:
            client.get("key")
        assert "does not answer" in str(refused.value)


def test_servers_that_have_moved_print_nothing() -> None:
    lines: list[str] = []
    sink = loguru.logger.add(lines.append, level="INFO")
    nobody = [f"tcp://127.0.0.1:{port}" for port in own_ports(3)]
    try:
        with Client(nobody, timeout=0.8) as client:
            for _ in range(2):
                with pytest.raises(RequestTimeout, match="no server answered"):
                    client.put("key", "value")
    finally:
        loguru.logger.remove(sink)
    assert lines == []


class Echo(StateMachine):
    """Some other state machine."""

    def apply(self, command: bytes) -> bytes:
        return b"done"

    def query(self, query: bytes) -> bytes:
        return b"answer"

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


def test_a_client_of_the_store_at_another_state_machine() -> None:
    servers = SocketCluster(1, Echo())
    try:
        with Client(servers.addresses, timeout=20) as client:
            calls: list[Callable[[], object]] = [
                lambda: client.put("key", "value"),
                lambda: client.get("key"),
            ]
            for operation in calls:
                with pytest.raises(OperationFailed, match="use a CommandClient"):
                    operation()
    finally:
        servers.close()


def test_a_command_client_at_the_store(servers: SocketCluster) -> None:
    with CommandClient(servers.addresses, timeout=20) as client:
        for operation in (client.execute, client.query):
            with pytest.raises((InvalidRequest, OperationFailed), match="use Client"):
                operation(b"add 1")
