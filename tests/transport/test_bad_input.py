"""Strangers at both ports: raw bytes, cut-off connections, frames beyond every limit."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from paxon.transport import (
    EndpointOptions,
    MalformedFrame,
    TransportError,
    ZmqEndpoint,
    binding,
    intake,
)
from paxon.transport.binding import in_ephemeral_range
from paxon.transport.intake import COMPLAINT_INTERVAL, Ledger


def call(address: str) -> socket.socket:
    """A plain socket to a ZeroMQ address."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(rest)
        return caller
    host, _, port = rest.rpartition(":")
    return socket.create_connection((host, int(port)))


RAW = {
    "random": bytes((7 * i * i + 3) % 251 for i in range(400)),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5,
    "zeros": bytes(300),
    "all ones": b"\xff" * 300,
    "greeting then noise": b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48) + b"\x99" * 64,
    "two bytes": b"\xff\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
@pytest.mark.parametrize("raw", RAW)
def test_raw_bytes_count_as_a_failed_handshake(
    zmq_wire: Any, shapes: Any, log_lines: list[str], raw: str, port: int
) -> None:
    servers = zmq_wire.servers(2)
    # A finished handshake does not say whose it is: no other may be under way (`PortMonitor`).
    zmq_wire.introduce(servers[2], servers[1], 1)
    with call(zmq_wire.addresses[1][port]) as caller:
        try:
            caller.sendall(RAW[raw])
        except (BrokenPipeError, ConnectionResetError):
            assert RAW[raw]  # The server may have hung up already.
    # Some of it may pass for a connection and a frame of ZeroMQ's oldest protocol: refused as well.
    zmq_wire.until(servers[1], lambda: servers[1].counters()["handshake_failures"] == 1)
    if raw in ("two bytes", "nothing"):  # as of a command that was done before it had shaken hands
        assert not any(" port: it did not speak" in line for line in log_lines)
    zmq_wire.introduce(servers[2], servers[1], 1)
    client = zmq_wire.client(1)
    client.send([shapes.Ask(1)])
    assert zmq_wire.receive(servers[1], lambda b: b.clients).clients[0][1] == [shapes.Ask(1)]


def test_random_bytes_over_many_connections(tcp_wire: Any, shapes: Any) -> None:
    server = tcp_wire.servers(1)[1]
    for _ in range(50):
        with call(tcp_wire.addresses[1][1]) as caller:
            caller.sendall(os.urandom(100))
    tcp_wire.until(server, lambda: server.counters()["handshake_failures"] == 50)


@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
@pytest.mark.parametrize("raw", sorted(RAW.keys() - {"random", "http"}))
def test_a_connection_that_never_shakes_hands_is_closed(
    tcp_wire: Any, log_lines: list[str], raw: str, port: int
) -> None:
    server = tcp_wire.servers(1, EndpointOptions(handshake_timeout=0.1))[1]
    with call(tcp_wire.addresses[1][port]) as caller:
        caller.sendall(RAW[raw])
        tcp_wire.until(server, lambda: server.counters()["handshake_failures"] == 1)
        said = ("peer port", "client port")[port] + ": it did not speak ZeroMQ's protocol"
        assert any(said in line for line in log_lines)
        caller.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while caller.recv(1000):
                pass


def test_good_clients_are_not_counted_as_failures(tcp_wire: Any, shapes: Any) -> None:
    server = tcp_wire.servers(1)[1]
    with call(tcp_wire.addresses[1][1]):  # A silent one beside them.
        for number in range(5):
            client = tcp_wire.client(1)
            client.send([shapes.Ask(number)])
            tcp_wire.receive(server, lambda b: b.clients)
            client.close()
        tcp_wire.until(server, lambda: server.counters()["disconnects"] == 5)
        assert server.counters()["handshake_failures"] == 0
    tcp_wire.until(server, lambda: server.counters()["handshake_failures"] == 1)
    assert server.counters()["disconnects"] == 5


