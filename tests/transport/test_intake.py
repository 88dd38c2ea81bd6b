"""What one receiver, client, frame or burst may take of an endpoint (docs/design/overload.md)."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq

from paxon.transport import EndpointOptions, intake
from paxon.transport.intake import Brake, Ledger, Share, Unread
from paxon.transport.outgoing import LargeFrames
from tests.waiting import wait_until

MIB = 1 << 20


class Tracker:
    """Tells whether ZeroMQ has let go of a frame."""

    def __init__(self) -> None:
        self.done = False


class Socket:
    """Takes frames and lets go of them when told."""

    def __init__(self) -> None:
        self.sent: list[Tracker] = []

    def send(self, _frame: zmq.Frame, _flags: int, **_options: bool) -> Tracker:
        self.sent.append(Tracker())
        return self.sent[-1]


def send(frames: LargeFrames, socket: Any, receiver: str, size: int) -> bool:
    """Send a frame if there is room for it."""
    if not frames.has_room(receiver, size):
        return False
    frames.send(socket, receiver, bytearray(size), 0)
    return True


def test_what_waits_for_one_receiver_is_bounded() -> None:
    frames, socket = LargeFrames(4 * MIB), Socket()
    assert [send(frames, socket, "slow", MIB) for _ in range(6)] == [True] * 4 + [False] * 2
    assert send(frames, socket, "other", 6 * MIB)  # alone, a larger one may wait
    assert not send(frames, socket, "other", 1)
    socket.sent[0].done = True
    assert [send(frames, socket, "slow", MIB) for _ in range(2)] == [True, False]


def test_what_waits_for_all_receivers_together_is_bounded() -> None:
    frames, socket = LargeFrames(4 * MIB, 10 * MIB), Socket()
    sent = [send(frames, socket, f"client {n}", MIB) for n in range(20)]
    assert sent == [True] * 10 + [False] * 10
    assert frames.bytes == 10 * MIB
    for tracker in socket.sent[:3]:  # of any of them
        tracker.done = True
    sent = [send(frames, socket, f"another {n}", MIB) for n in range(4)]
    assert sent == [True] * 3 + [False]
    for tracker in socket.sent:
        tracker.done = True
    assert send(frames, socket, "the last", 11 * MIB)  # for nothing else waits
    frames.prune()
    assert frames.bytes == 11 * MIB


@pytest.mark.parametrize(
    ("frames", "messages", "spent"),
    [(31, 1, False), (32, 1, True), (3, 1000, True), (2, 1000, False)],
)
def test_a_burst_ends_after_so_many_frames_of_one_client_or_messages_of_all(
    frames: int, messages: int, spent: bool
) -> None:
    share = Share(EndpointOptions())
    assert [share.is_spent(b"client", messages) for _ in range(frames)][-1] == spent
    others = Share(EndpointOptions())
    found = [others.is_spent(b"client %d" % n, messages) for n in range(frames)]
    assert found[-1] == (spent and messages > 1)


def test_a_burst_takes_only_so_many_frames_of_one_client(wire: Any, shapes: Any) -> None:
    server = wire.servers(1, EndpointOptions(client_burst_frames=4))[1]
    client = wire.client(1)
    for number in range(12):
        client.send([shapes.Ask(number)])
    bursts: list[int] = []

    def taken() -> int:
        return sum(bursts)

    def note(burst: Any) -> bool:
        bursts.append(len(burst.clients) - taken())
        return len(burst.clients) == 12

    wire.receive(server, note)
    assert max(bursts) <= 4


def test_a_clients_frame_of_too_many_messages_is_refused_undecoded(wire: Any, shapes: Any) -> None:
    server = wire.servers(1, EndpointOptions(client_frame_messages=100))[1]
    client = wire.client(1)
    client.send([shapes.Ask(number) for number in range(101)])
    client.send([shapes.Ask(number) for number in range(100)])
    burst = wire.receive(server, lambda burst: burst.clients)
    assert [len(messages) for _, messages in burst.clients] == [100]
    assert burst.refused == [burst.clients[0][0]]
    assert server.counters()["oversized_frames"] == 1
    assert server.counters()["messages_received"] == 100


def test_a_servers_frame_of_too_many_messages_is_refused_undecoded(wire: Any, shapes: Any) -> None:
    servers = wire.servers(2, EndpointOptions(peer_frame_messages=100))
    wire.introduce(servers[1], servers[2], 2)
    servers[1].send(2, [shapes.Ping(number) for number in range(101)])
    servers[1].send(2, [shapes.Ping(number) for number in range(100)])
    burst = wire.receive(servers[2], lambda burst: burst.peers)
    assert [len(messages) for _, _, messages in burst.peers] == [100]
    assert burst.refused == []  # nobody to be told
    assert servers[2].counters()["oversized_frames"] == 1


@pytest.mark.parametrize("kind", ["ignored", "of too many messages"])
def test_what_is_thrown_away_keeps_nobody_waiting(tcp_wire: Any, shapes: Any, kind: str) -> None:
    """A burst takes a frame of every client, and then no more of what it throws away."""
    limit = 100 if kind == "of too many messages" else 4096
    server = tcp_wire.servers(1, EndpointOptions(client_frame_messages=limit))[1]
    flooder, other = tcp_wire.client(1), tcp_wire.client(1)
    flooder.send([shapes.Ask(0)])
    token = tcp_wire.receive(server, lambda burst: burst.clients).clients[0][0]
    server.ignore({token} if kind == "ignored" else ())
    flood = [shapes.Ask(number) for number in range(101)]
    for _ in range(200):
        flooder.send(flood)
    other.send([shapes.Ask(7)])
    before = server.counters()["frames_received"]
    bursts = 0

    def note(burst: Any) -> bool:
        nonlocal bursts
        bursts += 1
        assert server.counters()["frames_received"] - before <= 3 * bursts
        return bool(burst.clients) and server.counters()["frames_received"] - before == 201

    burst = tcp_wire.receive(server, note)
    assert burst.clients == [(burst.clients[0][0], [shapes.Ask(7)])]


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")
@pytest.mark.parametrize("kind", ["ignored", "of too many messages"])
def test_who_sends_much_that_is_thrown_away_is_not_listened_to_for_a_moment(
    tcp_wire: Any, shapes: Any, kind: str
) -> None:
    """TCP keeps the rest back, others are heard, and later so is this one."""
    limit = 100 if kind == "of too many messages" else 1 << 20
    server = tcp_wire.servers(1, EndpointOptions(client_frame_messages=limit))[1]
    now = [1000.0]
    server._brake._monotonic = lambda: now[0]
    flooder, other = tcp_wire.client(1), tcp_wire.client(1)
    flooder.send([shapes.Ask(0)])
    token = tcp_wire.receive(server, lambda burst: burst.clients).clients[0][0]
    ignored = {token} if kind == "ignored" else set()
    server.ignore(ignored)
    flood = [shapes.Ask(number) for number in range(40_000)]
    flooder.send(flood)
    tcp_wire.receive(server, lambda _burst: server._brake.look_at is not None)
    assert server._brake.look_at == 1000.5
    ignored.clear()
    flooder.send([shapes.Ask(1)])
    for number in range(5):
        other.send([shapes.Ask(number)])
        burst = tcp_wire.receive(server, lambda burst: burst.clients)
        assert burst.clients == [(burst.clients[0][0], [shapes.Ask(number)])]
        assert burst.clients[0][0] != token
        server.reply(token, [shapes.Answer(number)])  # what it is told it hears all the same
        assert flooder.receive(10.0) == [shapes.Answer(number)]
    now[0] += 0.6
    burst = tcp_wire.receive(server, lambda burst: burst.clients)
    assert burst.clients == [(token, [shapes.Ask(1)])]
    assert server._brake.look_at is None


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")
def test_what_many_clients_send_to_a_busy_server_waits_with_them(
    tcp_wire: Any, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a bound TCP takes in no more of most of them; nothing is lost, and nobody is ended."""
    monkeypatch.setattr(intake, "_MUCH", 10_000)
    monkeypatch.setattr(intake, "_MOST_UNREAD", 500_000)
    server = tcp_wire.servers(1)[1]
    clients = [tcp_wire.client(1) for _ in range(8)]
    for client in clients:
        for number in range(20):
            client.send([shapes.Ask(number, bytes(50_000))])
    unread = server._clients.unread

    def held() -> int:
        return sum(connection.held for connection in unread._open.values())

    def look() -> bool:
        server._keep_house()  # by which it hears of connections
        unread.look(False)
        return held() == len(clients) - intake._GO_ON

    wait_until(look)
    burst = tcp_wire.receive(server, lambda burst: len(burst.clients) == 160)
    by_token: dict[bytes, list[int]] = {}
    for token, (ask,) in burst.clients:
        by_token.setdefault(token, []).append(ask.number)
    assert list(by_token.values()) == [list(range(20))] * 8
    tcp_wire.until(server, lambda: held() == 0)
    assert server.counters()["disconnects"] == 0


