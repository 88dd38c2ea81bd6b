"""What one receiver, client, frame or burst may take of an endpoint (docs/design/overload.md)."""

from __future__ import annotations

import math
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq

from paxon.transport import EndpointOptions, intake
from paxon.transport.endpoint import _Port
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
    socket.sent[-1].done = True
    frames.prune()
    assert not (frames.bytes or frames._waiting or frames._bytes), "nobody is remembered"


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


def test_a_port_that_gave_one_frame_a_burst_is_not_asked_for_another_after_a_sleep(
    zmq_wire: Any, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = zmq_wire.servers(1)[1], zmq_wire.client(1)
    server._look_at = math.inf  # (when connections are looked at, it is asked)
    asked: list[bool] = []
    asks = _Port.has_more

    def ask(port: Any) -> bool:
        asked.append(True)
        return asks(port)

    monkeypatch.setattr(_Port, "has_more", ask)

    def take(frames: int, *, slept: bool) -> list[int]:
        taken: list[int] = []
        while len(taken) < frames:
            server.wait(10.0, zmq_wire.wake_fd)
            server._slept = slept
            taken += [messages[0].number for _, messages in server.receive().clients]
        return taken

    for number in range(40):
        client.send([shapes.Ask(number)])
        assert take(1, slept=True) == [number]
    assert len(asked) == 16
    for number in range(6):
        client.send([shapes.Ask(number)])
    assert take(6, slept=False) == [*range(6)]  # who does not sleep has more to do
    assert len(asked) > 16


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


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")
def test_a_client_is_held_for_what_is_large_and_once() -> None:
    now = 1000.0
    brake = Brake(lambda: now)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        socket.create_connection(listener.getsockname()),
    ):
        (one, _), (other, _) = listener.accept(), listener.accept()
        with one, other:
            frame, of_other = FromDescriptor(one.fileno()), FromDescriptor(other.fileno())
            brake.hold(frame, 1 << 20)  # type: ignore[arg-type]
            assert brake.look_at is None, "clients come by something else"
            brake.port = listener.getsockname()[1]
            brake.hold(frame, (64 << 10) - 1)  # type: ignore[arg-type]
            assert brake.look_at is None
            brake.hold(frame, 64 << 10)  # type: ignore[arg-type]
            assert brake.look_at == 1000.5
            now = 1000.25
            brake.hold(frame, 1 << 20)  # type: ignore[arg-type]  # (it was there before)
            now = 1000.375
            brake.hold(of_other, 1 << 20)  # type: ignore[arg-type]
            assert brake.look_at == 1000.5
            now = 1000.5
            brake.look()
            assert brake.look_at == 1000.875


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