@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
def test_a_frame_beyond_the_hard_limit_ends_its_connection(
    zmq_wire: Any, shapes: Any, port: int
) -> None:
    server = zmq_wire.servers(1, max_frame_bytes=100_000)[1]
    stranger = zmq_wire.context.socket(zmq.DEALER)
    stranger.connect(zmq_wire.addresses[1][port])
    stranger.send(bytes(500_000))
    zmq_wire.until(server, lambda: server.counters()["disconnects"] >= 1)
    stranger.close(0)
    assert server.counters()["frames_received"] == 0
    client = zmq_wire.client(1)
    client.send([shapes.Ask(1)])
    zmq_wire.receive(server, lambda b: b.clients)


def clock_of(server: Any) -> Callable[[float], None]:
    """Stops a server's clock; what is returned has it go on, and the server with it, in seconds."""
    now = 1000.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        for _ in range(round(seconds / 0.1)):
            now += 0.1
            server.receive()

    for each in (server, server._peers.unread, server._clients.unread):
        each._monotonic = lambda: now
    return pass_time


def introduced(address: str) -> socket.socket:
    """A connection on which messages may follow."""
    stranger = call(address)
    stranger.sendall(b"\xff" + bytes(8) + b"\x7f\x03\0NULL" + bytes(16 + 1 + 31))
    assert stranger.recv(64, socket.MSG_WAITALL)
    stranger.sendall(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER")
    return stranger


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TCP does not tell")
@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
def test_the_beginnings_of_many_long_messages_are_bounded(
    tcp_wire: Any, shapes: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a message's right; too many, of which nothing comes, are ended, and no others."""
    monkeypatch.setattr(intake, "_MUCH", 10_000)
    monkeypatch.setattr(intake, "_MOST_UNREAD", 500_000)
    server = tcp_wire.servers(1)[1]
    unread = (server._peers, server._clients)[port].unread
    pass_time = clock_of(server)
    with ExitStack() as strangers:
        frame = b"\x02" + (100_000).to_bytes(8, "big") + bytes(60_000)

        def begin() -> socket.socket:
            stranger = strangers.enter_context(introduced(tcp_wire.addresses[1][port]))
            stranger.sendall(frame)
            return stranger

        for _ in range(8):
            begin()
        tcp_wire.until(server, lambda: unread._all >= 480_000, lambda: pass_time(0.1))
        pass_time(30.0)
        assert server.counters()["disconnects"] == 0
        last = begin()
        tcp_wire.until(server, lambda: server.counters()["disconnects"], lambda: pass_time(0.1))
        pass_time(20.0)
        assert server.counters()["disconnects"] == 1, "what the others have is not too much"
        last.sendall(bytes(40_000))
        tcp_wire.until(server, lambda: server.counters()["malformed_frames"])
    client = tcp_wire.client(1)
    client.send([shapes.Ask(1)])
    tcp_wire.receive(server, lambda b: b.clients)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TCP does not tell")
@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
def test_parts_without_end_end_their_connection(tcp_wire: Any, shapes: Any, port: int) -> None:
    """libzmq keeps them all, until the last one comes."""
    server = tcp_wire.servers(1, max_frame_bytes=100_000)[1]
    client = tcp_wire.client(1)

    def ended() -> bool:
        client.send([shapes.Ask(1, bytes(50_000))])  # brings more in all, and stays
        tcp_wire.receive(server, lambda b: b.clients)
        return bool(server.counters()["disconnects"])

    part = b"\x03" + (50_000).to_bytes(8, "big") + bytes(50_000)
    with introduced(tcp_wire.addresses[1][port]) as stranger:
        stranger.settimeout(0.05)
        for _ in range(500):
            with suppress(OSError):
                stranger.sendall(part)
            if ended():
                break
    ended()
    counters = server.counters()
    assert (counters["disconnects"], counters["oversized_frames"]) == (1, 1)


@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
def test_large_frames_by_zeromqs_oldest_protocol_are_refused(
    zmq_wire: Any, shapes: Any, port: int
) -> None:
    """They do not say by which connection they came."""
    server = zmq_wire.servers(1)[1]
    frame = b"\xff" + (100_001).to_bytes(8, "big") + bytes(1 + 100_000)
    with call(zmq_wire.addresses[1][port]) as stranger:
        stranger.sendall(b"\x01\x00" + 3 * frame)
        zmq_wire.until(server, lambda: server.counters()["malformed_frames"] == 3)
    client = zmq_wire.client(1)
    client.send([shapes.Ask(1)])
    zmq_wire.receive(server, lambda b: b.clients)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TCP does not tell")
@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
def test_parts_without_content_end_their_connection(
    tcp_wire: Any, shapes: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bytes of TCP each, and 64 of libzmq: what they take is seen by what the process takes."""
    size = intake._resident()
    assert size > 1 << 20
    monkeypatch.setattr(intake, "_resident", lambda: size)
    server = tcp_wire.servers(1)[1]
    unread, pass_time = (server._peers, server._clients)[port].unread, clock_of(server)
    with (
        introduced(tcp_wire.addresses[1][port]) as stranger,
        introduced(tcp_wire.addresses[1][port]),
    ):
        stranger.sendall(1_000_000 * b"\x01\x00")
        tcp_wire.until(server, lambda: unread._large, lambda: pass_time(0.1))
        size += 500 << 20
        pass_time(2.0)
        assert server.counters()["disconnects"] == 0, "that may be for something else"
        size += 100 << 20
        tcp_wire.until(server, lambda: server.counters()["disconnects"], lambda: pass_time(0.1))
        counters = server.counters()
    assert (counters["disconnects"], counters["oversized_frames"]) == (1, 1)
    client = tcp_wire.client(1)
    client.send([shapes.Ask(1)])
    tcp_wire.receive(server, lambda b: b.clients)


@pytest.mark.parametrize("port", [0, 1], ids=["peer port", "client port"])
def test_extra_parts_do_not_shift_what_follows(zmq_wire: Any, shapes: Any, port: int) -> None:
    servers = zmq_wire.servers(2)
    good = (
        shapes.peer_codec(2).encode([shapes.Ping(1)])
        if port == 0
        else shapes.client_codec().encode([shapes.Ask(1)])
    )
    stranger = zmq_wire.context.socket(zmq.DEALER)
    stranger.connect(zmq_wire.addresses[1][port])
    for parts in ([good, good], [good, b"", good], [b"", good], [good] * 9):
        stranger.send_multipart(parts)
    stranger.send(good)
    burst = zmq_wire.receive(servers[1], lambda b: b.peers or b.clients)
    stranger.close(0)
    assert len(burst.peers) + len(burst.clients) == 1
    assert servers[1].counters()["malformed_frames"] == 4


def test_a_router_identity_chosen_by_a_client_is_just_a_token(zmq_wire: Any, shapes: Any) -> None:
    server = zmq_wire.servers(1)[1]
    first, second = (zmq_wire.context.socket(zmq.DEALER) for _ in range(2))
    codec = shapes.client_codec()
    for number, client in enumerate((first, second)):
        client.setsockopt(zmq.IDENTITY, b"the same")
        client.connect(zmq_wire.addresses[1][1])
        client.send(codec.encode([shapes.Ask(number)]))
        if number == 0:
            burst = zmq_wire.receive(server, lambda b: b.clients)
            assert burst.clients == [(b"the same", [shapes.Ask(0)])]
    server.reply(b"the same", [shapes.Answer(5)])
    assert first.poll(5000)
    assert codec.decode(first.recv())[2] == [shapes.Answer(5)]
    assert not second.poll(50)
    first.close(0)
    second.close(0)


def test_large_frames_for_a_stopped_reader_are_bounded_in_bytes(tcp_wire: Any, shapes: Any) -> None:
    options = EndpointOptions(
        peer_queue_frames=1000, large_frame_bytes=300_000, large_queue_bytes=3_500_000
    )
    servers = tcp_wire.servers(1, options)
    # A peer that shakes hands and then reads nothing, over a plain queue of one frame.
    sink = tcp_wire.context.socket(zmq.ROUTER)
    sink.setsockopt(zmq.RCVHWM, 1)
    sink.setsockopt(zmq.RCVBUF, 100_000)
    sink.setsockopt(zmq.LINGER, 0)
    sink.bind("tcp://127.0.0.1:*")
    servers[1].connect(2, sink.getsockopt_string(zmq.LAST_ENDPOINT))
    tcp_wire.until(
        servers[1],
        lambda: servers[1].counters()["frames_sent"],
        each=lambda: servers[1].send(2, [shapes.Ping(0)]),
    )
    dropped = servers[1].counters()["dropped_frames"]
    sent = 0
    while servers[1].counters()["dropped_frames"] == dropped:
        servers[1].send(2, [shapes.Ping(sent, bytes(1_000_000))])
        sent += 1
        assert sent < 100, "the bound in bytes does not hold"
    assert sent > 3  # Three frames fit for sure.
    numbers: list[int] = []
    while len(numbers) < sent - 1:
        assert sink.poll(5000)
        frame = sink.recv_multipart()[1]
        numbers += [ping.number for ping in shapes.peer_codec(2).decode(frame)[2] if ping.payload]
    assert numbers == list(range(sent - 1))

    def send_and_read() -> None:
        servers[1].send(2, [shapes.Ping(0, bytes(1_000_000))])
        if sink.poll(5):
            sink.recv_multipart()

    tcp_wire.until(
        servers[1], lambda: servers[1].counters()["frames_sent"] > sent + 5, each=send_and_read
    )
    sink.close()


def test_last_replies_leave_before_the_end(zmq_wire: Any, shapes: Any) -> None:
    patient = EndpointOptions(
        linger=5.0, client_queue_frames=1000, client_large_queue_bytes=64 << 20
    )
    server = zmq_wire.servers(1, patient)[1]
    client = zmq_wire.client(1)
    client.send([shapes.Ask(1)])
    token = zmq_wire.receive(server, lambda b: b.clients).clients[0][0]
    for number in range(300):  # More than the kernel takes at once.
        server.reply(token, [shapes.Answer(number, bytes(100_000))])
    server.close()
    numbers: list[int] = []
    while len(numbers) < 300:
        answers = client.receive(5.0)
        assert answers is not None
        numbers += [answer.number for answer in answers]
    assert numbers == list(range(300))


def test_close_does_not_wait_long_for_a_client_that_does_not_read(
    tcp_wire: Any, shapes: Any
) -> None:
    server = tcp_wire.servers(1, EndpointOptions(linger=0.1))[1]
    client = tcp_wire.client(1)
    client.socket.setsockopt(zmq.RCVHWM, 1)
    client.send([shapes.Ask(1)])
    token = tcp_wire.receive(server, lambda b: b.clients).clients[0][0]
    for number in range(100):
        server.reply(token, [shapes.Answer(number, bytes(1_000_000))])
    begun = time.monotonic()
    server.close()
    assert time.monotonic() - begun < 60  # else it waits for ever


# --- addresses -----------------------------------------------------------------------------------


def open_at(shapes: Any, address: str, peers: dict[int, str] | None = None) -> Any:
    return ZmqEndpoint(
        peer_address="tcp://127.0.0.1:*",
        client_address=address,
        peers=peers or {},
        peer_codec=shapes.peer_codec(1),
        client_codec=shapes.server_codec(1),
    )


def test_an_address_in_use(zmq_wire: Any, shapes: Any) -> None:
    zmq_wire.servers(1)
    address = zmq_wire.addresses[1][1]
    with pytest.raises(TransportError) as caught:
        open_at(shapes, address)
    assert str(caught.value).startswith(f"cannot open the client port at {address}")
    assert str(caught.value).endswith(
        ": it is in use: stop the program that listens there or choose another port"
    )
    assert ("(which any outgoing connection may take)" in str(caught.value)) is in_ephemeral_range(
        address
    )
    client = zmq_wire.client(1)
    client.send([shapes.Ask(1)])  # The first one must not have lost its address.


def test_a_socket_file_left_behind_is_no_obstacle(tmp_path: Path, shapes: Any) -> None:
    path = tmp_path / "left"
    path.write_text("something else")
    with pytest.raises(TransportError, match="a file of that name is there, which is no socket"):
        open_at(shapes, f"ipc://{path}")
    assert path.read_text() == "something else"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    open_at(shapes, f"ipc://{path}").close()


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("tcp://127.0.0.1:99999", "tcp://host:port"),
        ("tcp://127.0.0.1", "tcp://host:port"),
        ("tcp://127.0.0.1:-1", "tcp://host:port"),
        ("tcp://127.0.0.1:http", "tcp://host:port"),
        ("udp://127.0.0.1:5000", "tcp://host:port"),
        ("127.0.0.1:5000", "tcp://host:port"),
        ("ipc://", "ipc://path"),
        ("", "tcp://host:port"),
        ("tcp://192.0.2.1:7101", "correct the host"),
        ("tcp://nowhere.invalid:7101", "see to the name service"),
        ("ipc:///nowhere/at/all/socket", "create it first"),
        ("ipc:///tmp/" + "x" * 200, "shorter path"),
    ],
)
def test_addresses_that_cannot_be_used(
    shapes: Any, monkeypatch: pytest.MonkeyPatch, address: str, advice: str
) -> None:
    monkeypatch.setattr(binding, "AWAITED_SECONDS", 0.0)
    with pytest.raises(TransportError) as caught:
        open_at(shapes, address)
    assert address in str(caught.value)
    assert advice in str(caught.value)


def test_a_peer_address_that_cannot_be_used(shapes: Any) -> None:
    with pytest.raises(TransportError, match="cannot connect to nonsense"):
        open_at(shapes, "tcp://127.0.0.1:*", {2: "nonsense"})


# --- log lines -----------------------------------------------------------------------------------


def test_log_lines_are_rate_limited_per_kind_and_peer(log_lines: list[str]) -> None:
    now = 100.0
    ledger = Ledger(lambda: now)
    for _ in range(1000):
        ledger.refuse(MalformedFrame("noise"), "a")
    ledger.refuse(MalformedFrame("noise"), "b")
    assert log_lines == [
        "Refused a frame (malformed) from a: noise\n",
        "Refused a frame (malformed) from b: noise\n",
    ]
    now += COMPLAINT_INTERVAL
    ledger.refuse(MalformedFrame("noise"), "a")
    assert log_lines[2:] == [
        "Refused a frame (malformed) from a: noise (999 more like it were not logged)\n"
    ]
    ledger.refuse(MalformedFrame("noise"), "a")
    assert len(log_lines) == 3
    now += COMPLAINT_INTERVAL
    ledger.refuse(MalformedFrame("noise"), "a")
    assert "(1 more like it" in log_lines[3]
    assert ledger.counters.malformed_frames == 1004


def test_log_lines_of_very_many_peers_are_bounded(log_lines: list[str]) -> None:
    ledger = Ledger(lambda: 0.0)
    for number in range(5000):
        ledger.refuse(MalformedFrame("noise {with braces}"), f"peer {number}")
    assert 256 <= len(log_lines) <= 260
    assert len(ledger._recent) <= 260


def test_peers_beyond_some_share_a_line_until_others_have_been_quiet(
    log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes up names fills neither the log nor memory."""
    monkeypatch.setattr(intake, "_REMEMBERED_PEERS", 2)
    now = 100.0
    ledger = Ledger(lambda: now)
    for peer in "abcd":
        ledger.refuse(MalformedFrame("noise"), peer)
    assert [line.split()[5] for line in log_lines] == ["a:", "b:", "c:"]
    now += COMPLAINT_INTERVAL
    for peer in "defg":
        ledger.refuse(MalformedFrame("noise"), peer)
    assert [line.split()[5] for line in log_lines[3:]] == ["d:", "e:", "f:"]


def test_what_is_wrong_with_a_link_is_said_once_when_it_has_lasted(log_lines: list[str]) -> None:
    """A server that is started again is away for a moment, too."""
    now = 100.0
    ledger = Ledger(lambda: now)

    def said(*seconds: float, wrong: str = "it is refused") -> list[str]:
        nonlocal now
        before = len(log_lines)
        for now in seconds:  # noqa: B007 (the ledger's clock)
            ledger.lasts("server 2", wrong)
        return log_lines[before:]

    refused = ["No link to server 2: it is refused\n"]
    assert said(100.0, 102.9) == []
    assert said(103.0, 104.0, 200.0) == refused
    assert said(200.0, 202.9, wrong="no such host") == []
    assert said(203.0, wrong="no such host") == ["No link to server 2: no such host\n"]
    assert said(204.0, wrong="") == []  # there is a link
    assert said(300.0, 302.9) == []
    assert said(303.0) == refused
