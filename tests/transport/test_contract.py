"""What every transport promises, run over TCP, ipc and memory alike."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from typing import Any

import pytest

from paxon.transport import EndpointOptions, FrameCodec, ZmqEndpoint


def messages_of(burst: Any) -> list[Any]:
    return [message for _, _, messages in burst.peers for message in messages]


def test_send_carries_sender_incarnation_and_order(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2)
    wire.introduce(servers[1], servers[2], 2)
    servers[1].send(2, [shapes.Ping(1), shapes.Note("two")])
    servers[1].send(2, [shapes.Ping(3, b"\x00\xff")])
    burst = wire.receive(servers[2], lambda b: len(b.peers) == 2)
    assert burst.peers == [
        (1, 1001, [shapes.Ping(1), shapes.Note("two")]),
        (1, 1001, [shapes.Ping(3, b"\x00\xff")]),
    ]
    assert burst.clients == []


def test_broadcast_reaches_exactly_the_named_servers(wire: Any, shapes: Any) -> None:
    servers = wire.servers(4)
    for other in (2, 3, 4):
        wire.introduce(servers[1], servers[other], other)
    before = servers[1].counters()["frames_sent"]
    servers[1].broadcast([2, 3], [shapes.Note("to two")])
    for other in (2, 3):
        burst = wire.receive(servers[other], lambda b: b.peers)
        assert burst.peers == [(1, 1001, [shapes.Note("to two")])]
    assert not servers[4].receive()
    assert servers[1].counters()["frames_sent"] == before + 2


def test_requests_and_replies(wire: Any, shapes: Any) -> None:
    server = wire.servers(1)[1]
    clients = [wire.client(1) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send([shapes.Ask(number), shapes.Ask(number + 10)])
    burst = wire.receive(server, lambda b: len(b.clients) == 3)
    assert burst.peers == []
    assert len({token for token, _ in burst.clients}) == 3
    for token, messages in burst.clients:
        server.reply(token, [shapes.Answer(ask.number + 100) for ask in messages])
    for number, client in enumerate(clients):
        assert client.receive(5.0) == [shapes.Answer(number + 100), shapes.Answer(number + 110)]
        assert client.receive(0.0) is None
    assert server.counters()["dropped_replies"] == 0


def test_counters_count(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2)
    wire.introduce(servers[1], servers[2], 2)
    sent, received = servers[1].counters(), servers[2].counters()
    servers[1].send(2, [shapes.Ping(1), shapes.Ping(2)])
    wire.receive(servers[2], lambda b: b.peers)
    sent_now, received_now = servers[1].counters(), servers[2].counters()
    frame_bytes = len(shapes.peer_codec(1).encode([shapes.Ping(1), shapes.Ping(2)]))
    for kind, amount in (("frames", 1), ("messages", 2), ("bytes", frame_bytes)):
        assert sent_now[f"{kind}_sent"] - sent[f"{kind}_sent"] == amount
        assert received_now[f"{kind}_received"] - received[f"{kind}_received"] == amount


def test_reply_to_a_client_that_is_gone_is_dropped(wire: Any, shapes: Any) -> None:
    server = wire.servers(1)[1]
    client = wire.client(1)
    client.send([shapes.Ask(1)])
    token = wire.receive(server, lambda b: b.clients).clients[0][0]
    client.close()
    wire.until(
        server,
        lambda: server.counters()["dropped_replies"],
        each=lambda: server.reply(token, [shapes.Answer(1)]),
    )
    another = wire.client(1)
    another.send([shapes.Ask(2)])
    assert wire.receive(server, lambda b: b.clients).clients[0][1] == [shapes.Ask(2)]


def test_reply_to_a_token_that_never_was_is_dropped(wire: Any, shapes: Any) -> None:
    server = wire.servers(1)[1]
    server.reply(b"nobody", [shapes.Answer(1)])
    assert server.counters()["dropped_replies"] == 1


def test_a_full_queue_drops_and_never_blocks(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2, EndpointOptions(peer_queue_frames=8, burst_bytes=1 << 30))
    wire.introduce(servers[1], servers[2], 2)
    payload = bytes(200_000)
    sent = 0
    dropped = servers[1].counters()["dropped_frames"]
    begun = time.monotonic()
    while servers[1].counters()["dropped_frames"] == dropped:
        servers[1].send(2, [shapes.Ping(sent, payload)])
        sent += 1
        assert sent < 1000, "nothing was dropped though nobody reads"
    assert time.monotonic() - begun < 60  # else it blocks for good
    arrived = messages_of(wire.receive(servers[2], lambda b: len(b.peers) == sent - 1))
    assert [ping.number for ping in arrived] == list(range(sent - 1))
    again = [shapes.Note("there is room again")]
    wire.receive(servers[2], lambda b: b.peers, each=lambda: servers[1].send(2, again))


def test_peer_gone_and_back(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2)
    wire.introduce(servers[1], servers[2], 2)
    servers[2].close()
    dropped = servers[1].counters()["dropped_frames"]
    wire.until(
        servers[1],
        lambda: servers[1].counters()["dropped_frames"] > dropped + 10,
        each=lambda: servers[1].send(2, [shapes.Note("stale")]),
    )
    back = wire.reopen(2)
    burst = wire.receive(
        back, lambda b: b.peers, each=lambda: servers[1].send(2, [shapes.Note("fresh")])
    )
    assert shapes.Note("stale") not in messages_of(burst)
    wire.introduce(back, servers[1], 1)


def test_a_peer_that_dies_is_reported_lost_once(wire: Any, shapes: Any) -> None:
    """Its kernel closes its connections, so the others need not wait for a timeout."""
    if wire.name == "memory":
        pytest.skip("the in-memory transport has no connections that could end")
    one, two = (servers := wire.servers(2))[1], servers[2]
    wire.introduce(one, two, 2)
    two.close()
    burst = wire.receive(one, lambda burst: burst.lost)
    assert burst.lost == [2]
    assert one.receive().lost == []


def test_close_twice(wire: Any) -> None:
    servers = wire.servers(2)
    servers[1].close()
    servers[1].close()
    assert servers[1].counters()["frames_sent"] == 0
    wire.reopen(1).close()


def test_what_is_too_large_for_one_frame_travels_in_several(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2, max_frame_bytes=4096)
    wire.introduce(servers[1], servers[2], 2)
    pings = [shapes.Ping(number, bytes(1000)) for number in range(20)]
    servers[1].send(2, pings)
    burst = wire.receive(servers[2], lambda b: len(messages_of(b)) == len(pings))
    assert messages_of(burst) == pings
    assert len(burst.peers) > 4
    assert servers[1].counters()["oversized_frames"] == 0


def test_one_message_that_is_too_large_is_dropped_and_counted(
    wire: Any, shapes: Any, log_lines: list[str]
) -> None:
    servers = wire.servers(2, max_frame_bytes=4096)
    wire.introduce(servers[1], servers[2], 2)
    dropped = servers[1].counters()["dropped_frames"]
    servers[1].send(2, [shapes.Note("before"), shapes.Ping(1, bytes(5000)), shapes.Note("after")])
    burst = wire.receive(servers[2], lambda b: len(messages_of(b)) == 2)
    assert messages_of(burst) == [shapes.Note("before"), shapes.Note("after")]
    counters = servers[1].counters()
    assert counters["oversized_frames"] == 1
    assert counters["dropped_frames"] == dropped + 1
    assert any("max_frame_bytes (4096)" in line for line in log_lines)


def test_malformed_frames_are_counted_and_service_goes_on(
    wire: Any, shapes: Any, log_lines: list[str]
) -> None:
    server = wire.servers(2)[1]
    good = shapes.client_codec().encode([shapes.Ask(7)])
    client = wire.client(1)
    noise = bytes(24) + b"\xdd" + b"\xff" * 475  # whose body would be 2^32 messages
    for frame in (b"", b"\x00", noise, noise * 20, good[:20], good[:-1], good + b"\x00"):
        client.send_frame(frame)
    client.send([shapes.Ask(8)])
    burst = wire.receive(server, lambda b: b.clients)
    assert [messages for _, messages in burst.clients] == [[shapes.Ask(8)]]
    assert server.counters()["malformed_frames"] == 7
    wire.send_to_peer_port(1, noise)
    wire.until(server, lambda: server.counters()["malformed_frames"] == 8)
    assert sum("malformed" in line and "client port" in line for line in log_lines) == 1
    assert sum("malformed" in line and "peer port" in line for line in log_lines) == 1


def foreign_frames(shapes: Any) -> list[tuple[str, bytes]]:
    def frame(sender: int, **changes: Any) -> bytes:
        codec: FrameCodec[Any, Any] = shapes.peer_codec(sender, **changes)
        return codec.encode([shapes.Ping(1)])

    return [
        ("protocol version 9", frame(2, protocol_version=9)),
        ("belongs to cluster 0000000000000005", frame(2, identity=5)),
        ("belongs to no cluster yet", frame(2, identity=0)),
        ("server 64 is not expected", frame(64)),
        ("a client is not expected", frame(0)),
        ("server 1 is not expected", frame(1)),
    ]


@pytest.mark.parametrize("case", range(6))
def test_foreign_frames_at_the_peer_port(
    wire: Any, shapes: Any, log_lines: list[str], case: int
) -> None:
    servers = wire.servers(2)
    reason, frame = foreign_frames(shapes)[case]
    wire.send_to_peer_port(1, frame)
    burst = wire.until(servers[1], lambda: servers[1].counters()["foreign_frames"] == 1)
    assert not burst
    assert [line for line in log_lines if reason in line], log_lines
    wire.introduce(servers[2], servers[1], 1)


def test_foreign_frames_at_the_client_port(wire: Any, shapes: Any, log_lines: list[str]) -> None:
    server = wire.servers(2)[1]
    client = wire.client(1)
    client.send_frame(shapes.client_codec(protocol_version=9).encode([shapes.Ask(1)]))
    client.send_frame(shapes.client_codec(identity=5).encode([shapes.Ask(1)]))
    client.send_frame(shapes.peer_codec(2).encode([shapes.Ping(1)]))
    client.send_frame(shapes.client_codec(identity=shapes.identity).encode([shapes.Ask(2)]))
    burst = wire.receive(server, lambda b: b.clients)
    assert [messages for _, messages in burst.clients] == [[shapes.Ask(2)]]
    assert server.counters()["foreign_frames"] == 3
    assert sum("foreign" in line for line in log_lines) == 1


def test_oversized_frames_are_refused(wire: Any, shapes: Any, log_lines: list[str]) -> None:
    server = wire.servers(1, max_frame_bytes=100_000)[1]
    client = wire.client(1)
    client.send([shapes.Ask(1, bytes(150_000))])
    client.send([shapes.Ask(2)])
    burst = wire.receive(server, lambda b: b.clients)
    assert [messages for _, messages in burst.clients] == [[shapes.Ask(2)]]
    assert server.counters()["oversized_frames"] == 1
    assert any("oversized" in line for line in log_lines)


def test_bursts_are_bounded_and_no_port_starves(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2, EndpointOptions(burst_frames=10, peer_queue_frames=1000))
    wire.introduce(servers[2], servers[1], 1)
    client = wire.client(1)
    client.send([shapes.Ask(0)])
    wire.receive(servers[1], lambda b: b.clients)
    for number in range(100):
        servers[2].send(1, [shapes.Ping(number)])
        client.send([shapes.Ask(number)])
    bursts = []

    def keep(burst: Any) -> None:
        assert len(burst.peers) <= 10
        assert len(burst.clients) <= 10
        bursts.append(burst)

    give_up = time.monotonic() + 60
    while sum(len(b.peers) + len(b.clients) for b in bursts) < 200:
        assert time.monotonic() < give_up
        servers[1].wait(0.05, wire.wake_fd)
        keep(servers[1].receive())
    numbers = [messages[0].number for b in bursts for _, messages in b.clients]
    assert numbers == list(range(100))


def test_bursts_are_bounded_in_bytes(wire: Any, shapes: Any) -> None:
    server = wire.servers(1, EndpointOptions(burst_bytes=50_000))[1]
    client = wire.client(1)
    for number in range(20):
        client.send([shapes.Ask(number, bytes(20_000))])
    taken = 0
    give_up = time.monotonic() + 60
    while taken < 20:
        assert time.monotonic() < give_up
        burst = server.receive()
        assert len(burst.clients) <= 3
        taken += len(burst.clients)
        if not burst:
            server.wait(0.05, wire.wake_fd)


def test_wait_ends_at_its_timeout_and_by_the_wake_descriptor(wire: Any) -> None:
    server = wire.servers(1)[1]
    begun = time.monotonic()
    server.wait(0.05, wire.wake_fd)
    assert 0.045 <= time.monotonic() - begun < 60
    read, write = os.pipe()
    try:
        timer = threading.Timer(0.05, os.write, (write, b"x"))
        timer.start()
        server.wait(None, read)
        assert os.read(read, 1) == b"x"
    finally:
        timer.join()
        os.close(read)
        os.close(write)


def test_wait_ends_when_a_frame_arrives(wire: Any, shapes: Any) -> None:
    server = wire.servers(1)[1]
    client = wire.client(1)
    timer = threading.Timer(0.05, client.send, ([shapes.Ask(1)],))
    timer.start()
    give_up = time.monotonic() + 60
    while not (burst := server.receive()):
        assert time.monotonic() < give_up
        server.wait(None, wire.wake_fd)
    timer.join()
    assert burst.clients[0][1] == [shapes.Ask(1)]
    for _ in range(2):  # it sleeps again, and does not spin
        begun = time.monotonic()
        server.wait(0.02, wire.wake_fd)
    assert time.monotonic() - begun >= 0.018


def test_ports_on_an_ipv6_address(shapes: Any) -> None:
    if not socket.has_ipv6 or not _has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    endpoint: ZmqEndpoint[Any, Any, Any] = ZmqEndpoint(
        peer_address="tcp://[::1]:*",
        client_address="tcp://[::1]:*",
        peers={},
        peer_codec=shapes.peer_codec(1),
        client_codec=shapes.server_codec(1),
    )
    try:
        assert endpoint.peer_address.startswith("tcp://[::1]:")
    finally:
        endpoint.close()


def _has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 1)) != errno.EADDRNOTAVAIL
