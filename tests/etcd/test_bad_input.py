"""What strangers send: refused or served, and everybody else is served on."""

from __future__ import annotations

import contextlib
import gc
import random
import select
import socket
import struct
from typing import Any

import grpc
import hpack
import pytest

from paxon import Client
from paxon.kvstore.errors import ClusterUnavailable
from paxon.kvstore.etcd.front import _Asked
from paxon.kvstore.etcd.grpc import GrpcCall
from paxon.kvstore.etcd.http2 import PREFACE, Http2, Stream, Tally
from paxon.kvstore.etcd.messages import message
from tests.etcd.test_streams import WatchStream
from tests.etcd.tools import Gateway, Grpc
from tests.soak import sized
from tests.waiting import wait_until

CALLS = (GrpcCall, Stream, _Asked)
HEAD = hpack.Encoder().encode(
    [(":method", "POST"), (":scheme", "http"), (":path", "/etcdserverpb.KV/Range"),
     (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")]
)  # fmt: skip


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload
    )


def connections(gateway: Gateway) -> list[Any]:
    return list(gateway.served._listener.connections)


def head(stream: int, flags: int = 4) -> bytes:
    return frame(1, flags, stream, HEAD)


def until_closed(address: str, data: bytes, answers: int = 1000) -> bytes:
    """What a server says to this until it closes the connection, or has given so many answers."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as link:
        link.settimeout(20)
        said = b""
        with contextlib.suppress(ConnectionError):
            link.sendall(data)
            while said.count(b"grpc-status") < answers and (part := link.recv(1 << 16)):
                said += part
        return said


START = PREFACE + frame(4, 0, 0)
ENDED: dict[str, bytes] = {
    "a frame that is too long": START + b"\xff\xff\xff\0\0\0\0\0\0",
    "a request with an even number": START + head(2),
    "a request with the number of another": START + head(3) + head(1),
    "data of no request": START + frame(0, 0, 5, b"x"),
    "a header block that is none": START + frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "a block that is interrupted": START + frame(1, 0, 1, HEAD) + frame(6, 0, 0, b"8" * 8),
    "a block without an end": START + frame(1, 0, 1, HEAD) + frame(9, 0, 1, b"\0" * 16000) * 3,
    "a continuation of nothing": START + frame(9, 4, 1, HEAD),
    "a promise": START + frame(5, 4, 1, b"\0\0\0\2" + HEAD),
    "a ping of a wrong length": START + frame(6, 0, 0, b"7" * 7),
    "settings of a stream": START + frame(4, 0, 1),
    "settings of a wrong length": START + frame(4, 0, 0, b"12345"),
    "a window that is too large": START + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "a window that is opened by nothing": START + frame(8, 0, 0, b"\0\0\0\0"),
    "a reset of no request": START + frame(3, 0, 9, b"\0\0\0\0"),
    "more padding than frame": START + frame(1, 12, 1, b"\xff" + HEAD),
    "requests that are taken back": START
    + b"".join(head(n) + frame(3, 0, n, b"\0\0\0\x08") for n in range(1, 4001, 2)),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "noise": b"\0\1\2\3\4\5" * 100,
    "a header without an end": b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 100_000,
}


@pytest.mark.parametrize("what", ENDED)
def test_who_breaks_the_rules_is_sent_away(gateway: Gateway, client: Grpc, what: str) -> None:
    said = until_closed(gateway.address, ENDED[what])
    assert b"Traceback" not in said
    assert client.kv("Range", key=b"x").header.revision


def grpc_status(said: bytes) -> str:
    """The status in the trailers: they use no table, so they can be read as they are."""
    name = b"\x0bgrpc-status"
    at = said.index(name) + len(name)
    return said[at + 1 : at + 1 + said[at]].decode()


@pytest.mark.parametrize(
    ("what", "data", "status"),
    [
        ("a message that is too long", frame(0, 0, 1, b"\0\xff\xff\xff\xff"), "8"),
        ("a message that is no protobuf", frame(0, 1, 1, b"\0\0\0\0\2\xff\xff"), "13"),
        ("a compressed message", frame(0, 1, 1, b"\1\0\0\0\0"), "13"),
        ("no message", frame(0, 1, 1), "13"),
        ("half a message", frame(0, 1, 1, b"\0\0\0\0\x09abc"), "13"),
        ("two messages", frame(0, 1, 1, b"\0\0\0\0\0" * 2), "13"),
    ],
)
def test_a_wrong_request_is_refused_and_the_next_is_served(
    gateway: Gateway, what: str, data: bytes, status: str
) -> None:
    good = frame(0, 1, 3, b"\0\0\0\0\3\x0a\1x")
    said = until_closed(gateway.address, START + head(1) + data + head(3) + good, answers=2)
    first, last = sorted([grpc_status(said), grpc_status(said[said.index(b"grpc-status") + 11 :])])
    assert (first, last) == ("0", status), what


def test_http_1_0_and_a_browser_are_answered(gateway: Gateway) -> None:
    said = until_closed(gateway.address, b"GET /version HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200") and b"etcdserver" in said
    said = until_closed(
        gateway.address,
        b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nConnection: close\r\n\r\n",
    )
    assert said.startswith(b"HTTP/1.1 404")


def test_who_speaks_no_http_does_not_wait_for_an_answer(gateway: Gateway) -> None:
    for first in (b"\xff" + bytes(8) + b"\x7f", b"\x16\x03\x01\x02\x00\x01"):  # ZeroMQ's, TLS's
        assert until_closed(gateway.address, first) == b""
    told = pytest.raises(ClusterUnavailable, match="it is no server of Paxon")
    with Client(gateway.address) as client, told:
        client.get("key", timeout=1.5)


def test_noise_of_all_kinds_stops_nobody(gateway: Gateway, client: Grpc) -> None:
    source = random.Random(14)
    seeds = [*ENDED.values(), START + head(1) + frame(0, 1, 1, b"\0\0\0\0\3\x0a\1x")]
    host, _, port = gateway.address.rpartition(":")
    for _ in range(sized(150, 20_000)):
        data = bytearray(source.choice(seeds)[:4000])
        for _ in range(source.randrange(1, 6)):
            data[source.randrange(len(data))] = source.randrange(256)
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((host, int(port)), 20) as link,
        ):
            link.sendall(data)
    assert client.kv("Range", key=b"x").header.revision


def test_huge_lengths_are_refused_or_waited_for_and_never_held(
    gateway: Gateway, client: Grpc
) -> None:
    post = b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\n"
    assert b" 400 " in until_closed(gateway.address, post + b"Content-Length: -1\r\n\r\n")
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
        link.sendall(post + b"Content-Length: 99999999999999999999\r\n\r\n" + b"z" * 8_000_000)
        assert client.kv("Range", key=b"x").header.revision
        held = [len(each._http1._body) for each in connections(gateway) if each._http1 is not None]
        assert max(held) <= 2 * (2 << 20)
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    for size in (b"ffffffffffffffffffffffff", b"-1", b"x"):
        assert b" 400 " in until_closed(gateway.address, chunked + size + b"\r\n{}")
    body = b"y" * 6_000_000  # more than a message may have: taken, told so, and not kept
    said = until_closed(
        gateway.address,
        post + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    )
    assert b" 429 " in said and b"larger than max" in said
    assert client.kv("Range", key=b"x").header.revision


def test_what_is_taken_back_is_counted_once(gateway: Gateway) -> None:
    """A client that could send more each time would hold as much as it likes at last."""
    asked = b"\0\0\0\0\x40" + b"\x0a\x3e" + b"k" * 62
    link = socket.create_connection(("127.0.0.1", gateway.port), 20)
    link.settimeout(20)
    data = START
    for n in range(1, 901, 2):
        data += head(n) + frame(0, 0, n, asked) + frame(3, 0, n, b"\0\0\0\x08")
    link.sendall(data + frame(6, 0, 0, b"12345678"))
    said = b""
    while b"12345678" not in said:
        said += link.recv(1 << 16)
    (connection,) = (
        each for each in connections(gateway)
        if each._transport is not None
        and each._transport.get_extra_info("peername") == link.getsockname()
    )  # fmt: skip
    speaks = connection._speaks
    assert speaks is not None
    assert speaks._room + speaks._consumed == 16 << 20
    link.close()


def test_calls_and_watches_of_all_clients_have_bounds(
    gateway: Gateway, client: Grpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = []
    try:
        with monkeypatch.context() as patch:
            patch.setattr("paxon.kvstore.etcd.http2.MOST_CALLS", 3)
            patch.setattr("paxon.kvstore.etcd.watch._MOST_WATCHES", 5)
            for _ in range(3):
                streams.append(stream := WatchStream(client))
                for key in (b"1", b"2"):
                    stream.create(key=key)
                wait_until(lambda s=stream: len(s.answers) == 2)  # type: ignore[misc]
            assert [each.canceled for each in streams[-1].answers] == [False, True]
            assert "5 watches here already" in streams[-1].answers[-1].cancel_reason
            with pytest.raises(grpc.RpcError):  # (told so often that gRPC gives up)
                client.call("KV/Range", message("RangeRequest")(key=b"x"), "RangeResponse", 1)
        assert client.kv("Range", key=b"x").header.revision
    finally:
        for stream in streams:
            stream.close()
    wait_until(lambda: gateway.served._listener.tally.calls == 0, "none is left")


class Answering:
    """Answers each request with the same."""

    value = b"v" * 10

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def data(self, data: bytes) -> None:
        self._stream.consumed(len(data))

    def end(self) -> None:
        self._stream.answer(b"\x88", self.value, b"\x88")

    def aborted(self) -> None: ...

    def writable(self) -> None: ...


def test_windows_and_settings_by_the_thousand_cost_no_look_at_each_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few bytes must not be worth a walk over all answers that wait."""
    looks = 0
    go_on = Stream.go_on

    def counted(stream: Stream) -> bool:
        nonlocal looks
        looks += 1
        return go_on(stream)

    def begin_with(window: int) -> bytes:
        return frame(4, 0, 0, struct.pack(">HI", 4, window))

    def window(stream: int, by: int) -> bytes:
        return frame(8, 0, stream, struct.pack(">I", by))

    speaks = Http2(Answering, lambda: None, lambda: None, Tally())
    streams = range(1, 2001, 2)
    speaks.receive(START + begin_with(0) + b"".join(head(n, 5) for n in streams))
    assert len(speaks.blocked) == len(streams)
    monkeypatch.setattr(Stream, "go_on", counted)
    speaks.receive(window(0, 1) * 5000)
    assert looks == 0
    speaks.receive((begin_with(1) + begin_with(0)) * 1000 + begin_with(1))
    assert looks == len(streams)
    assert len(speaks.blocked) == len(streams)
    speaks.receive(b"".join(window(n, 9) for n in streams))
    assert looks == 2 * len(streams)
    assert (len(speaks.blocked), speaks.streams, speaks.blocked_bytes) == (0, 0, 0)
    assert speaks.outgoing.count(b"v") == 10 * len(streams)


LONG = b"v" * (2 << 20)


def test_a_long_answer_goes_piece_by_piece_as_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not copied for each byte that a window opens, nor given to the socket at once."""
    monkeypatch.setattr(Answering, "value", LONG)
    speaks = Http2(Answering, lambda: None, lambda: None, Tally())
    speaks.receive(START + head(1, 5))
    (stream,) = speaks.blocked.values()
    for number in (0, 1):
        speaks.receive(frame(8, 0, number, struct.pack(">I", 1)))
    assert stream._pending is not None
    assert stream._pending[0].obj is LONG
    speaks.outgoing.clear()
    speaks.paused = True
    for number in (0, 1):
        speaks.receive(frame(8, 0, number, struct.pack(">I", 1 << 30)))
    assert not speaks.outgoing, "the socket takes no more"
    speaks.resumed()
    came = 1 << 16
    while speaks.outgoing:
        assert len(speaks.outgoing) < 300 << 10
        came += speaks.outgoing.count(b"v")
        speaks.outgoing.clear()
        speaks.sent()
    assert (came, speaks.streams, speaks.blocked_bytes) == (len(LONG), 0, 0)


OWED = 12 << 20
"""Bytes that one who does not read may be owed at most, besides what the sockets hold."""


def test_who_reads_no_answers_is_owed_a_bounded_number_of_bytes(
    gateway: Gateway, client: Grpc
) -> None:
    for n in range(4):
        client.kv("Put", key=b"json/%d" % n, value=b"v" * 1_000_000)
    body = b'{"key": "anNvbi8=", "range_end": "anNvbjA="}'
    request = b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body), body,
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
        link.setblocking(False)
        for _ in range(40):
            with contextlib.suppress(BlockingIOError, ConnectionError):
                link.send(request)
            client.kv("Range", key=b"json/", range_end=b"json0")  # time in which it is answered
            assert gateway.owed() < OWED


def test_a_watch_that_is_not_read_is_owed_little_and_misses_nothing(
    gateway: Gateway, client: Grpc
) -> None:
    events, size = 60, 100_000
    create = b"\0\0\0\0\x08" + b"\x0a\x06\x0a\x04idle"
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
        link.settimeout(20)
        path = hpack.Encoder().encode(
            [(":method", "POST"), (":scheme", "http"), (":path", "/etcdserverpb.Watch/Watch"),
             (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")]
        )  # fmt: skip
        link.sendall(START + frame(1, 4, 1, path) + frame(0, 0, 1, create))
        said = b""
        while b"application/grpc" not in said:  # it is there
            said += link.recv(1 << 16)
        for _ in range(events):
            client.kv("Put", key=b"idle", value=b"v" * size)
            assert gateway.owed() < OWED
        windows = struct.pack(">I", 1 << 30)
        link.sendall(frame(8, 0, 0, windows) + frame(8, 0, 1, windows))
        while said.count(b"v" * 100) < events * size // 110:
            said += link.recv(1 << 20)


def test_who_takes_a_long_answer_slowly_is_served_meanwhile(gateway: Gateway, client: Grpc) -> None:
    for n in range(4):
        client.kv("Put", key=b"slow/%d" % n, value=b"v" * 1_000_000)
    body = b"\0\0\0\0\x0e\x0a\5slow/\x12\5slow0"
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
        link.sendall(START + b"".join(head(n) + frame(0, 1, n, body) for n in (1, 3, 5)))
        wait_until(lambda: gateway.owed() > 11 << 20, "it is owed much")
        link.sendall(frame(8, 0, 0, b"\0\x10\0\0") + frame(8, 0, 1, b"\0\0\0\1"))
        link.sendall(head(7) + frame(0, 1, 7, b"\0\0\0\0\3\x0a\1x"))
        said = b""
        while b"grpc-status" not in said:
            said += link.recv(1 << 16)
        assert grpc_status(said) == "0"


def test_what_was_made_for_who_has_left_is_free_without_garbage_collection(
    gateway: Gateway, client: Grpc
) -> None:
    """Hundreds of megabytes would else stay until enough else happens."""
    for n in range(4):
        client.kv("Put", key=b"slow/%d" % n, value=b"v" * 1_000_000)
    long, short = b"\0\0\0\0\x0e\x0a\5slow/\x12\5slow0", b"\0\0\0\0\x08\x0a\6slow/1"
    asked = START + b"".join(
        head(n) + frame(0, 1, n, long if n & 2 else short) for n in range(1, 20, 2)
    )
    gc.collect()  # (of other tests)
    gc.disable()
    try:
        for owed in (0, 20 << 20):
            with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
                link.sendall(asked)
                wait_until(lambda n=owed: gateway.owed() >= n)  # type: ignore[misc]
        wait_until(lambda: not any(type(each) in CALLS for each in gc.get_objects()), "free", 20)
    finally:
        gc.enable()


def test_who_opens_no_window_is_refused_more_work(gateway: Gateway, client: Grpc) -> None:
    """It asks again and again for four megabytes."""
    for n in range(4):
        client.kv("Put", key=b"slow/%d" % n, value=b"v" * 1_000_000)
    body = b"\0\0\0\0\x0e\x0a\5slow/\x12\5slow0"
    host, _, port = gateway.address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as link:
        link.settimeout(20)
        link.sendall(START)
        said, number = b"", 1
        while b"too many requests" not in said:
            assert number < 200, "it goes on working for who does not read"
            link.sendall(head(number) + frame(0, 1, number, body))
            number += 2
            client.kv("Range", key=b"slow/", range_end=b"slow0")  # time in which it is answered
            while select.select([link], [], [], 0)[0]:
                said += link.recv(1 << 16)
    assert client.kv("Range", key=b"x").header.revision


def _hangs_up_later(kind: str) -> bytes:
    """What begins a call that lasts: two watches, or the renewal of a lease."""
    if kind == "grpc":
        path = hpack.Encoder().encode(
            [(":method", "POST"), (":scheme", "http"), (":path", "/etcdserverpb.Watch/Watch"),
             (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")]
        )  # fmt: skip
        creates = b"".join(b"\0\0\0\0\x09" + b"\x0a\x07\x0a\x05left%d" % n for n in (0, 1))
        return START + frame(1, 4, 1, path) + frame(0, 0, 1, creates)
    creates = b'{"create_request": {"key": "bGVmdDA="}}{"create_request": {"key": "bGVmdDE="}}'
    body = creates if kind == "watch" else b'{"ID": "1"}'
    head = f"POST /v3/{kind} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}"
    return head.encode() + b"\r\n" + body + b"\r\n"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("kind", ["watch", "grpc", "lease/keepalive"])
def test_who_hangs_up_in_mid_answer_holds_nothing_any_more(
    gateway: Gateway, client: Grpc, kind: str, reset: bool
) -> None:
    """Its watches end at the servers, too."""
    watches = gateway.served._front.kv._core.watches._watches
    wait_until(lambda: gateway.is_idle() and not watches)
    watched = 0 if "lease" in kind else 2
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as link:
        link.sendall(_hangs_up_later(kind))
        link.recv(1)
        wait_until(lambda: gateway.served._listener.tally.calls == 1 or kind != "grpc")
        wait_until(lambda: len(watches) == watched)
        while watched and not gateway.owed():  # the sockets hold some
            client.kv("Put", key=b"left0", value=b"v" * 500_000)
        if reset:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: gateway.is_idle() and not watches and not gateway.owed())