def test_none_but_a_clients_connection_is_ever_held() -> None:
    """libzmq may have closed it, and its number may be anything by now."""
    brake = Brake(lambda: 1000.0)
    with socket.create_server(("127.0.0.1", 0)) as listener, Path(os.devnull).open() as file:
        brake.port = listener.getsockname()[1]
        for descriptor in (listener.fileno(), file.fileno(), -1, 1 << 20):
            brake.hold(FromDescriptor(descriptor), 1 << 20)  # type: ignore[arg-type]
            assert brake.look_at is None
        with socket.create_connection(listener.getsockname()) as dialled:
            brake.hold(FromDescriptor(dialled.fileno()), 1 << 20)  # type: ignore[arg-type]
            assert brake.look_at is None  # its own end has another port


class FromDescriptor:
    """A frame that came by the connection of this descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def get(self, _option: object) -> int:
        return self.descriptor


def test_who_makes_a_server_grow_is_ended_and_nobody_with_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large message that comes slowly was taken for the cause if it was looked at first."""
    now, resident = 0.0, 100 * MIB
    slow, gives, guilty = 1 << 20, (1 << 20) + 1, (1 << 20) + 2  # descriptors that nobody has
    brought = {slow: 8 * MIB, gives: 0, guilty: 0}
    monkeypatch.setattr(intake, "_received", brought.__getitem__)
    monkeypatch.setattr(intake, "_resident", lambda: resident)
    unread = Unread(128 * MIB, Ledger(lambda: now), "port", lambda: now)
    for descriptor in brought:
        unread.begun(descriptor)
    for step in range(1, 20):
        now = step / 10
        brought[guilty] += 2 * MIB
        resident += 32 * 2 * MIB
        brought[gives] += 30 * MIB  # and most of it is a message that it gave
        unread._open[gives].taken += 26 * MIB
        unread.look(taken_all=True)
        if guilty not in unread._open:
            break
    assert list(unread._open) == [slow, gives] and unread._open[gives].unread > brought[guilty]
    for _ in range(9):  # what it had is given back, and nobody else is to blame
        now += 0.1
        brought[slow] += MIB // 2
        unread.look(taken_all=True)
    assert slow in unread._open


def test_clients_that_are_held_are_let_go_each_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what has a client's number by now, and is none, is left alone."""
    freed: list[int] = []
    monkeypatch.setattr(intake, "take_all_packets", freed.append)
    now = 1.5
    brake = Brake(lambda: now)
    brake._held.update({-1: 1.0, -2: 2.0})  # descriptors that nobody has
    brake.look()
    assert (brake.look_at, list(brake._held)) == (2.0, [-2])
    now = 2.0
    brake.look()
    assert (brake.look_at, brake._held, freed) == (None, {}, [])
