"""The load on etcd: its messages, its frames, and the loop, against a server of a few lines."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import hpack
import pytest

from paxon.bench.harness.errors import BenchError
from paxon.bench.harness.load import Job, open_client_load
from paxon.bench.harness.workloads import Workload, WorkloadData
from paxon.bench.peers.etcd import PersistentWriter
from paxon.bench.peers.etcd_load import PUT, STATUS, call, open_etcd_load, put_payload
from paxon.bench.peers.grpc_wire import MAX_FRAME_BYTES, GrpcConnection, frame_message
from paxon.kvstore.etcd.messages import message

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """By the letter of RFC 9113, 4.1."""
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">L", stream) + payload
    )


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame; what is cut off at the end is left out."""
    place = 0
    while place + 9 <= len(data):
        size = int.from_bytes(data[place : place + 3], "big")
        start = place + 9
        stream = struct.unpack(">L", data[place + 5 : start])[0]
        yield data[place + 3], data[place + 4], stream, data[start : start + size]
        place = start + size


def answer(stream: int, message: bytes) -> bytes:
    """What gRPC sends for a call that worked."""
    prefix = b"\x00" + struct.pack(">L", len(message))
    return (
        frame(HEADERS, 0x4, stream, b"\x88")
        + frame(DATA, 0, stream, prefix + message)
        + frame(HEADERS, 0x5, stream, b"\xbf")
    )


def fresh() -> GrpcConnection:
    """A connection that has sent its greeting."""
    connection = GrpcConnection("/a.B/C", "somewhere:1")
    connection.outgoing.clear()
    return connection


# --- frames --------------------------------------------------------------------------------------


def test_the_greeting_comes_first_and_opens_the_windows() -> None:
    greeting = bytes(GrpcConnection("/a.B/C", "somewhere:1").outgoing)
    assert greeting.startswith(PREFACE)
    kinds = [kind for kind, *_ in frames(greeting.removeprefix(PREFACE))]
    assert kinds == [SETTINGS, WINDOW_UPDATE]


def test_a_request_is_headers_and_data_and_ends_its_stream() -> None:
    connection = fresh()
    payloads = [frame_message(b"one"), frame_message(b"two")]
    assert [connection.request(payload) for payload in payloads] == [1, 3]
    sent = list(frames(bytes(connection.outgoing)))
    assert [(kind, flags, stream) for kind, flags, stream, _ in sent] == [
        (HEADERS, 0x4, 1), (DATA, 0x1, 1), (HEADERS, 0x4, 3), (DATA, 0x1, 3),
    ]  # fmt: skip
    assert sent[1][3] == b"\x00\x00\x00\x00\x03one"


def test_later_headers_refer_to_the_first() -> None:
    connection = fresh()
    connection.request(frame_message(b""))
    connection.request(frame_message(b""))
    first, _, later, _ = (payload for *_, payload in frames(bytes(connection.outgoing)))
    for text in (b"\x06/a.B/C", b"\x0bsomewhere:1", b"\x10application/grpc", b"\x02te\x08trailers"):
        assert text in first
    assert len(later) == 6  # a byte each, which names a place in the server's table
    server = hpack.Decoder()
    assert server.decode(first) == server.decode(later)


def test_an_answer_is_found_however_it_is_cut() -> None:
    data = answer(1, b"first") + answer(3, b"")
    for cut in range(1, len(data)):
        connection = fresh()
        ended = connection.feed(data[:cut]) + connection.feed(data[cut:])
        assert ended == [(1, b"first"), (3, b"")]


def test_a_refused_call_has_no_answer() -> None:
    connection = fresh()
    trailers_only = frame(HEADERS, 0x5, 1, b"\x88")
    reset = frame(HEADERS, 0x4, 3, b"\x88") + frame(RST_STREAM, 0, 3, bytes(4))
    assert connection.feed(trailers_only + reset) == [(1, None), (3, None)]