class Brought:
    """Connections with descriptors that nobody has, what each has brought, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.resident = 1000.0, 100 * MIB
        self.bytes: dict[int, int] = {}
        self.asked = 0
        """How often somebody looked what one had brought."""
        monkeypatch.setattr(intake, "_received", self._received)
        monkeypatch.setattr(intake, "_resident", lambda: self.resident)
        ledger = Ledger(lambda: self.now)
        self.unread = Unread(128 * MIB, ledger, "port", lambda: self.now)

    def _received(self, descriptor: int) -> int:
        self.asked += 1
        return self.bytes.get(descriptor, 0)

    def begin(self, *sizes: int) -> list[int]:
        """So many connections that have brought so much; their descriptors."""
        begun = [(1 << 20) + len(self.bytes) + n for n in range(len(sizes))]
        for descriptor, size in zip(begun, sizes, strict=True):
            self.bytes[descriptor] = size
            self.unread.begun(descriptor)
        return begun

    def give(self, descriptor: int, size: int) -> None:
        """A message of this connection is received."""
        self.unread._open[descriptor].taken += size

    def look(self, seconds: float = 0.0, *, taken_all: bool = True) -> list[int]:
        """Look for so long; the descriptors of those that were not ended."""
        for _ in range(max(1, round(2 * seconds))):
            self.now += 0.5 if seconds else 0.0
            self.unread.look(taken_all)
        return sorted(self.unread._open)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> Brought:
    return Brought(monkeypatch)


def test_who_makes_a_server_grow_is_ended_and_nobody_with_less(brought: Brought) -> None:
    """A large message that comes slowly was taken for the cause if it was looked at first."""
    slow, gives, guilty = brought.begin(8 * MIB, 0, 0)
    unread = brought.unread
    for _ in range(20):
        brought.now += 0.1
        brought.bytes[guilty] += 2 * MIB
        brought.resident += 32 * 2 * MIB
        brought.bytes[gives] += 30 * MIB  # and most of it is a message that it gave
        brought.give(gives, 26 * MIB)
        if guilty not in brought.look():
            break
    assert sorted(unread._open) == [slow, gives]
    assert unread._open[gives].unread > brought.bytes[guilty]
    for _ in range(9):  # what it had is given back, and nobody else is to blame
        brought.now += 0.1
        brought.bytes[slow] += MIB // 2
        brought.look()
    assert slow in unread._open


def test_what_a_server_grew_by_before_somebody_had_much_is_nobodys(brought: Brought) -> None:
    one, other = brought.begin(MIB, 0)
    brought.look(1.0)
    brought.give(one, MIB)
    brought.look(0.5)
    brought.resident += 900 * MIB
    brought.bytes[one] += MIB
    assert brought.look(5.0) == [one, other]


def test_a_server_may_grow_by_twice_what_is_unread_and_half_a_gigabyte(brought: Brought) -> None:
    """Until that has lasted, and longer where messages that are whole may wait as well."""
    one, other = brought.begin(100 * MIB, 2 * MIB)
    brought.look(0.5)
    brought.resident += 512 * MIB + 2 * 102 * MIB - 1000
    assert brought.look(5.0) == [one, other]
    for descriptor in (one, other):
        brought.give(descriptor, 1)  # the last that they give
    assert brought.look(0.5) == [one, other]
    brought.resident += 2 * MIB
    assert brought.look(0.5, taken_all=False) == [one, other]
    assert brought.look(0.5, taken_all=False) == [other]


def test_who_brings_more_than_a_message_takes_is_ended_once_all_messages_were_received(
    brought: Brought,
) -> None:
    much, more = brought.begin(128 * MIB, 1000)
    brought.give(more, 200 * MIB)  # (each message counts for more than its bytes)
    brought.look()
    brought.bytes[more] += 128 * MIB + 1
    assert brought.look(5.0, taken_all=False) == [much, more], "it may be messages that are whole"
    assert brought.look() == [much]


def test_of_too_much_that_is_unread_whoever_gives_nothing_is_ended(brought: Brought) -> None:
    """One after another, until what is left is not too much."""
    gives, first, second = brought.begin(100 * MIB, 100 * MIB, 50 * MIB)
    assert brought.look(30.0) == [gives, first, second], "all of it is not too much"
    brought.bytes[second] += 50 * MIB
    for descriptor in (first, second):
        brought.give(descriptor, 1)  # the last that they give
    for _ in range(20):
        assert brought.look(0.5) == [gives, first, second]
        brought.bytes[gives] += MIB
        brought.give(gives, MIB)
    assert brought.look(0.5) == [gives, second]
    assert brought.look(30.0) == [gives, second]


def test_a_server_that_stood_still_blames_nobody(brought: Brought) -> None:
    """What was to come waits before its port: it is given time anew."""
    all_three = brought.begin(*[100 * MIB] * 3)
    brought.look(5.0)
    brought.now += 60.0
    assert brought.look() == all_three
    assert brought.look(9.5) == all_three
    assert brought.look(0.5) == all_three[1:]


def test_who_was_idle_for_long_has_as_much_time_for_what_it_sends_then(brought: Brought) -> None:
    idle, *_ = brought.begin(0, 100 * MIB, 100 * MIB)
    brought.look(30.0)
    brought.bytes[idle] += 100 * MIB
    assert idle in brought.look(0.5)
    assert len(brought.unread._open) == 2


def test_the_more_is_unread_the_shorter_is_the_patience(brought: Brought) -> None:
    """Unless that is because the server is too busy to receive messages."""
    six = brought.begin(*[100 * MIB] * 6)
    assert brought.look(9.5, taken_all=False) == six
    for descriptor in six:
        brought.give(descriptor, 1)
    assert brought.look(1.0) == six
    assert len(brought.look(0.5)) == 5
    assert len(brought.look(8.5)) == 5, "no longer twice too much"


def test_who_has_ended_is_to_blame_for_nothing(brought: Brought) -> None:
    """Neither is it remembered by any name, nor does its part count."""
    most, less = brought.begin(100 * MIB, 50 * MIB)
    for descriptor in (most, less):
        brought.unread.meet(b"%d" % descriptor, FromDescriptor(descriptor))  # type: ignore[arg-type]
    brought.look(0.5)
    brought.unread.ended(most)
    assert list(brought.unread.known) == [b"%d" % less]
    brought.resident += 700 * MIB
    assert brought.look(1.0) == []


def test_a_message_is_put_down_to_the_connection_that_it_came_by(brought: Brought) -> None:
    unread = brought.unread
    (one,) = brought.begin(1000)
    first = unread.meet(b"first", FromDescriptor(one))  # type: ignore[arg-type]
    assert unread.known == {b"first": first} and first is unread._open[one]
    second = unread.meet(b"second", FromDescriptor(one))  # type: ignore[arg-type]
    assert unread.known == {b"second": second}, "the first one's number is another's by now"
    unsaid = unread.meet(b"old", FromDescriptor(-1))  # type: ignore[arg-type]
    assert unsaid not in unread._open.values() and b"old" not in unread.known
    brought.bytes[one + 1] = 700
    late = unread.meet(b"late", FromDescriptor(one + 1))  # type: ignore[arg-type]
    assert (late.taken, unread._open[one + 1]) == (700, late), "all so far counts as received"


def test_few_connections_are_looked_at_until_one_has_much(brought: Brought) -> None:
    brought.begin(*[0] * 1024)

    def looked_at() -> int:
        brought.asked = 0
        brought.look()
        return brought.asked

    assert looked_at() == 4 + 1024 // 256
    for descriptor in brought.bytes:
        brought.bytes[descriptor] = MIB
    assert looked_at() == 8
    assert looked_at() == 16 * 8


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
