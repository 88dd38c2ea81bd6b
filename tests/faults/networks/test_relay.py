"""The relay itself: it cuts, stalls, loses and delays what it should, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import zmq

from tests.cluster.helpers import wait_until
from tests.faults.networks.network import Network
from tests.faults.networks.zmtp import Kind, Splitter, identity, without_identity

pytestmark = pytest.mark.process

GREETING = bytes(64)


def ready(routing_id: bytes) -> bytes:
    """A READY command of a DEALER."""
    body = b"\x05READY" + b"\x0bSocket-Type" + b"\x00\x00\x00\x06DEALER"
    body += b"\x08Identity" + len(routing_id).to_bytes(4, "big") + routing_id
    return bytes([4, len(body)]) + body


def test_a_stream_is_cut_into_messages_wherever_its_bytes_are_split() -> None:
    long = b"\x02" + (300).to_bytes(8, "big") + bytes(300)
    parts = b"\x01\x02ab" + b"\x03" + (256).to_bytes(8, "big") + bytes(256) + b"\x00\x01c"
    ping = b"\x04\x07\x04PING\x00\x01"
    stream = GREETING + ready(b"me") + long + ping + parts + b"\x00\x00"
    expected = [(Kind.READY, ready(b"me")), (Kind.MESSAGE, long), (Kind.COMMAND, ping)]
    expected += [(Kind.MESSAGE, parts), (Kind.MESSAGE, b"\x00\x00")]
    for step in (1, 2, 7, 64, 65, 1000):
        splitter = Splitter()
        pieces = [
            p for i in range(0, len(stream), step) for p in splitter.feed(stream[i : i + step])
        ]
        greeting = b"".join(p.data for p in pieces if p.kind is Kind.GREETING)
        assert greeting == GREETING
        assert [(p.kind, p.data) for p in pieces if p.kind is not Kind.GREETING] == expected


def test_a_routing_id_is_read_and_taken_out() -> None:
    assert identity(ready(b"outside")) == "outside"
    assert identity(ready(b"")) == ""
    assert without_identity(ready(b"outside")) == ready(b"")
    assert without_identity(ready(b"")) == ready(b"")


@dataclass
class Ends:
    """A client's DEALER and a server's ROUTER with the relay between them."""

    network: Network
    context: zmq.Context[zmq.Socket[bytes]]
    router: zmq.Socket[bytes]
    address: str

    def dealer(self, group: str) -> zmq.Socket[bytes]:
        self.network.join_group(group)
        dealer = self.context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.ROUTING_ID, group.encode())
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.SNDTIMEO, 60_000)
        dealer.setsockopt(zmq.RECONNECT_IVL, 10)
        dealer.connect(self.address)
        return dealer

    def arrives(self, seconds: float = 60.0) -> list[bytes] | None:
        """What comes to the server next, if anything does in time."""
        return self.router.recv_multipart() if self.router.poll(round(seconds * 1000)) else None


@pytest.fixture
def ends() -> Iterator[Ends]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.bind("tcp://127.0.0.1:0")
    network = Network([1])
    front = network.front(None, "1", router.getsockopt_string(zmq.LAST_ENDPOINT))
    try:
        yield Ends(network, context, router, front)
    finally:
        network.close()
        context.destroy(linger=0)


def test_what_is_not_touched_passes_both_ways(ends: Ends) -> None:
    dealer = ends.dealer("left")
    big = bytes(3 << 20)
    for body in (b"one", big, b""):
        dealer.send(body)
        arrived = ends.arrives()
        assert arrived is not None
        token, received = arrived
        assert received == body
        assert token != b"left", "the server has to see an anonymous client"
        ends.router.send_multipart([token, body])
        assert dealer.poll(60_000)
        assert dealer.recv() == body
    dealer.send_multipart([b"several", b"parts"])
    assert (ends.arrives() or [])[1:] == [b"several", b"parts"]


def test_a_cut_loses_what_is_sent_meanwhile_and_only_there(ends: Ends) -> None:
    left, right = ends.dealer("left"), ends.dealer("right")
    for dealer in (left, right):
        dealer.send(b"hello")
        assert ends.arrives() is not None
    ends.network.cut("left", 1)
    left.send(b"lost")
    right.send(b"passes")
    assert (ends.arrives() or [])[1:] == [b"passes"]
    assert ends.arrives(0.2) is None
    ends.network.mend("left", 1)
    left.send(b"again")
    assert (ends.arrives() or [])[1:] == [b"again"]
    assert ends.network.counts()["cut_off"] >= 1


def test_one_way_cuts_leave_the_other_way(ends: Ends) -> None:
    dealer = ends.dealer("left")
    dealer.send(b"hello")
    token = (ends.arrives() or [b""])[0]
    ends.network.cut(1, "left", one_way=True)
    dealer.send(b"still heard")
    assert (ends.arrives() or [])[1:] == [b"still heard"]
    ends.router.send_multipart([token, b"lost"])
    assert not dealer.poll(200)
    ends.network.heal()
    ends.router.send_multipart([token, b"heard"])
    assert dealer.poll(60_000)
    assert dealer.recv() == b"heard"


def test_a_stall_delivers_late_and_in_order(ends: Ends) -> None:
    dealer = ends.dealer("left")
    dealer.send(b"hello")
    assert ends.arrives() is not None
    ends.network.partition([1], ["left"], stall=True)
    for number in range(3):
        dealer.send(b"%d" % number)
    assert ends.arrives(0.2) is None
    ends.network.heal()
    assert [(ends.arrives() or [])[1:] for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]


def test_a_new_connection_waits_for_the_end_of_a_cut(ends: Ends) -> None:
    ends.network.partition([1], ["left"])
    dealer = ends.dealer("left")
    dealer.setsockopt(zmq.SNDTIMEO, 300)
    with pytest.raises(zmq.Again):
        dealer.send(b"nobody is there")
    ends.network.heal()
    dealer.setsockopt(zmq.SNDTIMEO, 60_000)
    dealer.send(b"now")
    assert (ends.arrives() or [])[1:] == [b"now"]


def test_weather_loses_a_share_and_delays_the_rest_in_order(ends: Ends) -> None:
    dealer = ends.dealer("left")
    dealer.send(b"hello")
    assert ends.arrives() is not None
    ends.network.weather(loss=0.5, delay=0.05, jitter=0.05)
    began = time.monotonic()
    for number in range(200):
        dealer.send(b"%d" % number)
    first = ends.arrives()
    assert first is not None
    assert time.monotonic() - began >= 0.05
    received = [int(first[1])]

    def all_are_there_or_lost() -> bool:
        if arrived := ends.arrives(0.05):
            received.append(int(arrived[1]))
        return ends.network.counts()["lost"] >= 200 - len(received)

    wait_until(all_are_there_or_lost)
    assert ends.arrives(0.5) is None
    assert received == sorted(received)
    assert 50 < len(received) < 150
    assert ends.network.counts()["lost"] == 200 - len(received)


def test_a_reset_ends_connections_and_new_ones_come(ends: Ends) -> None:
    dealer = ends.dealer("left")
    dealer.send(b"hello")
    assert ends.arrives() is not None
    connections = ends.network.counts()["connections"]
    ends.network.reset("left", 1)
    wait_until(lambda: ends.network.counts()["connections"] > connections, "it connects again")
    dealer.send(b"again")
    assert (ends.arrives() or [])[1:] == [b"again"]