def test_a_reset_call_has_no_answer_even_after_data() -> None:
    data = frame(DATA, 0, 1, bytes(5)) + frame(RST_STREAM, 0, 1, bytes(4))
    assert fresh().feed(data) == [(1, None)]


def test_pings_and_settings_are_acknowledged_once() -> None:
    connection = fresh()
    connection.feed(frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, b""))
    connection.feed(frame(PING, 1, 0, b"12345678") + frame(SETTINGS, 1, 0, b""))
    assert list(frames(bytes(connection.outgoing))) == [
        (PING, 1, 0, b"12345678"), (SETTINGS, 1, 0, b""),
    ]  # fmt: skip


def test_requests_wait_for_the_servers_window() -> None:
    connection = fresh()
    payload = frame_message(bytes(16_000))
    while connection.room_for(payload):
        connection.request(payload)
    sent = sum(len(data) for kind, _, _, data in frames(bytes(connection.outgoing)) if kind == DATA)
    assert 65_535 - len(payload) < sent <= 65_535
    connection.feed(frame(WINDOW_UPDATE, 0, 1, struct.pack(">L", 60_000)))
    assert not connection.room_for(payload), "that was one stream's window"
    connection.feed(frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", 60_000)))
    assert connection.room_for(payload)


def test_a_message_that_needs_two_frames_is_refused() -> None:
    assert len(frame_message(bytes(MAX_FRAME_BYTES - 5))) == MAX_FRAME_BYTES
    with pytest.raises(ValueError, match="do not fit"):
        frame_message(bytes(MAX_FRAME_BYTES - 4))


def test_a_servers_goodbye_is_an_error_with_its_reason() -> None:
    with pytest.raises(BenchError, match="too_many_pings"):
        fresh().feed(frame(GOAWAY, 0, 0, bytes(8) + b"too_many_pings"))
    with pytest.raises(BenchError, match="does not speak HTTP/2"):
        fresh().feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


# --- the loop ------------------------------------------------------------------------------------


class FakeEtcd(threading.Thread):
    """Answers every call on every connection, but refuses those whose number is in `refused`."""

    def __init__(self, message: bytes = b"", refused: frozenset[int] = frozenset()) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.message = message
        self.refused = refused
        self.requests: list[bytes] = []
        """Messages of all calls."""
        self.most_at_once = 0
        self.connections = 0
        self.start()

    def run(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def serve(self, link: socket.socket) -> None:
        data = b""
        with link, link.makefile("rb") as stream:
            assert stream.read(len(PREFACE)) == PREFACE
            link.sendall(frame(SETTINGS, 0, 0, b""))
            while True:
                try:
                    chunk = stream.read1(1 << 16)
                except ConnectionResetError:  # a client that left with something unread
                    return
                if not chunk:
                    return
                data += chunk
                if sum(9 + len(payload) for *_, payload in frames(data)) != len(data):
                    continue
                calls = [(number, body) for kind, _, number, body in frames(data) if kind == DATA]
                data = b""
                if calls:
                    with suppress(BrokenPipeError):  # who waited for it has gone
                        self.answer(link, calls)

    def answer(self, link: socket.socket, calls: list[tuple[int, bytes]]) -> None:
        self.most_at_once = max(self.most_at_once, len(calls))
        self.requests += [body[5:] for _, body in calls]
        size = sum(len(body) for _, body in calls)
        link.sendall(
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", size))
            + b"".join(self.reply(number) for number, _ in calls)
        )

    def reply(self, stream: int) -> bytes:
        if stream in self.refused:
            return frame(HEADERS, 0x5, stream, b"\x88")
        return answer(stream, self.message)


@pytest.fixture
def fake() -> Iterator[FakeEtcd]:
    server = FakeEtcd(b"\x0a\x02\x10\x07")
    yield server
    server.listener.close()


def put_of(request: bytes) -> Any:
    """What a write says."""
    return message("PutRequest").FromString(request)


def job(fake: FakeEtcd, workload: Workload) -> Job:
    return Job(workload, [fake.address], True, 0.0, 1.0, 1, open_client_load)


def test_one_call_returns_its_answer(fake: FakeEtcd) -> None:
    assert call(fake.address, STATUS).header.member_id == 7


def test_a_call_that_is_refused_or_reaches_nobody_is_an_error(fake: FakeEtcd) -> None:
    fake.refused = frozenset({1})
    with pytest.raises(BenchError, match=f"refused {PUT}"):
        call(fake.address, PUT)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(BenchError, match="cannot be reached"):
        call(f"127.0.0.1:{port}", PUT)


def test_writes_keep_as_many_under_way_as_asked_for(fake: FakeEtcd) -> None:
    workload = Workload(name="w", outstanding=8, keys=20, value_bytes=3)
    loop, close = open_etcd_load("one", job(fake, workload))
    outcome = loop.run(0.2)
    close()
    assert outcome.failed == 0
    assert outcome.operations == len(outcome.latencies) > 20, "the keys are gone through again"
    assert outcome.unfinished == 8
    assert outcome.operations + outcome.unfinished == len(fake.requests)
    assert fake.most_at_once <= 8
    value = WorkloadData(workload, 1).value
    assert {put_of(request).value for request in fake.requests} == {value}


def test_a_second_stretch_begins_with_nothing_under_way(fake: FakeEtcd) -> None:
    loop, close = open_etcd_load("one", job(fake, Workload(name="w", outstanding=4, keys=20)))
    first, second = loop.run(0.05), loop.run(0.05)
    close()
    answered = first.operations + second.operations + first.unfinished
    assert answered <= len(fake.requests) <= answered + second.unfinished


def test_reads_are_of_keys_that_were_written(fake: FakeEtcd) -> None:
    loop, close = open_etcd_load(
        "one", job(fake, Workload(name="r", kind="get", outstanding=2, keys=30))
    )
    filled = len(fake.requests)
    written = {put_of(request).key for request in fake.requests}
    assert (filled, len(written)) == (30, 30)
    loop.run(0.1)
    close()
    read = [message("RangeRequest").FromString(request) for request in fake.requests[filled:]]
    assert {request.key for request in read} <= written
    assert not any(request.serializable for request in read)


def test_refused_operations_are_counted_and_do_not_stop_the_load(fake: FakeEtcd) -> None:
    fake.refused = frozenset({3, 7})
    loop, close = open_etcd_load("one", job(fake, Workload(name="w", outstanding=1, keys=5)))
    outcome = loop.run(0.2)
    close()
    assert outcome.failed == 2
    assert outcome.first_error == "etcd refused an operation"
    answered = outcome.operations + outcome.failed
    assert answered <= len(fake.requests) <= answered + outcome.unfinished


def test_the_writer_of_the_failovers_goes_on_to_the_next_member(fake: FakeEtcd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        dead = f"127.0.0.1:{silent.getsockname()[1]}"
        writer = PersistentWriter([dead, fake.address])
        writer.put(put_payload("key", b"value"))
        assert set(fake.requests) == {put_payload("key", b"value")[5:]}
        fake.refused = frozenset({3})  # the next call: a member without a leader says so
        writer.put(put_payload("key", b"again"))
        writer.close()
    again = put_payload("key", b"again")[5:]
    assert fake.requests[-1] == again
    assert fake.requests.count(again) >= 2  # (a busy machine answers late, and is asked once more)


def test_with_a_connection_each_every_one_has_one_call_under_way(fake: FakeEtcd) -> None:
    loop, close = open_etcd_load("each", job(fake, Workload(name="w", outstanding=5, keys=20)))
    outcome = loop.run(0.2)
    close()
    assert outcome.failed == 0
    assert outcome.unfinished == 5
    assert fake.most_at_once == 1
    assert fake.connections == 5
    assert outcome.operations + outcome.unfinished == len(fake.requests)
